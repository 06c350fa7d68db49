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

    def price(self, asks: Sequence[Ask]) -> float | None:
        return 0.0

    def write(self, asks: Sequence[Ask]) -> list[Wrote]:
        found = self.scorer.score([(a.prompt, a.answer) for a in asks])
        made: list[Wrote] = []
        for ask, scored in zip(asks, found, strict=True):
            if ask.kind != "critique" or not self.scorer.known(ask.principle) or scored.error:
                made.append(Wrote(error=f"rules: {scored.error or 'no rule scores this principle'}"))
                continue
            p = scored.p[ask.principle.name]
            why = scored.reasons.get(ask.principle.name) or ask.principle.text
            says = {"violates": p < ask.principle.least, "severity": LEAST + round((MOST - LEAST) * (1 - p)), "critique": why}
            made.append(Wrote(json.dumps(says, ensure_ascii=False), made=False))
        return made
