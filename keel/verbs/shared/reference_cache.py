"""Log-probabilities of the reference on disk, by the content of what they are of: taken once for a model and its data, then read by every
run of them that shares the folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from keel.core.errors import RunError
from keel.learner.inference import LocalInference
from keel.runs.durable import write_atomic
from keel.types import Unit
from keel.verbs.shared.learners import AnyLearner
from keel.verbs.shared.session import Session

log = logging.getLogger("keel")
BranchTensors = list[tuple[Tensor, ...]]
_FORMAT = 1


class ReferenceCache:
    """Files in ``folder``, one for each set of units. ``learner`` is the reference (still); ``model_digest`` is that of its weights."""

    def __init__(self, folder: Path, learner: LocalInference | AnyLearner, model_digest: str) -> None:
        self.folder, self.learner, self.model_digest = folder, learner, model_digest

    def logprobs(self, units: Sequence[Unit]) -> BranchTensors:
        """What ``learner.logprobs(units)`` gives, read where it was taken before. A file that is not whole is made again.

        Raises RunError when the folder cannot be written.
        """
        file = self.folder / f"{_key(self.model_digest, self.learner.whole(), units)}.safetensors"
        found = _read(file, units)
        if found is not None:
            log.info("reference log-probabilities of %d units read from %s", len(units), file)
            return found
        taken = self.learner.logprobs(units)
        flat_N = torch.cat([branch_T.float() for row in taken for branch_T in row])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(file, save({"logprobs": flat_N}, {"sha256": _checksum(flat_N)}))
        except OSError as error:
            raise RunError(f"{file} cannot be written: {error.strerror}", "give another reference_cache, or free space") from None
        return taken


def cache_of(session: Session, folder: str, learner: LocalInference | AnyLearner, digest: str = "") -> ReferenceCache:
    """Log-probabilities of the starting weights, or of another model with this ``digest``: taken before the first step and kept on disk, so
    that no second model is held while training: in ``folder``, or the run's own when it is empty."""
    return ReferenceCache(Path(folder or session.run.path / "reference"), learner, digest or session.run.manifest["model"]["digest"])


def _read(file: Path, units: Sequence[Unit]) -> BranchTensors | None:
    if not file.is_file():
        return None
    sizes = [len(b) for u in units for b in u.branches]
    try:
        data = file.read_bytes()
        flat_N = load(data)["logprobs"]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        whole = len(flat_N) == sum(sizes) and header["__metadata__"]["sha256"] == _checksum(flat_N)
    except (OSError, SafetensorError, KeyError, ValueError):
        whole, flat_N = False, torch.empty(0)
    if not whole:
        log.warning("%s is not whole; the reference's log-probabilities are taken again", file)
        return None
    parts = iter(flat_N.split(sizes))
    return [tuple(next(parts) for _ in u.branches) for u in units]


def _checksum(flat_N: Tensor) -> str:
    return hashlib.sha256(flat_N.contiguous().numpy().tobytes()).hexdigest()


def _key(model_digest: str, learner: LocalInference, units: Sequence[Unit]) -> str:
    """sha256 over all they depend on: weights, what follows the head, precision, temperature, every token with its support, every image."""
    state = hashlib.sha256()
    model = learner.model
    about = [_FORMAT, model_digest, repr(model.transform), str(model.compute_dtype), learner.temperature, torch.__version__]
    state.update(json.dumps(about).encode())
    for unit in units:
        state.update(json.dumps([m.digest for m in unit.prompt.media]).encode())
        for tokens_T in (unit.prompt.tokens_T, *(t for b in unit.branches for t in (b.tokens_T, b.trained_T.long()))):
            state.update(len(tokens_T).to_bytes(8, "little") + tokens_T.contiguous().numpy().tobytes())
        for support in (b.support for b in unit.branches if b.support is not None):
            state.update(support.starts_T.numpy().tobytes() + support.words_W.numpy().tobytes())
    return state.hexdigest()
