"""Pictures: ready before they are shown, zoomed together, and honest when they are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from browser_tools import looked_at, png, ready, saved, task, vote

from keel.types import Candidate, ImagePart, Message, Prompt, Task, TextPart


def drawn(i: int) -> Task:
    """A task whose two answers are pictures."""

    def answer(k: int, colour: tuple[int, int, int]) -> Candidate:
        return Candidate(f"p{i}-{k}", "a picture", turns=(Message("assistant", (TextPart("Here:"), ImagePart(png(colour=colour)))),))

    return Task(f"drawn-{i}", Prompt(f"p{i}", text="Draw it."), (answer(0, (i, 0, 0)), answer(1, (0, i, 0))), "pairwise", "pairwise-v1")


def transforms(page: Any) -> list[str]:
    return page.evaluate("() => [...document.querySelectorAll('.view img')].map(i => i.style.transform)")


def test_both_pictures_zoom_and_move_together(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    where = site([drawn(1), drawn(2)])
    page = visit(where)
    views = page.locator(".view")
    assert views.count() == 2
    for _ in range(3):
        page.keyboard.press("+")
    assert len(set(transforms(page))) == 1
    assert float(views.first.get_attribute("data-zoom")) == round(1.25**3, 3)
    before = transforms(page)
    box = views.first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 30, steps=3)
    page.mouse.up()
    after = transforms(page)
    assert after != before
    assert len(set(after)) == 1
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.keyboard.down("Control")
    page.mouse.wheel(0, 100)
    page.keyboard.up("Control")
    page.wait_for_function("() => Number(document.querySelector('.view').dataset.zoom) < 1.9")
    page.keyboard.press("0")
    assert set(transforms(page)) == {"translate(0%, 0%) scale(1)"}
    page.keyboard.press("-")  # never smaller than the pane
    assert set(transforms(page)) == {"translate(0%, 0%) scale(1)"}
    vote(page, "1")
    assert set(transforms(page)) == {""}  # the next item begins anew
    saved(page)
    assert len(where.votes()) == 1


def test_pictures_are_decoded_before_their_item_is_shown(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """No picture is asked for after its item came up."""
    where = site([task(i, prompt=looked_at(i, png(colour=(i, i, 9)))) for i in range(5)])
    page = visit(where)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/media/" in r.url else None)
    for _ in range(4):
        vote(page, "1")
        complete = page.evaluate("() => { const i = document.querySelector('.view img'); return i.complete && i.naturalWidth === 40; }")
        assert complete
        shown = page.evaluate("() => document.querySelector('.view img').src")
        assert asked.count(shown) <= 1
    assert all(url.startswith(where.url + "/media/") for url in asked)


def test_a_missing_picture_is_told(site: Callable[..., Any], visit: Callable[..., Any], tmp_path: Path) -> None:
    where = site([task(0, prompt=looked_at(0, str(tmp_path / "gone.png")))])
    page = visit(where)
    assert "could not be loaded" in page.locator(".prompt").inner_text()
    assert str(tmp_path) not in page.content()
    page.keyboard.press("x")
    page.wait_for_selector(".empty.done")


def test_only_the_servers_own_pictures_are_loaded(site: Callable[..., Any], visit: Callable[..., Any]) -> None:
    """A picture in an answer's Markdown would tell a stranger who reads it: it is shown as words, and nothing is fetched."""
    text = "![a cat](https://example.org/cat.png) ![x](/media/abc) ![y](data:image/png;base64,AAAA)"
    where = site([task(0, texts=(text, "none"))])
    page = visit(where, item=False)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.reload()
    ready(page)
    assert page.locator(".answer img").count() == 0
    assert "[a cat]" in page.locator(".answers").inner_text()
    assert all(url.startswith(where.url) for url in asked)
