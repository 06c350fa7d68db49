"""The lists as a report shows them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from keel.evaluate.checklists.facts import facts_of
from keel.evaluate.checklists.lists import STATUSES, WHENS, check_items
from keel.evaluate.report_data import ReportData

_NAMES = {"before": "Before the training", "during": "During it", "after": "After it"}
_TONES = {"pass": "good", "fail": "bad"}


def checklists_view(data: ReportData) -> list[dict[str, Any]]:
    """One list a mapping: its name, how many items of each kind, the items with what fails first. Empty where nothing was trained."""
    facts = facts_of(data)
    if facts is None:
        return []
    found = check_items(facts)
    lists: list[dict[str, Any]] = []
    for when in WHENS:
        of_it = sorted((c for c in found if c.item.when == when), key=lambda c: STATUSES.index(c.status))
        counts = Counter(c.status for c in of_it)
        rows = [{"c": c, "tone": _TONES.get(c.status, "")} for c in of_it]
        lists.append({"name": _NAMES[when], "counts": ", ".join(f"{counts[s]} {s}" for s in STATUSES if counts[s]), "rows": rows})
    return lists
