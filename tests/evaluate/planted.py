"""Judges whose biases are planted, beside pairs and people whose truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from keel.core.hashing import stable_hash
from keel.evaluate.judge_labels import Labelled
from keel.judges.ask import Question, Said, failed
from keel.types import Candidate, Message, Prompt

CATEGORIES = ("maths", "letters", "law")


def world(n: int, seed: int, people: int = 5) -> list[Labelled]:
    """Pairs whose worth, form, family and category are drawn apart from each other, two a prompt; people see the worth through noise. Words
    are of any length, so that many words are not many characters."""
    rng = random.Random(f"planted {seed}")
    found: list[Labelled] = []
    for k in range(n):
        meta = {"category": CATEGORIES[k // 2 % len(CATEGORIES)]}
        prompt = Prompt(f"p{seed}-{k // 2}", (Message("user", f"Question {k // 2} of {seed}?"),), meta=meta)
        answers: list[Candidate] = []
        for i in range(2):
            word = "w" * rng.choice((2, 5, 11))
            lines = [f"answer {i} to {k} of {seed}", *(f"{word} {word}" for _ in range(rng.randrange(1, 12)))]
            text = "\n".join(f"- {line}" for line in lines) if rng.random() < 0.4 else " ".join(lines)
            answers.append(Candidate(f"{k}-{i}", text, {"quality": rng.gauss(0, 1), "family": rng.choice(("f", "g"))}))
        gap = answers[0].origin["quality"] - answers[1].origin["quality"]
        votes: list[str] = []
        for _ in range(people):
            u = rng.random()
            seen = gap + math.log(u / (1 - u))
            votes.append("tie" if abs(seen) < 0.4 else "first" if seen > 0 else "second")
        found.append(Labelled(Question(prompt, (answers[0], answers[1])), tuple(votes)))
    return found


@dataclass(frozen=True)
class Planted:
    """A `Judge`. Log-odds of the first answer: worth + lists + doublings of words + own family + noise of the prompt's category; in the
    share ``shown`` of its calls it takes what is shown first and looks at nothing."""

    shown: float = 0.0
    lists: float = 0.0
    words: float = 0.0
    own: float = 0.0
    noise: Mapping[str, float] = field(default_factory=dict[str, float])
    fails: float = 0.0
    ties: float = 0.0
    soft: bool = False
    quality: float = 2.0
    name: str = "planted"
    identity: str = "planted"
    family: str = "f"
    sees_images: bool = False

    def price(self, questions: Sequence[Question]) -> float | None:
        return 0.25 * len(questions)

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        return [self._said(q) for q in questions]

    def _said(self, q: Question) -> Said:
        if _uniform(q, "fails") < self.fails:
            return failed("reply: planted", cost=0.25)
        if _uniform(q, "shown") < self.shown:
            return Said(probabilities={("first", "second")[q.order[0]]: 1.0}, cost=0.25)
        worth = [self._worth(a) for a in q.answers]
        spread = self.noise.get(str(q.prompt.meta["category"]), 0.0)
        logit = worth[0] - worth[1] + spread * NormalDist().inv_cdf(_uniform(q, "noise"))
        if self.soft:
            p = 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))
            return Said(probabilities={"first": p, "second": 1.0 - p}, cost=0.25)
        return Said(probabilities={"tie" if abs(logit) <= self.ties else "first" if logit > 0 else "second": 1.0}, cost=0.25)

    def _worth(self, answer: Candidate) -> float:
        found = self.quality * float(answer.origin["quality"]) + self.words * math.log2(len(answer.text.split()))
        return found + self.lists * answer.text.startswith("- ") + self.own * (answer.origin["family"] == self.family)


def _uniform(q: Question, what: str) -> float:
    """In (0, 1): a hash of all that makes the call."""
    return (stable_hash("planted", what, q.prompt.prompt_id, *(a.text for a in q.answers), repr(q.order), q.sample) + 0.5) / 2.0**64
