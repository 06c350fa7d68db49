"""Answers that a run keeps whole: tokens, log-probabilities, advantages, rewards by part. What the view of an answer by tokens reads.

``rollouts/`` of a run directory has a file for each step that was kept: ``train-<step>.jsonl``, ``eval-<step>.jsonl`` and
``alarm-<step>.jsonl``. What an emergency took back is ``undone-<rollback>-<kind>-<step>.jsonl``. All together stay below a size: where
training and evaluation outgrow their half, every second step goes, chosen by hash, and such steps are not kept from then on. So which
steps are there is a function of the run alone, however often it was stopped.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from keel.runs import logs
from keel.runs.durable import write_atomic

log = logging.getLogger("keel")

FOLDER, LEVEL = "rollouts", "level"
MOST_FILES = 4000
UNDONE_STEPS = 5  # the last steps before an emergency, beside those with an alarm
Kind = Literal["train", "eval", "alarm"]
_NAME = re.compile(r"(?:undone-(?P<undone>\d+)-)?(?P<kind>train|eval|alarm)-(?P<step>\d+)\.jsonl")


@dataclass(frozen=True, slots=True)
class KeptRollout:
    """One answer. Lists by token have one entry a token of the answer; those of signals that the run does not have are not there."""

    step: int
    why: str  # "best", "worst", "random", "fixed" (the same prompt at every evaluation), "alarmed"
    prompt_id: str
    sample: int
    prompt: str  # the last user turn
    text: str
    tokens: Sequence[int]
    pieces: Sequence[str]  # the text of each token
    prompt_tokens: int  # how many there are before the answer
    sampled: Sequence[bool]  # False: tool output or another's turn
    logprobs: Mapping[str, Sequence[float]]  # by who says it: "sampler", "policy" (before the update), "reference"
    signals: Mapping[str, Sequence[float]] = field(default_factory=dict[str, "Sequence[float]"])  # "advantages", "returns", "values" ...
    reward: float | None = None  # None: it failed
    parts: Mapping[str, float] = field(default_factory=dict[str, float])  # rewards by source, unweighted
    finish_reason: str = ""
    error: str = ""
    rule: str = ""  # the alarm for which it was kept
    # of a conversation behind the prompt: role, text, reward ... (``Conversation.told``)
    turns: Sequence[Mapping[str, Any]] = field(default_factory=list["Mapping[str, Any]"])
    undone: int = 0  # number of the rollback that took the step back
    # the prompt as it was asked (``keel.feedback.texts.asked_row``); {}: ``prompt`` is all of it, None: its other turns are not kept
    asked: Mapping[str, Any] | None = None

    @property
    def kl(self) -> list[float] | None:
        """Log-probability of the policy less that of the reference, by token; the sampler's where the policy's was not recorded."""
        own, reference = self.logprobs.get("policy", self.logprobs.get("sampler")), self.logprobs.get("reference")
        return None if own is None or reference is None else [p - r for p, r in zip(own, reference, strict=True)]

    @classmethod
    def of_row(cls, row: Mapping[str, Any], undone: int = 0) -> KeptRollout:
        """A row of a file; what later versions may add is left out."""
        known = {f.name for f in fields(cls)}
        values = {name: _numbers(value) if name in ("logprobs", "signals", "parts", "reward") else value for name, value in row.items()}
        told: dict[str, Any] = {name: value for name, value in values.items() if name in known}
        told["undone"] = undone
        return cls(**told)


def _numbers(value: Any) -> Any:
    """ "NaN" and the like as numbers again."""
    if isinstance(value, Mapping):
        return {k: _numbers(v) for k, v in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_numbers(v) for v in cast("list[Any]", value)]
    return logs.number(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class KeptFile:
    """The answers of a step: where they are."""

    path: Path
    kind: Kind
    step: int
    undone: int  # number of the rollback that took the step back, 0: it stands


def files(run: Path) -> list[KeptFile]:
    """What is kept of a run, by step. No file is read."""
    found: list[KeptFile] = []
    for path in (run / FOLDER).glob("*.jsonl"):
        if match := _NAME.fullmatch(path.name):
            found.append(KeptFile(path, cast("Kind", match["kind"]), int(match["step"]), int(match["undone"] or 0)))
    return sorted(found, key=lambda f: (f.step, f.undone, f.kind))


def read(file: KeptFile) -> list[KeptRollout]:
    """The answers in a file."""
    return [KeptRollout.of_row(row, file.undone) for row in logs.rows_of(file.path)]


def cut(run: Path, step: int) -> None:
    """The run does the steps after ``step`` again: what was kept of them goes."""
    for file in files(run):
        if file.step > step and not file.undone:
            file.path.unlink(missing_ok=True)


def give_up(run: Path, step: int, number: int) -> None:
    """An emergency takes back the steps after ``step``: what was kept of the last of them and of alarms stays, with its number."""
    later = [file for file in files(run) if file.step > step and not file.undone]
    last = sorted({file.step for file in later})[-UNDONE_STEPS:]
    for file in later:
        if file.kind == "alarm" or file.step in last:
            file.path.replace(file.path.with_name(f"undone-{number:02d}-{file.path.name}"))
        else:
            file.path.unlink(missing_ok=True)


class Rollouts:
    """The store of a run, for the process that writes it."""

    def __init__(self, run: Path, every: int, max_bytes: int) -> None:
        """``every``: training answers are kept every so many steps, 0: nothing is kept; ``max_bytes``: of the whole folder, about."""
        self.run, self.every, self.max_bytes = run, every, max_bytes
        path = run / FOLDER / LEVEL
        self._level = int(path.read_text()) if path.is_file() else 0
        self._full = False

    def due(self, step: int) -> bool:
        """Are training answers of this step kept?"""
        return bool(self.every) and step % self.every == 0 and self._keeps(step)

    def _keeps(self, step: int) -> bool:
        from keel.core.hashing import stable_hash  # loads numpy, which those who only list runs have no need of

        return step == 0 or stable_hash("kept step", step) % 2**self._level == 0

    def write(self, kind: Kind, step: int, rows: Iterable[KeptRollout]) -> None:
        """Keep answers of a step. Those that are there already (a step that is done again) are replaced."""
        if not self.every or not (kind == "alarm" or self._keeps(step)):
            return
        folder = self.run / FOLDER
        folder.mkdir(exist_ok=True)
        path = folder / f"{kind}-{step:09d}.jsonl"
        new = [{k: v for k, v in asdict(row).items() if k != "undone"} for row in rows]
        keys = [_key(row) for row in new]
        kept = [row for row in logs.rows_of(path) if _key(row) not in keys]
        data = b"".join(logs.json_line(_short(row)) for row in (*kept, *new))
        if kind != "alarm":
            write_atomic(path, data)
            self._thin()
        elif self._size("alarm") + len(data) <= self.max_bytes // 2:
            write_atomic(path, data)
        elif not self._full:
            self._full = True
            log.warning("%s is full: answers of further alarms are not kept (settings.tracking.rollouts.max_mb)", folder)

    def _size(self, *kinds: str) -> int:
        return sum(f.path.stat().st_size for f in files(self.run) if (f.kind in kinds if not f.undone else "alarm" in kinds))

    def _thin(self) -> None:
        """Every second step goes until what is left has room."""
        while (few := [f for f in files(self.run) if f.kind != "alarm" and not f.undone]) and (
            len(few) > MOST_FILES or self._size("train", "eval") > self.max_bytes // 2
        ):
            if all(f.step == 0 for f in few) or self._level > 40:
                return
            self._level += 1
            write_atomic(self.run / FOLDER / LEVEL, str(self._level).encode())
            for file in few:
                if not self._keeps(file.step):
                    file.path.unlink(missing_ok=True)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("why", "prompt_id", "sample", "rule"))


def _short(value: Any) -> Any:
    """Numbers with six digits: more are noise, and take room."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {k: _short(v) for k, v in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_short(v) for v in cast("Sequence[Any]", value)]
    return value
