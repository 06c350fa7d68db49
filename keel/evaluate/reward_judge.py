"""A reward model as judge: it sees no order, so both orders say the same; its temperature makes probabilities of differences of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keel.judges.ask import OVERALL, Question, Said, digest, failed
from keel.judges.config import RewardModelConfig
from keel.judges.pictures import holds_image
from keel.rewards.score import Score
from keel.rewards.text import TextScorer


@dataclass(frozen=True, slots=True)
class RewardModelJudge:
    """A `Judge` over whatever scores (prompt, answer). ``weights`` is the hash of the model's files."""

    name: str
    config: RewardModelConfig
    scorer: TextScorer
    weights: str
    sees_images: bool = False  # in prompts; answers are scored by their text

    @property
    def identity(self) -> str:
        return digest({"reward_model": self.weights, "temperature": self.config.temperature})

    @property
    def family(self) -> str:
        return self.config.family

    def price(self, questions: Sequence[Question]) -> float | None:
        return 0.0

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        shown = [q for q in questions if not any(holds_image(a.turns) for a in q.answers)]
        items = [(q.prompt, a.text) for q in shown for a in q.answers]
        scores = iter(self.scorer.judge(items)) if items else iter(())
        said = {id(q): self._said(q, [next(scores) for _ in q.answers]) for q in shown}
        return [said.get(id(q)) or failed("images: an answer holds some, and its text alone is no answer", made=False) for q in questions]

    def _said(self, question: Question, scores: Sequence[Score]) -> Said:
        lost = next((s for s in scores if not math.isfinite(s)), None)
        if lost is not None:
            return failed(f"score: {lost.error or 'none'}")
        if question.kind == "pairwise":
            gap = (scores[0] - scores[1]) / self.config.temperature
            p = 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, gap))))
            return Said(probabilities={"first": p, "second": 1.0 - p})
        if question.kind == "ranking":
            levels = sorted(set(map(float, scores)), reverse=True)
            return Said(ranks=tuple(tuple(i for i, s in enumerate(scores) if float(s) == level) for level in levels))
        if question.kind == "rubric":
            return failed("rubric: a reward model has one score and no criteria")
        return Said(scores={OVERALL: float(scores[0])})
