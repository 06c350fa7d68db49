"""A real server over a fresh store, and a real browser before it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.db import Campaign, Store
from keel.types import Task

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # makes the helpers of this folder importable

from browser_tools import Site, enter, ready, watch  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with a browser take seconds: they run with the stages, not with the tests of every minute."""
    for item in items:
        if HERE in item.path.parents and "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stages)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """``site(tasks, ...)``: a store with a campaign, a server process over it, and the account ``ann``."""
    running: list[tuple[subprocess.Popen[str], Store]] = []

    def make(
        tasks: list[Task], page: dict[str, Any] | None = None, wanted: int = 1, training: list[Task] | None = None, **more: Any
    ) -> Site:
        url = f"sqlite:///{tmp_path}/annotations{len(running)}.db"
        store = Store(url)
        kind = tasks[0].kind
        settings = CampaignSettings(page=page or {})
        store.add_campaign(Campaign("shop", wanted=wanted, kind=kind, protocol=f"{kind}-v1", settings=settings, **more))
        store.add_tasks("shop", tasks)
        if training:
            store.add_tasks("shop", training, role="training")
        command = [sys.executable, str(HERE / "serve.py"), url, str(tmp_path / "media")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parents[2])})
        running.append((process, store))
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("http://"), f"the server did not start: {line}"
        found = Site(line.strip(), store, "shop")
        for name in ("ann", "bob"):
            found.people[name] = enter(found, name)
        return found

    yield make
    for process, store in running:
        process.terminate()
        process.wait(20)
        store.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """``context(site, who="ann", **options)``: a browser of a person who is signed in."""
    made: list[BrowserContext] = []

    def make(site: Site, who: str = "ann", **options: Any) -> BrowserContext:
        found = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
        port = site.url.rsplit(":", 1)[1]
        found.add_cookies([{"name": f"keel-{port}", "value": site.people[who], "url": site.url}])
        made.append(found)
        return found

    yield make
    for found in made:
        found.close()


@pytest.fixture
def visit(context: Callable[..., BrowserContext]) -> Iterator[Callable[..., Page]]:
    """``visit(site)``: the annotator's page with its first item. Errors of the page's console fail the test at its end."""
    problems: list[str] = []

    def make(site: Site, who: str = "ann", path: str = "/annotate", item: bool = True, **options: Any) -> Page:
        page = context(site, who, **options).new_page()
        watch(page, problems)
        page.goto(site.url + path)
        if item:
            ready(page)
        return page

    yield make
    assert not problems, problems
