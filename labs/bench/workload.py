"""What is measured: a model made from a config, random tokens, and how much of both. Nothing but the standard library, so that any side
of a comparison can read it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Verb = Literal["rl", "dpo", "sft", "reward"]
VERBS: tuple[Verb, ...] = ("rl", "dpo", "sft", "reward")
PAD, EOS, BOS, UNK = range(4)
FIRST_WORD = 4  # ids below are special
LEARNING_RATE, BETA = 1e-5, 0.1  # BETA of DPO
FILE, MODEL = "workload.json", "model"  # what both sides find in their folder


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The model of a workload: an architecture and its sizes; 4 heads, 2 of them for keys and values."""

    arch: str = "qwen2"
    vocab: int = 32000
    hidden: int = 256
    layers: int = 6
    intermediate: int = 704
    dtype: str = "float32"  # of the products; weights, gradients and optimizer state are float32


@dataclass(frozen=True, slots=True)
class Workload:
    """One optimizer batch a step: ``prompts`` prompts with ``group`` samples each (rl); ``prompts x group`` pairs (dpo, reward) or
    sequences (sft)."""

    verb: Verb
    model: ModelShape
    prompts: int = 2
    group: int = 8
    completion: int = 128  # tokens of a sample; the longest answer of a pair
    prompt_min: int = 128
    prompt_max: int = 256
    kl: float = 0.04  # price of the KL to the reference in RL; 0 = no reference
    algorithm: str = "grpo"
    top_p: float = 1.0  # of the sampling in RL
    threads: int = 2
    steps: int = 2  # timed steps of a process, after one that is not timed
    seed: int = 0

    @property
    def batch(self) -> int:
        """Samples, pairs or sequences of an optimizer batch."""
        return self.prompts * self.group

    @property
    def rows_a_step(self) -> int:
        return self.prompts if self.verb == "rl" else self.batch

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Workload:
        return cls(**{**raw, "model": ModelShape(**raw["model"])})


def make_rows(work: Workload) -> list[dict[str, list[int]]]:
    """Token ids for all steps, batch by batch: ``prompt`` (rl); ``prompt``, ``chosen``, ``rejected`` (dpo, reward; answers of a quarter of
    ``completion`` to all of it); ``text`` (sft; up to three times ``completion``). Answers and texts end with the end token."""
    rng = random.Random(work.seed)

    def words(low: int, high: int) -> list[int]:
        return [rng.randrange(FIRST_WORD, work.model.vocab) for _ in range(rng.randint(low, high))]

    def row() -> dict[str, list[int]]:
        if work.verb == "sft":
            return {"text": [*words(max(2, work.completion // 4), 3 * work.completion), EOS]}
        prompt = words(work.prompt_min, work.prompt_max)
        if work.verb == "rl":
            return {"prompt": prompt}
        shortest = max(1, work.completion // 4)
        return {"prompt": prompt} | {side: [*words(shortest, work.completion - 1), EOS] for side in ("chosen", "rejected")}

    return [row() for _ in range(work.rows_a_step * (work.steps + 1))]


def count_tokens(work: Workload, rows: list[dict[str, list[int]]]) -> int:
    """Tokens of ``rows`` that ``tokens_per_s`` counts, the same number on both sides: sampled ones (rl), those of both answers (dpo), of
    both whole sequences (reward), all but the first (sft)."""
    if work.verb == "rl":
        return len(rows) * work.group * work.completion
    if work.verb == "sft":
        return sum(len(row["text"]) - 1 for row in rows)
    shared = 2 if work.verb == "reward" else 0
    return sum(shared * len(row.get("prompt", ())) + len(row["chosen"]) + len(row["rejected"]) for row in rows)


def as_text(ids: list[int]) -> str:
    """Ids as words that the workload's tokenizer turns back into the same ids."""
    return " ".join("<eos>" if i == EOS else f"w{i}" for i in ids)


def text_reward(text: str) -> float:
    """A reward that costs nothing and differs between texts."""
    return sum(map(ord, text[:200])) % 97 / 97


def write(folder: Path, work: Workload, order: list[list[int]]) -> None:
    """Write what the sides read. ``order``: the rows of each step, as Keel's loops take them."""
    (folder / FILE).write_text(json.dumps({"work": work.to_json(), "rows": make_rows(work), "order": order}))


def read(folder: Path) -> tuple[Workload, list[dict[str, list[int]]], list[list[int]]]:
    """The workload, its rows and the rows of each step."""
    raw = json.loads((folder / FILE).read_text())
    return Workload.from_json(raw["work"]), raw["rows"], raw["order"]
