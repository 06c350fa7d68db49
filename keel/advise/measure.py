"""Everything about a data set that the advice looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keel.advise.checkable import Checkable, checkable
from keel.advise.coverage import coverage
from keel.advise.labels import annotators, n_words, preferences
from keel.data.dataset import Dataset
from keel.data.findings import find
from keel.data.identity import Item
from keel.plan.tokens import answers_of
from keel.types import ImagePart, Prompt, Ranking, Rating, Unpaired


@dataclass(frozen=True, slots=True)
class Measures:
    """What was found. ``kinds`` counts records by kind; the parts are {} or None where there is nothing of that kind."""

    source: str
    layout: str
    fingerprint: str
    rows: int
    bad: int
    kinds: dict[str, int]
    coverage: dict[str, Any]
    preferences: dict[str, Any]
    agreement: dict[str, Any] | None
    unpaired: dict[str, Any]
    checkable: Checkable | None
    other: dict[str, Any]  # lengths, duplicates, images

    @property
    def noise(self) -> float:
        """Estimated share of wrong labels, 0 where nothing tells."""
        found = [self.preferences.get("noise"), self.unpaired.get("noise")]
        return max((n for n in found if n is not None), default=0.0)

    @property
    def longer_wins(self) -> tuple[float, float]:
        """Bounds of the share of pairs that the longer answer wins; (0, 1) where it is not known."""
        length = self.preferences.get("length")
        return (length["longer_wins"]["low"], length["longer_wins"]["high"]) if length else (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the advice."""
        found = self.checkable
        verifiable = None if found is None else {"verifier": found.verifier, "share": found.share}
        parts = {name: getattr(self, name) for name in ("kinds", "coverage", "preferences", "agreement", "unpaired", "other")}
        where = {"source": self.source, "layout": self.layout, "rows": self.rows, "bad_rows": self.bad}
        return {**where, **parts, "noise": self.noise, "verifiable": verifiable}


def measure(data: Dataset) -> Measures:
    """Measures of a data set of any kind."""
    prompts = data.prompts()
    return Measures(
        source=data.source,
        layout=data.layout,
        fingerprint=data.fingerprint,
        rows=data.counts["rows"],
        bad=len(data.bad),
        kinds=dict(Counter(type(r).__name__.lower() for r in data.records)),
        coverage=coverage(prompts),
        preferences=preferences(data.records, data.source),
        agreement=annotators(data.records),
        unpaired=_unpaired([r for r in data.records if isinstance(r, Unpaired)]),
        checkable=checkable(prompts),
        other=_other(data.records),
    )


def _unpaired(records: Sequence[Unpaired]) -> dict[str, Any]:
    if not records:
        return {}
    wanted = [n_words(r.answer) for r in records if r.desirable]
    unwanted = [n_words(r.answer) for r in records if not r.desirable]
    contradictions = find(records).contradictions
    return {
        "answers": len(records),
        "wanted": len(wanted) / len(records),
        "words_wanted": sum(wanted) / len(wanted) if wanted else None,
        "words_unwanted": sum(unwanted) / len(unwanted) if unwanted else None,
        "contradictions": contradictions,
        "noise": contradictions / len(records) or None,
    }


def _other(records: Sequence[Item]) -> dict[str, Any]:
    prompts = [r if isinstance(r, Prompt) else r.prompt for r in records]
    answers = [n_words(a) for r in records for a in answers_of(r)]
    images = sum(
        any(not isinstance(m.content, str) and any(isinstance(p, ImagePart) for p in m.content) for m in q.messages) for q in prompts
    )
    found: dict[str, Any] = {
        "duplicates": find(records).duplicates,
        "with_images": images,
        "words_per_answer": sum(answers) / len(answers) if answers else None,
        "turns": max((len(q.messages) for q in prompts), default=0),
    }
    ranked = [len(r.answers) for r in records if isinstance(r, Ranking)]
    if ranked:
        found["answers_per_ranking"] = sum(ranked) / len(ranked)
    if any(isinstance(r, Rating) for r in records):
        found["dimensions"] = sorted({name for r in records if isinstance(r, Rating) for name in r.scores})
    return found
