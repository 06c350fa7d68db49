"""What is measured of vision-language training: a geometry with random weights, images of noise, random words. Nothing but the standard
library, so that any side of a comparison can read it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

GEOMETRIES = ("smolvlm", "smolvlm_tiles", "demo")
Verb = Literal["rl", "dpo"]
MARKS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
GRID = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", *MARKS, *GRID)
VOCAB = 49280  # SmolVLM-256M's
FILE, MODEL = "workload.json", "model"  # what both sides find in their folder


@dataclass(frozen=True, slots=True)
class Shape:
    """The model of a workload. Widths are the true ones; of the layers every ``depth``-th part is there."""

    geometry: str = "smolvlm"
    depth: int = 6
    dtype: str = "float32"

    @property
    def image(self) -> int:
        """Pixels of an image's side."""
        return {"smolvlm": 512, "smolvlm_tiles": 1024, "demo": 112}[self.geometry]

    @property
    def layers(self) -> tuple[int, int]:
        """Of the vision tower and of the decoder: of 12 and 30."""
        return max(1, 12 // self.depth), max(1, 30 // self.depth)


@dataclass(frozen=True, slots=True)
class VisionWork:
    """One optimizer batch a step: ``prompts`` prompts, each with an image of its own and ``group`` samples (rl), or half as many pairs
    (dpo), each with an image of its own. Named as ``workload.Workload``, so that the sides share code."""

    verb: Verb
    model: Shape
    prompts: int = 1
    group: int = 8
    completion: int = 32  # tokens of a sample; the longest answer of a pair
    words: int = 32  # of a prompt, beside its image
    kl: float = 0.04  # price of the KL to the reference in RL
    algorithm: str = "grpo"
    threads: int = 2
    steps: int = 1  # timed steps of a process, after one that is not timed
    seed: int = 0

    @property
    def batch(self) -> int:
        """Samples, or pairs, of an optimizer batch."""
        return self.prompts * self.group if self.verb == "rl" else self.rows_a_step

    @property
    def rows_a_step(self) -> int:
        return self.prompts if self.verb == "rl" else max(1, self.prompts * self.group // 2)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> VisionWork:
        return cls(**{**raw, "model": Shape(**raw["model"])})


def make_rows(work: VisionWork) -> list[dict[str, Any]]:
    """For all steps: the number of the image, and texts of random words: ``prompt``; in pairs ``chosen`` and ``rejected`` too, of a quarter
    of ``completion`` to all of it."""
    rng = random.Random(work.seed)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{rng.randrange(len(SPECIAL), VOCAB)}" for _ in range(rng.randint(low, high)))

    def row(number: int) -> dict[str, Any]:
        found: dict[str, Any] = {"image": number, "prompt": words(work.words, work.words)}
        if work.verb == "dpo":
            found |= {side: words(max(1, work.completion // 4), work.completion - 1) for side in ("chosen", "rejected")}
        return found

    return [row(number) for number in range(work.rows_a_step * (work.steps + 1))]


def write(folder: Path, work: VisionWork, rows: list[dict[str, Any]], order: list[list[int]]) -> None:
    """Write what the sides read. ``order``: the rows of each step, as Keel's loops take them."""
    (folder / FILE).write_text(json.dumps({"work": work.to_json(), "rows": rows, "order": order}))


def read(folder: Path) -> tuple[VisionWork, list[dict[str, Any]], list[list[int]]]:
    """The workload, its rows and the rows of each step."""
    raw = json.loads((folder / FILE).read_text())
    return VisionWork.from_json(raw["work"]), raw["rows"], raw["order"]
