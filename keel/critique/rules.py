"""A critic that is always right: for principles that rules or verifiers score, it says what they found. It costs nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from keel.critique.ask import LEAST, MOST, Ask, Wrote
from keel.rewards.constitution.scoring import Scorer


@dataclass(frozen=True, slots=True)
class RuleCritic:
    """A `Writer` of critiques. Severity = 1 + 4 (1 - p), rounded."""

    scorer: Scorer
    name: str = "rules"

    @property
    def sees_images(self) -> bool:
        return False

    def price(self, asks: Sequence[Ask]) -> float | None:
        return 0.0

    def write(self, asks: Sequence[Ask]) -> list[Wrote]:
        return [self._one(a) for a in asks]

    def _one(self, ask: Ask) -> Wrote:
        if ask.kind != "critique" or not self.scorer.known(ask.principle):
            return Wrote(error="rules: no rule scores this principle", made=False)
        p, why, error = self.scorer.by_rule(ask.principle, [(ask.prompt, ask.answer)])[0]
        if error or p != p:
            return Wrote(error=f"rules: {error or 'no score'}", made=False)
        severity = LEAST + round((MOST - LEAST) * (1 - p))
        says = {"violates": p < ask.principle.least, "severity": severity, "critique": why or ask.principle.text}
        return Wrote(json.dumps(says, ensure_ascii=False), made=False)
