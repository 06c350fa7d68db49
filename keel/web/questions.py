"""What pages ask for unless a campaign says otherwise. Needs nothing else: `keel reference` reads it where no database is installed."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = ("off", "optional", "required")
SPAN_KINDS = ("object", "attribute", "count", "relation", "text", "other")


@dataclass(frozen=True, slots=True)
class Dimension:
    """One line of a rating. ``weight`` is what it counts for in the guideline; scores are whole numbers ``low``..``high``."""

    name: str
    weight: float
    low: int = 1
    high: int = 5


DIMENSIONS = (Dimension("accuracy", 40), Dimension("completeness", 25), Dimension("relevance", 20), Dimension("fluency", 15))
