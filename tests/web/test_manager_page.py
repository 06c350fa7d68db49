"""The manager's page in a browser: it follows the votes without being loaded again, in both languages, on a phone, with hostile names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_texts import CORPUS
from web_tools import PASSWORD, make_task

from keel.feedback.db import Campaign, Store
from keel.types import Candidate, Choice, Prompt, Task
from labs.bench.annotate import start

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=document.title='pwned'>"
OTHER = {"first": "second", "second": "first"}
pytestmark = pytest.mark.stages


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    found = browser.new_page(locale="en")
    yield found
    found.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Store, str]]:
    path = str(tmp_path / "a.db")
    with Store(path) as store:
        store.add_campaign(Campaign("shop", 2, "pairwise", "pairwise-v1"))
        store.add_tasks("shop", [make_task(i) for i in range(8)])
        store.add_account("boss", PASSWORD, "manager")
        for name in (HOSTILE, "bob"):
            store.add_account(name, PASSWORD)
        process, port, _ = start(path)
        try:
            yield store, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _vote(store: Store, name: str, n: int, chosen: Any) -> None:
    for item in store.next_items(name, "shop", n):
        store.answer(name, item.handle, f"{name.encode().hex()[:16]}-{item.handle}", Choice(chosen), active_ms=3000)


def test_the_page_follows_the_votes(page: Any, site: tuple[Store, str]) -> None:
    store, base = site
    problems: list[str] = []
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    _vote(store, HOSTILE, 8, "first")
    _vote(store, "bob", 6, "second")
    said: dict[str, set[str]] = {}
    for j in store.judgements("shop"):
        said.setdefault(j.task_id, set()).add(j.answer.chosen)  # type: ignore[union-attr]
    disputed = sum(len(chosen) > 1 for chosen in said.values())
    assert disputed
    page.goto(f"{base}/login")
    page.fill("#name", "boss")
    page.fill("#password", PASSWORD)
    page.click("button.primary")
    page.wait_for_url("**/manage/shop")
    page.wait_for_selector("#disputes details", timeout=120_000)
    assert page.locator("#disputes details").count() == disputed
    assert HOSTILE in page.locator("#people tbody").inner_text()
    assert "pwned" not in page.title()
    page.wait_for_function("() => document.querySelector('#progress .tile:nth-child(2) b')?.textContent === '14'")
    _vote(store, "bob", 2, "tie")
    page.wait_for_function("() => document.querySelector('#progress .tile:nth-child(2) b')?.textContent === '16'")
    page.click("#pause")
    page.wait_for_selector("#state.warned")
    assert store.campaign("shop").paused
    page.click("#invite button")
    assert "/i/" in page.locator("#links code").inner_text()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("[data-language=zh]")
    page.wait_for_selector("text=标注员")
    assert problems == []


def test_hostile_texts_of_models_and_people_stay_text(page: Any, site: tuple[Store, str]) -> None:
    """What stands in disputes and cycles was written by strangers."""
    store, base = site
    texts = list(CORPUS.values())
    for i, text in enumerate(texts):
        pair = (Candidate("a", text), Candidate("b", f"{i} {text}"))
        store.add_tasks("shop", [Task(f"h{i}", Prompt(f"h{i}", text=text), pair, "pairwise", "pairwise-v1")])
    sides = {HOSTILE: "first", "bob": "second"}
    for name, side in sides.items():
        for n, item in enumerate(store.next_items(name, "shop", 8 + len(texts))):
            place = side if item.display_order[0] == 0 else OTHER[side]
            store.answer(name, item.handle, f"{side}-{item.handle}", Choice(place), reason=texts[n % len(texts)])  # type: ignore[arg-type]
    token = store.sign_in("boss", PASSWORD)
    port = base.rsplit(":", 1)[1]
    page.context.add_cookies([{"name": f"keel-{port}", "value": token, "url": base}])
    problems, asked = list[str](), list[str]()
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("request", lambda r: asked.append(r.url))
    page.goto(f"{base}/manage/shop")
    page.wait_for_selector("#disputes details", timeout=120_000)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("window.hacked ?? null") is None
    inside = page.evaluate("[...document.querySelectorAll('#disputes *, #cycles *')].map((e) => e.localName)")
    assert not {"script", "img", "svg", "iframe", "object", "embed", "form", "input", "style", "base", "math"} & set(inside)
    assert page.evaluate("[...document.querySelectorAll('#disputes a[href], #cycles a[href]')].length") == 0
    shown = page.locator("#disputes").text_content()
    assert CORPUS["handler"] in shown
    assert CORPUS["clobber"] in shown
    assert all(url.startswith(base) for url in asked)
    assert problems == []
