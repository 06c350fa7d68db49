"""Rankings: what is on the screen is what is stored, with ties, by keys and by drag; what nobody ranked cannot be sent."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from browser_tools import ready, saved, task

from keel.feedback.answers import from_display
from keel.types import Ranks

Buckets = tuple[tuple[int, ...], ...]


def random_buckets(rng: random.Random, count: int) -> Buckets:
    """A random weak order of the places 0..count-1."""
    places = rng.sample(range(count), count)
    buckets: list[list[int]] = []
    for place in places:
        if buckets and rng.random() < 0.4:
            buckets[-1].append(place)
        else:
            buckets.append([place])
    return tuple(tuple(sorted(b)) for b in buckets)


def on_screen(page: Any) -> Buckets:
    """The boxes as they stand, from the best."""
    read = """() => [...document.querySelectorAll('.bucket')]
      .map(b => [...b.querySelectorAll('.chip')].map(c => Number(c.dataset.place)).sort())"""
    return tuple(tuple(b) for b in page.evaluate(read))


def stored(where: Any) -> list[Buckets]:
    """The rankings that the store holds, as places of the screen."""
    votes = where.votes()
    inverse = [[v.display_order.index(i) for i in range(len(v.display_order))] for v in votes]
    shown = [from_display(v.answer, order) for v, order in zip(votes, inverse, strict=True)]
    return [tuple(tuple(sorted(b)) for b in r.buckets) for r in shown if isinstance(r, Ranks)]


def drag(page: Any, place: int, target: Any, x: float = 0.5) -> None:
    """Move a chip by the mouse onto an element."""
    chip = page.locator(f".chip[data-place='{place}']").bounding_box()
    page.mouse.move(chip["x"] + chip["width"] / 2, chip["y"] + chip["height"] / 2)
    page.mouse.down()
    page.mouse.move(chip["x"] + chip["width"] / 2 + 12, chip["y"] + chip["height"] / 2 + 3, steps=2)
    box = target.bounding_box()
    page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()


@pytest.mark.parametrize("seed", range(4))
def test_a_random_ranking_by_keys(site: Callable[..., Any], visit: Callable[..., Any], seed: int) -> None:
    rng = random.Random(seed)
    where = site([task(i, "ranking", 5) for i in range(2)])
    page = visit(where)
    wanted = [random_buckets(rng, 5) for _ in range(2)]
    handle = ""
    for buckets in wanted:
        handle = ready(page, handle)
        for bucket in buckets:
            for i, place in enumerate(bucket):
                page.keyboard.press(str(place + 1))
                if i:
                    page.keyboard.press("t")
        assert on_screen(page) == buckets
        page.keyboard.press("Enter")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert stored(where) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_a_random_ranking_by_drag(site: Callable[..., Any], visit: Callable[..., Any], seed: int) -> None:
    """Every chip is dragged into a box or between boxes, from the last to the first and in a random order."""
    rng = random.Random(100 + seed)
    where = site([task(0, "ranking", 5)])
    page = visit(where)
    wanted = random_buckets(rng, 5)
    for n, bucket in enumerate(wanted):
        for i, place in enumerate(bucket):
            target = page.locator(".bucket").nth(n) if i else page.locator(".gap").last
            drag(page, place, target)
    assert on_screen(page) == wanted
    first, last = wanted[0][0], wanted[-1][0]
    if len(wanted) > 1:  # and once more to the very front, and back
        drag(page, last, page.locator(".gap").first)
        assert on_screen(page)[0] == (last,)
        if len(wanted[-1]) > 1:
            drag(page, last, page.locator(".bucket").last)
        else:
            drag(page, last, page.locator(".gap").last)
        assert on_screen(page) == wanted
    assert first != last or len(wanted) == 1
    page.locator("button.send").click()
    page.wait_for_selector(".empty.done")
    saved(page)
    assert stored(where) == [wanted]


def test_an_untouched_order_cannot_be_sent(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """Neither by Enter nor by the button, nor half ranked; to agree with the order shown is an act of its own."""
    where = site([task(0, "ranking", 4)])
    page = visit(where)
    page.keyboard.press("Enter")
    page.locator("button.send").click()
    assert "Rank all answers" in page.locator("#toast").inner_text()
    for key in "34":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert page.locator(".item").count() == 1
    saved(page)
    assert where.votes() == []
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    page.keyboard.press("a")
    assert on_screen(page) == ((0,), (1,), (2,), (3,))
    page.keyboard.press("Enter")
    page.wait_for_selector(".empty.done")
    saved(page)
    assert stored(where) == [((0,), (1,), (2,), (3,))]


def test_chips_move_by_arrows(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(0, "ranking", 3)])
    page = visit(where)
    for key in "123":
        page.keyboard.press(key)
    page.locator(".chip[data-place='2']").focus()
    page.keyboard.press("ArrowLeft")
    assert on_screen(page) == ((0,), (2,), (1,))
    page.keyboard.press("ArrowUp")
    assert on_screen(page) == ((0, 2), (1,))
    page.keyboard.press("ArrowRight")
    assert on_screen(page) == ((0,), (2,), (1,))
    page.keyboard.press("ArrowRight")
    assert on_screen(page) == ((0,), (1,), (2,))
    page.keyboard.press("Delete")
    assert on_screen(page) == ((0,), (1,))
    assert page.evaluate("() => document.activeElement.dataset.place") == "2"


def test_drag_by_finger_on_a_phone(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([task(0, "ranking", 3)])
    page = visit(where, viewport={"width": 390, "height": 844}, has_touch=True)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: dict[str, float]) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    for place in (2, 0, 1):
        chip, gap = page.locator(f".chip[data-place='{place}']").bounding_box(), page.locator(".gap").last.bounding_box()
        x, y = chip["x"] + chip["width"] / 2, chip["y"] + chip["height"] / 2
        to = {"x": gap["x"] + gap["width"] / 2, "y": gap["y"] + gap["height"] / 2}
        touch("touchStart", {"x": x, "y": y})
        touch("touchMove", {"x": x + 10, "y": y})
        touch("touchMove", to)
        touch("touchEnd")
    assert on_screen(page) == ((2,), (0,), (1,))
