"""The model that is to go out, as its gates read it, and what is known of how it was evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from keel.core.errors import DataError
from keel.core.hashing import digest_bytes
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.evaluate.reward_measures import ScoredLabel
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.loading import Loaded
from keel.models.quantise import Way, quantise_model
from keel.render.renderer import Renderer
from keel.render.template import RefusedError
from keel.types import Branch, Demonstration, Encoded, Prompt, Unit


@dataclass(frozen=True, slots=True)
class Reader:
    """A model in memory, float32, with the renderer that belongs to it."""

    loaded: Loaded
    renderer: Renderer

    @property
    def inference(self) -> LocalInference:
        return LocalInference(self.loaded.model, BatchConfig())


Open = Callable[[str], Reader]  # a model spec -> that model, read anew: who gets it may change it
Judge = Callable[[Reader, str, int], Sequence[ScoredLabel]]  # (reward model, file of labels, records at most) -> its scores
Engine = Literal["keel", "llama_cpp"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """``spec``: what is to go out, as it was written, loadable; ``source``: the folder that it was made from. ``fingerprints``: by what
    they are of (``released``, ``source``); an evaluation counts when it measured one of them. ``baseline``: where the lineage began."""

    spec: str
    source: Path
    fingerprints: Mapping[str, str]
    open: Open
    judge: Judge
    baseline: str = ""
    engine: Engine = "keel"

    def kept(self, way: Way | Literal["released"], reader: Reader) -> Reader:
        """The model as it goes out, or ``reader``, which is of the source and is changed, with its weights kept ``way``."""
        if way == "released":
            return self.open(self.spec)
        quantise_model(reader.loaded.model, way)
        return reader

    def measured(self, fingerprint: str) -> str:
        """Which of its own a fingerprint is; empty for that of another model."""
        return next((name for name, own in self.fingerprints.items() if own == fingerprint), "")


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as a model reads them, and what was not read as it stands: ``cut`` at the model's context, ``left_out`` with the reason."""

    units: tuple[Unit, ...]
    cut: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])

    def told(self) -> dict[str, int]:
        """For the facts of a verdict."""
        counts = {"texts": len(self.units), "cut_at_context": self.cut, "left_out": len(self.left_out)}
        return {name: n for name, n in counts.items() if n}


def texts_of(reader: Reader, path: str, limit: int) -> Texts:
    """A plain text is read from its first token on, of a demonstration the answer. Texts are named by their content; equal ones count once.
    Raises DataError where there is none."""
    units: dict[str, Unit] = {}
    cut, left_out = 0, dict[str, str]()
    for record in load_data(DataConfig(path=path, limit=limit)).records:
        if isinstance(record, Demonstration):
            found, refused = reader.renderer.units([record])
            units |= {u.unit_id: u for u in found}
            left_out |= {r.source_id: r.reason for r in refused}
        elif isinstance(record, Prompt) and record.text:
            whole = reader.renderer.codec.start(record.text)
            ids = torch.tensor(whole[: reader.renderer.limits.context], dtype=torch.int64)
            cut += len(ids) < len(whole)
            name = digest_bytes(record.text.encode())[:16]
            units |= (
                {name: Unit(name, Encoded(ids[:1]), (Branch(ids[1:], torch.ones(len(ids) - 1, dtype=torch.bool)),))} if len(ids) > 1 else {}
            )
        else:
            left_out[getattr(record, "record_id", "") or getattr(record, "source_id", "")] = "neither a text nor a demonstration"
    if not units:
        raise DataError(f"{path}: no text in it that the model can read", 'give a file of {"text": ...} rows, or of demonstrations')
    return Texts(tuple(units.values()), cut, left_out)


def losses(reader: Reader, units: Sequence[Unit]) -> dict[str, float]:
    """Negative log-likelihood of each text, in nats, summed over its tokens; by unit id."""
    found = reader.inference.logprobs(units)
    return {u.unit_id: -sum(float(b.double().sum()) for b in rows) for u, rows in zip(units, found, strict=True)}


def prompts_of(reader: Reader, path: str, limit: int, max_tokens: int) -> tuple[dict[str, tuple[Prompt, Encoded]], dict[str, str]]:
    """Prompts with their tokens by id, and why others were refused. Raises DataError when none is left."""
    encoded: dict[str, tuple[Prompt, Encoded]] = {}
    refused: dict[str, str] = {}
    for prompt in load_data(DataConfig(path=path, limit=limit)).prompts():
        try:
            encoded[prompt.prompt_id] = (prompt, reader.renderer.prompt(prompt, max_tokens))
        except RefusedError as error:
            refused[prompt.source_id or prompt.prompt_id] = error.reason
    if not encoded:
        raise DataError(f"{path}: no prompt is left: all {len(refused)} were refused: {next(iter(refused.values()), 'the file is empty')}")
    return encoded, refused
