"""Several judges, one verdict. Who stands first in the list decides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keel.judges.ask import Judge, Question, Said, digest, failed
from keel.judges.orders import mean


@dataclass(frozen=True, slots=True)
class PanelJudge:
    """A `Judge`: the mean of the members that gave a verdict, taken in the order of their identities. Below the quorum there is none."""

    name: str
    members: tuple[Judge, ...]
    quorum: int
    own_family: str = ""

    @property
    def identity(self) -> str:
        return digest({"panel": sorted(m.identity for m in self.members), "quorum": self.quorum})

    @property
    def family(self) -> str:
        return self.own_family

    @property
    def sees_images(self) -> bool:
        return all(m.sees_images for m in self.members)

    def price(self, questions: Sequence[Question]) -> float | None:
        prices = [m.price(questions) for m in self.members]
        return None if any(p is None for p in prices) else math.fsum(p for p in prices if p is not None)

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        members = sorted(self.members, key=lambda m: (m.identity, m.name))
        each = [m.ask(questions) for m in members]
        return [self._verdict([m.name for m in members], said) for said in zip(*each, strict=True)]

    def _verdict(self, names: Sequence[str], said: Sequence[Said]) -> Said:
        costs = [s.cost for s in said]
        cost = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
        counted = [s.tokens for s in said if s.tokens is not None]
        tokens = (sum(t[0] for t in counted), sum(t[1] for t in counted)) if len(counted) == len(said) else None
        more = {"tokens": tokens, "cost": cost, "made": any(s.made for s in said)}
        given = [s for s in said if not s.error]
        if len(given) < self.quorum:
            lost = "; ".join(f"{name}: {s.error}" for name, s in zip(names, said, strict=True) if s.error)
            return failed(f"quorum: {len(given)} of {len(said)} members gave a verdict, {self.quorum} are needed ({lost})"[:400], **more)
        found = mean(given)
        return replace(found, **more)
