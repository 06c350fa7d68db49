"""Scores in several dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from browser_tools import ready, saved, task

from keel.types import Scores


def test_scores_by_keys_and_by_mouse(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(i, "rating", 1) for i in range(2)])
    page = visit(where)
    assert page.locator("legend").all_text_contents() == [
        "Accuracy40 %",
        "Completeness25 %",
        "Relevance20 %",
        "Fluency15 %",
    ]
    handle = ready(page)
    page.keyboard.press("Enter")  # nothing is scored
    for key in "453":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert "every dimension" in page.locator("#toast").inner_text()
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    ready(page, handle)
    for n, row in enumerate(page.locator(".dimension").all()):
        row.locator("input").nth(4 - n).check(force=True)
    page.locator("button.send").click()
    page.wait_for_selector(".empty.done")
    saved(page)
    names = ("accuracy", "completeness", "relevance", "fluency")
    assert [v.answer for v in where.votes()] == [
        Scores(0, dict(zip(names, (4, 5, 3, 1), strict=True))),
        Scores(0, dict(zip(names, (5, 4, 3, 2), strict=True))),
    ]


def test_a_campaigns_own_dimensions(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    dimensions = [{"name": "harmless", "weight": 60, "low": 0, "high": 1}, {"name": "kind", "weight": 40, "low": 1, "high": 3}]
    where = site([task(0, "rating", 1)], page={"dimensions": dimensions})
    page = visit(where)
    for key in "23":
        page.keyboard.press(key)  # the second value is 1, the third 3
    page.keyboard.press("Enter")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert [v.answer for v in where.votes()] == [Scores(0, {"harmless": 1, "kind": 3})]
