"""What all rounds of a self-improvement share: recipe, judges, prompts, the model of the moment, and where each round's files lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.judges.ask import Judge
from keel.models.media import MediaStore
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.runs.memory import give_back_memory
from keel.types import SamplingParams
from keel.verbs.improve.recipe import ImproveRecipe
from keel.verbs.shared.prompts import Prompts
from keel.verbs.shared.session import load

ANSWERS, JUDGEMENTS, JUDGED, LESSONS, TRAIN, HELD_OUT, ROUND = (
    "answers.jsonl",
    "judgements.jsonl",
    "judged.jsonl",
    "lessons.jsonl",
    "train.jsonl",
    "held_out.jsonl",
    "round.json",
)


@dataclass(frozen=True, slots=True)
class Course:
    """What all rounds of a run share."""

    recipe: ImproveRecipe
    path: Path
    judge: Judge
    measuring: Judge | None  # the judge that measures held-out answers, where one does
    train: Prompts
    held_out: Prompts
    media: MediaStore
    loaded: dict[str, tuple[LocalSampler, Renderer]] = field(default_factory=dict[str, tuple[LocalSampler, Renderer]])  # the newest

    def folder(self, number: int) -> Path:
        return self.path / "rounds" / f"{number:02d}"

    def weights(self, number: int) -> str:
        """The model after a round; 0 is the one that the run starts from."""
        return self.recipe.model if number == 0 else str(self.folder(number) / "train" / "final")

    def model(self, number: int) -> tuple[LocalSampler, Renderer]:
        """A sampler of the model after a round, and its renderer; the model before is let go."""
        spec = self.weights(number)
        if spec not in self.loaded:
            self.release()
            loaded, renderer = load(self.recipe, spec=spec)
            loaded.model.freeze()
            loaded.model.use_media(self.media)
            self.loaded[spec] = (LocalSampler(loaded.model, renderer.decode, self.recipe.sampler), renderer)
        return self.loaded[spec]

    def release(self) -> None:
        """Let the model go: a training loads its own."""
        self.loaded.clear()
        give_back_memory()

    def params(self, renderer: Renderer) -> SamplingParams:
        return self.recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A file of rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, b"".join(map(json_line, rows)))


def write_round(course: Course, number: int, row: Mapping[str, Any]) -> None:
    """The last file of a round: with it the round is done."""
    path = course.folder(number) / ROUND
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(row, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def read_round(course: Course, number: int) -> dict[str, Any] | None:
    """What a finished round left; None when it is not finished. Raises DataError for a file that is no round."""
    path = course.folder(number) / ROUND
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: no record of a round: {error}", "delete the round's folder and start the same command again") from None
