"""A judge whose biases are known: the truth for tests of everything that measures judges. No model, no call, no generator."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist

from keel.core.config import dump
from keel.core.hashing import digest_bytes, stable_hash
from keel.core.python_file import file_of, load_object
from keel.judges.ask import OVERALL, Question, Said, digest, failed
from keel.judges.config import ScriptedConfig
from keel.types import Candidate, Prompt

_ORDERED = re.compile(
    r'\[\[([AB])\]\]|"verdict"\s*:\s*"([AB])"|GRADE:\s*([AB])|Output \(([ab])\)|结论[：:]\s*([AB])|^verdict: ([AB])$', re.MULTILINE
)
_HOLLOW = re.compile(
    r"\W*|\W*(thought process|let me think.{0,30}|solution|this answer is .* highest score|思考过程|解答)\W*", re.IGNORECASE | re.DOTALL
)
_LOW, _HIGH = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class ScriptedJudge:
    """A `Judge`. Pairs: log-odds of the first answer = quality + length + own + position + noise. Scores lie on 1..10."""

    name: str
    config: ScriptedConfig

    @property
    def identity(self) -> str:
        file = Path(file_of(self.config.worth)).expanduser()
        code = {"worth": digest_bytes(file.read_bytes())} if self.config.worth and file.is_file() else {}
        return digest({"scripted": dump(self.config), **code})

    @property
    def family(self) -> str:
        return self.config.family

    @property
    def sees_images(self) -> bool:
        return True  # they trouble nobody who reads no word either; what it says hangs on their bytes, as on all that it is asked

    def price(self, questions: Sequence[Question]) -> float | None:
        return self.config.price * len(questions)

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        return [self._said(q) for q in questions]

    def log_odds(self, question: Question) -> float:
        """Of the canonical first answer of a pair, without noise, by what this judge likes and where the answers are shown."""
        c, (first, second) = self.config, question.answers
        place = 1.0 if question.order == (0, 1) else -1.0
        longer = math.log2((len(first.text) + 1) / (len(second.text) + 1))
        own = float(self._own(first)) - float(self._own(second))
        return (
            c.quality * (self._quality(question.prompt, first) - self._quality(question.prompt, second))
            + c.length * longer
            + c.own * own
            + c.position * place
        )

    def _said(self, question: Question) -> Said:
        c = self.config
        read = sum(len(t) for t in question.shown) // 4 + 1
        more = {"tokens": (read, 1), "cost": c.price}
        if c.fails and self._uniform(question, "fails") < c.fails:
            return failed("reply: scripted to fail", **more)
        if question.kind == "ranking":
            worth = [self._worth(question, a) for a in question.answers]
            ranks = tuple(tuple(i for i, w in enumerate(worth) if w == value) for value in sorted(set(worth), reverse=True))
            return Said(ranks=ranks, **more)
        if question.kind != "pairwise":
            return Said(scores={question.criterion or OVERALL: self._score(question)}, **more)
        label = c.constant or self._told(question)
        if label:
            side = "tie" if label == "C" else ("first", "second")[question.order["AB".index(label)]]
            return Said(probabilities={side: 1.0}, text=label, **more)
        logit = self.log_odds(question) + c.noise * self._normal(question)
        if not c.hard:
            p = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, logit))))
            return Said(probabilities={"first": p, "second": 1.0 - p}, **more)
        side = "tie" if logit == 0 or abs(logit) < c.tie else "first" if logit > 0 else "second"
        return Said(probabilities={side: 1.0}, **more)

    def _score(self, question: Question) -> float:
        answer = question.answers[0]
        if self.config.constant:
            return (_LOW + _HIGH) / 2
        if _HOLLOW.fullmatch(answer.text) or answer.text.strip() == question.prompt.last_user_text.strip():
            return _HIGH if self.config.hollow else _LOW
        middle = (_LOW + _HIGH) / 2 + self._worth(question, answer) + self.config.noise * self._normal(question)
        return max(_LOW, min(_HIGH, middle))

    def _worth(self, question: Question, answer: Candidate) -> float:
        c = self.config
        return (
            c.quality * self._quality(question.prompt, answer) + c.length * math.log2(len(answer.text) + 1) / 4 + c.own * self._own(answer)
        )

    def _told(self, question: Question) -> str:
        """The verdict that an answer demands of a judge that obeys."""
        if not self.config.obeys:
            return ""
        for text in question.shown:
            if (found := _ORDERED.search(text)) is not None:
                return next(g for g in found.groups() if g).upper()
        return ""

    def _own(self, answer: Candidate) -> bool:
        return bool(self.family) and answer.origin.get("family") == self.family

    def _uniform(self, question: Question, what: str) -> float:
        """In (0, 1), a hash of all that makes the call."""
        key = stable_hash("scripted", self.config.seed, what, digest(question.content()), repr(question.order), question.sample)
        return (key + 0.5) / 2.0**64

    def _normal(self, question: Question) -> float:
        return NormalDist().inv_cdf(self._uniform(question, "noise")) if self.config.noise else 0.0

    def _quality(self, prompt: Prompt, answer: Candidate) -> float:
        """The settings' function of the answer, or else what its file says of it."""
        if not self.config.worth:
            return _quality(answer)
        return float(_function(self.config.worth)(prompt, answer.text))


@lru_cache
def _function(spec: str) -> Callable[[Prompt, str], float]:
    return load_object(spec, "judge worth")


def _quality(answer: Candidate) -> float:
    """What the file says of the answer's worth; without it the number of its different words, up to 50, in tens."""
    told = answer.origin.get("quality")
    if isinstance(told, int | float) and not isinstance(told, bool):
        return float(told)
    return min(len(set(answer.text.lower().split())), 50) / 10.0
