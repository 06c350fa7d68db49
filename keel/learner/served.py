"""What a rank does for the driver: learners by role, each with the reference that it is kept near to. All ranks do every command alike."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from keel.kernels.logit_transform import LogitTransform
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.learner.moving import MovingReference
from keel.learner.sharded import Ranks, like, piece_of, whole_of
from keel.learner.team import Sum
from keel.methods.rl_parts import ReferenceRule
from keel.models.frame import Filling, Shelf, has_files, without_weights
from keel.models.loading import folder_of, load_model
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.models.origin import Origin
from keel.runs.pieces import Pieces, file_name, write_pieces
from keel.types import BranchTensors, Objective, Unit

PLAIN = frozenset(  # methods of a learner that are called as they are
    {"logprobs", "values", "scores", "judgements", "dimensions", "steps", "information", "losses", "forward_backward"}
    | {"discard_gradients", "train_only", "gradients", "negate_gradients", "idle"}
)
PIECEWISE = frozenset({"weights", "send_gradients"})  # answered tensor by tensor


@dataclass(frozen=True, slots=True)
class ModelAsk:
    """A model to load. ``transform``, ``packed`` and ``lm_head`` are the driver's: what follows the head, whether the fast path is proven,
    whether files hold that head. With ``shelf`` a rank may read its share alone."""

    origin: Origin
    transform: LogitTransform
    packed: bool
    lm_head: bool
    shelf: Shelf | None = None


@dataclass(frozen=True, slots=True)
class LearnerAsk:
    """A learner to make."""

    model: ModelAsk
    optim: OptimConfig
    batch: BatchConfig
    total_steps: int
    seed: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What the driver sets of a learner before a step."""

    lr_scale: float
    lr_now: float | None
    progress: int


@dataclass(slots=True)
class _Role:
    learner: LocalLearner
    reference: LocalInference | None = None  # None: the learner's own model, adapters off
    moving: MovingReference | None = None
    within: list[ExitStack] = field(default_factory=list)  # contexts that the driver has entered


class Served:
    """The learners of one rank."""

    def __init__(self, team: Ranks) -> None:
        self._team = team
        self._roles: dict[str, _Role] = {}
        self._media: MediaStore | None = None  # of all roles; what comes and goes the driver decides

    def do(self, command: str, args: Sequence[Any]) -> Generator[Any, None, Any]:
        """One command of the driver; yields the pieces of a long answer (rank 0's are those that count), returns a short one."""
        if command == "make":
            return self._make(*args)
        if command == "touch":
            return self._touch(*args)
        if command in ("show", "forget"):
            return getattr(self, f"_{command}")(*args)
        role = self._roles[args[0]]
        if command in PIECEWISE:
            yield from getattr(self, f"_{command}")(role, *args[1:])
            self._team.rest()
            return None
        found = getattr(role.learner, command) if command in PLAIN else partial(getattr(self, f"_{command}"), role)
        try:
            return found(*args[1:])
        finally:
            self._team.rest()  # an error that all ranks find may leave weights whole

    # ------------------------------------------------------------------------------------------------------------------ making

    def _make(self, name: str, ask: LearnerAsk) -> list[Sum]:
        """Returns the checksums of the starting weights, those that are not trained too."""
        model = self._take(self._load(ask.model), ask.model)
        learner = LocalLearner(model, ask.optim, ask.batch, ask.total_steps, ask.seed, ask.temperature, self._team)
        self._roles[name] = _Role(learner)
        return self._team.sums(model.proven())

    def _touch(self, path: Path, mark: str) -> str:
        """Does each rank see the driver's file, and can it write one beside it? What is wrong on the first that does not."""
        try:
            wrong = "" if path.read_text(encoding="utf-8") == mark else f"{path.name} is another file"
            path.with_name(f"{path.name}-{self._team.rank}").write_text(mark, encoding="utf-8")
        except OSError as error:
            wrong = str(error)
        found = self._team.gather([wrong and f"rank {self._team.rank} on {socket.gethostname()}: {wrong}"])
        return next(filter(None, found), "")

    def _load(self, ask: ModelAsk) -> Model:
        origin = ask.origin
        options = origin.options.model_copy(update={"fast_path": "off"})  # the driver has proven it
        parts = origin.spec, options, origin.lora, origin.heads, origin.seed, origin.new_heads, origin.score, origin.value
        shared = self._team.lockstep and ask.shelf is not None and has_files(ask.shelf, folder_of(origin.spec, origin.options))
        model = load_model(*parts, empty=shared).model
        model.transform, model.packed, model.lm_head = ask.transform, ask.packed, ask.lm_head
        if self._media is None:
            self._media = MediaStore(features=model.media.features)
        model.use_media(self._media)
        return model

    def _show(self, media: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Hold the pixels of these images, by digest."""
        assert self._media is not None, "a learner comes first"
        for digest, tensors in media.items():
            self._media.put(digest, tensors)

    def _forget(self, digests: Sequence[str]) -> None:
        assert self._media is not None
        for digest in digests:
            self._media.drop(digest)

    def _take(self, model: Model, ask: ModelAsk) -> Model:
        folder = folder_of(ask.origin.spec, ask.origin.options)
        if ask.shelf is None or folder is None or not without_weights(model.module):
            return self._team.take(model)
        return self._team.take(model, Filling(model.module, ask.shelf, folder, self._team.device))

    def _refer(self, role: _Role, ask: ModelAsk, rule: ReferenceRule | None, whole: bool) -> list[Sum]:
        """Hold a frozen reference: another model, or the starting weights. Returns its checksums."""
        twin = self._take(self._load(ask).freeze(), ask)
        learner = role.learner
        role.reference = LocalInference(twin, learner.batch, learner.temperature, self._team)
        role.moving = MovingReference(twin, learner.model, rule) if rule is not None else None
        learner.reference = twin if whole else None
        return self._team.sums(twin.proven())

    # ----------------------------------------------------------------------------------------------------------------- passes

    def _reference_logprobs(self, role: _Role, units: Sequence[Unit]) -> BranchTensors:
        if role.reference is not None:
            return role.reference.logprobs(units)
        with role.learner.model.as_reference():
            return role.learner.logprobs(units)

    def _step(self, role: _Role, pace: Pace) -> Any:
        learner = role.learner
        learner.lr_scale, learner.lr_now, learner.progress = pace.lr_scale, pace.lr_now, pace.progress
        return learner.step()

    def _fits(self, role: _Role, units: Sequence[Unit], objective: Objective) -> str:
        """Where memory does not suffice here the others may wait for this rank: it fails, and all end."""
        said = role.learner.fits(units, objective)
        if said:
            raise MemoryError(said)
        return ""

    def _follow(self, role: _Role, step: int) -> None:
        assert role.moving is not None
        role.moving.follow(step)

    def _enter(self, role: _Role, context: str, *args: Any) -> None:
        stack = ExitStack()
        stack.enter_context(getattr(role.learner, context)(*args))
        role.within.append(stack)

    def _leave(self, role: _Role) -> None:
        role.within.pop().close()

    # ---------------------------------------------------------------------------------------------------------------- weights

    def _digest(self, role: _Role) -> str:
        return self._team.digest(role.learner.model)

    def _weights(self, role: _Role) -> Iterator[tuple[str, Tensor]]:
        """The trained weights, one whole tensor at a time."""
        for name, tensor in role.learner.model.state_tensors().items():
            yield name, whole_of(tensor)

    def _send_gradients(self, role: _Role) -> Iterator[tuple[str, Tensor | None]]:
        for name, p in role.learner.model.trainable():
            yield name, None if p.grad is None else whole_of(p.grad)

    def _tensors(self, role: _Role, what: str) -> Mapping[str, Tensor]:
        if what == "reference":
            assert role.moving is not None
            return role.moving.state()
        return role.learner.state()[0]

    def _state(self, role: _Role) -> dict[str, Any]:
        return role.learner.state()[1]

    def _write(self, role: _Role, what: str, folder: Path, stem: str, metadata: Mapping[str, str]) -> None:
        """This rank's rows of the learner's state, or of its moving reference's."""
        pieces = {name: piece_of(tensor) for name, tensor in self._tensors(role, what).items()}
        rank, whole = self._team.rank, {name for name, piece in pieces.items() if piece.tensor.shape == piece.shape}
        mine = {name: piece for name, piece in pieces.items() if (rank == 0 or name not in whole) and piece.tensor.numel()}
        write_pieces(folder / file_name(stem, rank, self._team.world), mine, metadata)

    def _read(self, role: _Role, what: str, stored: Sequence[Path] | Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what was written, by however many ranks."""
        source = stored if isinstance(stored, Mapping) else Pieces(stored)
        if what == "reference":
            assert role.moving is not None
            role.moving.load_state({name: _rows(source, name, own) for name, own in role.moving.state().items()})
            return
        trained = dict(role.learner.model.trainable())
        shapes = source.shapes if isinstance(source, Pieces) else {name: tuple(t.shape) for name, t in source.items()}
        found: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            owner = trained.get(
                name.removeprefix("model/") if name.startswith("model/") else name.removeprefix("optim/").rpartition("/")[0]
            )
            found[name] = source[name] if owner is None or tuple(owner.shape) != shape else _rows(source, name, owner)
        role.learner.load_state(found, state)


def _rows(source: Mapping[str, Tensor], name: str, own: Tensor) -> Tensor:
    """What this rank holds of a stored tensor that is shared out as ``own`` is."""
    piece = piece_of(own)
    if piece.tensor.shape == piece.shape:
        return like(own, source[name].to(own.device))
    last = piece.first + piece.tensor.shape[0]
    rows = source.rows(name, piece.first, last) if isinstance(source, Pieces) else source[name][piece.first : last]
    return like(own, rows.contiguous().to(piece.tensor.device))
