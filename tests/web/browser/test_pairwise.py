"""Two answers: what is pressed is what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from browser_tools import ready, saved, task

from keel.feedback.answers import from_display
from keel.types import Choice


def test_each_key_stores_its_own_answer(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """Seven steps of the scale, both bad, cannot judge: nine things, told apart, at the places of the screen."""
    where = site([task(i) for i in range(9)])
    page = visit(where)
    handle = ready(page)
    expected = [
        *(Choice("first", s) for s in (1.0, 2 / 3, 1 / 3)),
        Choice("tie"),
        *(Choice("second", s) for s in (1 / 3, 2 / 3, 1.0)),
        Choice("both_bad"),
        Choice("cannot"),
    ]
    for key in "1234567bx":
        page.keyboard.press(key)
        if key != "x":
            handle = ready(page, handle)
    page.wait_for_selector(".empty.done")
    saved(page)
    votes = where.votes()
    assert [from_display(v.answer, v.display_order) for v in votes] == expected
    assert all(v.active_ms is not None and v.active_ms >= 200 for v in votes)
