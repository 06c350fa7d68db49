"""The checklists of a run for its page: what to have looked at before, during and after, and what the program found."""

from __future__ import annotations

from collections import Counter
from typing import Any

from keel.core.errors import RunError
from keel.dash.folder import Run
from keel.evaluate.checklists.facts import facts_of
from keel.evaluate.checklists.lists import STATUSES, WHENS, check_items
from keel.evaluate.report_data import collect


def view(run: Run) -> dict[str, Any]:
    """``lists``: one for each time, with how many items are of each state, and the items, what failed first. ``why``: that there are none,
    and the reason."""
    try:
        facts = facts_of(collect(run.path, texts=False))
    except RunError as error:
        return {"run": run.name, "lists": [], "why": error.message}
    if facts is None:
        return {"run": run.name, "lists": [], "why": ""}
    lists: list[dict[str, Any]] = []
    found = check_items(facts)
    for when in WHENS:
        of_it = sorted((c for c in found if c.item.when == when), key=lambda c: STATUSES.index(c.status))
        counts = Counter(c.status for c in of_it)
        items = [
            {"name": c.item.name, "state": c.status, "text": {"en": c.item.en, "zh": c.item.zh}, "why": c.evidence, "page": c.item.page}
            for c in of_it
        ]
        lists.append({"when": when, "counts": [[s, counts[s]] for s in STATUSES if counts[s]], "items": items})
    return {"run": run.name, "lists": lists, "why": ""}
