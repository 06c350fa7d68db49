"""What judges will cost at most, before any call and without loading a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from keel.judges.ask import Judge, Question
from keel.judges.build import make_judge, read_judges
from keel.judges.config import JudgesFile, LocalConfig, PanelConfig, RewardModelConfig

CHARACTERS_A_TOKEN = 4  # of an answer that nobody wrote yet: high, so that its price is not told too low


def paid_judges(file: str, name: str) -> list[Judge]:
    """The judge of that name, or the members of a panel, without those that load a model: these run here and cost nothing."""
    judges = read_judges(file)
    return [make_judge(one, judges) for one in _voices(judges, name)]


def price_of(judges: Sequence[Judge], questions: Sequence[Question]) -> float | None:
    """What all of them take together; None where one does not know."""
    return total([judge.price(questions) for judge in judges])


def total(prices: Sequence[float | None]) -> float | None:
    """The sum; None where one of them is unknown."""
    return None if any(p is None for p in prices) else math.fsum(p for p in prices if p is not None)


def _voices(judges: JudgesFile, name: str) -> Iterator[str]:
    match judges.named(name):
        case LocalConfig() | RewardModelConfig():
            return
        case PanelConfig(members=members):
            for member in members:
                yield from _voices(judges, member)
        case _:
            yield name
