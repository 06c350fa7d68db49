"""Answers compared two by two by a user's function, in an order that favours neither."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from keel.core.errors import UserError
from keel.core.hashing import stable_hash
from keel.rewards.score import Score
from keel.rewards.settings import OnFailure
from keel.rewards.sources.python import REFUSED, CompareConfig
from keel.rewards.text import OnceLog
from keel.types import Prompt


class Comparer(Protocol):
    """Whatever says how probable it is that the first of two answers is better: worker processes, or a cache before them."""

    def judge(self, items: Sequence[tuple[Prompt, Any]]) -> list[Score]:
        """One probability for each (prompt, (first, second))."""
        ...


@dataclass(frozen=True, slots=True)
class Duel:
    """Two answers to a prompt."""

    prompt: Prompt
    first: str
    second: str

    def shown(self, swapped: bool) -> tuple[Prompt, tuple[str, str]]:
        """What the function is asked."""
        return self.prompt, ((self.second, self.first) if swapped else (self.first, self.second))

    @property
    def by_hash(self) -> bool:
        """Is the second one shown first? The same two answers are always shown in the same order, whichever is named first."""
        low, high = sorted((self.first, self.second))
        return bool(stable_hash("shown first", self.prompt.prompt_id, low, high) & 1) == (self.first == low)


@dataclass(slots=True)
class PairJudge:
    """Probabilities that the first answer is better. ``failure`` is the first one that there was, in words."""

    source: Comparer
    config: CompareConfig
    on_failure: OnFailure
    tally: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float), init=False)
    total: Counter[str] = field(default_factory=Counter[str], init=False)  # of calls, in this process
    failure: str = field(default="", init=False)
    _warn: OnceLog = field(default_factory=OnceLog, init=False, repr=False)

    def probabilities(self, duels: Sequence[Duel]) -> list[float]:
        """P(the first is better) of each; 0.5 of equal texts, about which nobody is asked; NaN where the function failed or declined.

        Raises UserError with ``on_failure="stop"``, and for a result that is no judgement.
        """
        open_duels = [(k, d) for k, d in enumerate(duels) if d.first != d.second]
        orders = [(False, True) if self.config.order == "both" else (d.by_hash,) for _, d in open_duels]
        asked = [(k, d, swapped) for (k, d), of_duel in zip(open_duels, orders, strict=True) for swapped in of_duel]
        answers = self._asked([d.shown(swapped) for _, d, swapped in asked])
        said: list[list[float]] = [[] for _ in duels]
        for (k, _, swapped), answer in zip(asked, answers, strict=True):
            said[k].append(1.0 - answer if swapped else float(answer))
        result = [sum(of_duel) / len(of_duel) if of_duel else 0.5 for of_duel in said]
        known = [float(a) for a in answers if math.isfinite(a)]
        self.tally["known"] += len(known)
        self.tally["duels"] += sum(math.isfinite(p) for p in result)
        self.tally["ties"] += sum(p == 0.5 for p in result)
        self.tally["contradictions"] += sum((both[0] - 0.5) * (both[1] - 0.5) < 0 for both in said if len(both) == 2)
        self.tally["first"] += sum(known)
        return result

    def _asked(self, items: Sequence[tuple[Prompt, tuple[str, str]]]) -> list[Score]:
        answers = list(self.source.judge(items)) if items else []
        for _ in range(self.config.retries if self.on_failure == "retry" else 0):
            again = [i for i, a in enumerate(answers) if _failed(a)]
            if not again:
                break
            for i, answer in zip(again, self.source.judge([items[i] for i in again]), strict=True):
                answers[i] = answer
        self.tally["asked"] += len(items)
        self.tally["refused"] += sum(a.reason == REFUSED for a in answers)
        for (prompt, _), answer in zip(items, answers, strict=True):
            if _failed(answer):
                self._fail(prompt, answer)
        return answers

    def _fail(self, prompt: Prompt, answer: Score) -> None:
        self.tally["failed"] += 1
        message = f"comparison {self.config.name!r} failed for prompt {prompt.prompt_id} ({prompt.source_id}): {answer.error}"
        self.failure = self.failure or message
        if self.on_failure == "stop":
            raise UserError(message, "mend the function, or set on_failure=drop_sample to go on without such pairs")
        self._warn(answer.error.partition(":")[0], "%s", message)

    def metrics(self) -> dict[str, float]:
        """Of what was asked since this was last asked for: ``<name>/asked`` calls; ``failed_ratio`` and ``refused_ratio`` of them;
        ``first``, the mean probability that it gave to the answer shown first (0.5 without a position bias); ``ties``, and with both
        orders ``contradictions``, shares of the duels."""
        tally, self.tally = self.tally, defaultdict(float)
        self.total.update({key: int(tally[key]) for key in ("asked", "failed", "refused")})
        name, asked = self.config.name, max(1, tally["asked"])
        found = {"asked": tally["asked"], "failed_ratio": tally["failed"] / asked, "refused_ratio": tally["refused"] / asked}
        if tally["known"]:
            found["first"] = tally["first"] / tally["known"]
        if tally["duels"]:
            found["ties"] = tally["ties"] / tally["duels"]
            if self.config.order == "both":
                found["contradictions"] = tally["contradictions"] / tally["duels"]
        return {f"{name}/{key}": value for key, value in found.items()}


def _failed(answer: Score) -> bool:
    return not math.isfinite(answer) and answer.reason != REFUSED
