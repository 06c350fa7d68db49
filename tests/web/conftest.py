"""Sites over fresh stores, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra web is not installed")
sys.path.insert(0, str(Path(__file__).parent))

from web_tools import Site, make_task

from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.db import Campaign, Store
from keel.types import Task
from keel.web.app import make_app
from keel.web.kit import Kit
from keel.web.settings import Limits, WebSettings

Make = Callable[..., Site]


@pytest.fixture
def make_url(tmp_path: Path) -> Callable[[int], str]:
    """The URL of the n-th empty database of a test."""
    return lambda n: f"sqlite:///{tmp_path}/a{n}.db"


@pytest.fixture
def make_site(tmp_path: Path, make_url: Callable[[int], str]) -> Iterator[Make]:
    """``make_site(tasks, gold=, training=, ...)``: a site with the campaign ``shop``. The clock of the limits stands still."""
    opened: list[Store] = []

    def make(tasks: Sequence[Task] | int = 6, limits: Limits | None = None, page: dict[str, Any] | None = None, **more: Any) -> Site:
        known = {role: more.pop(role, ()) for role in ("gold", "training", "qualification")}
        judging = {k: more.pop(k) for k in ("disagreement", "right_at", "scale", "pass_mark") if k in more}
        web = {k: more.pop(k) for k in ("host", "public_url", "runs") if k in more}
        store = Store(make_url(len(opened)), **{k: more.pop(k) for k in ("clock",) if k in more})
        opened.append(store)
        given = [make_task(i) for i in range(tasks)] if isinstance(tasks, int) else list(tasks)
        kind = given[0].kind
        settings = CampaignSettings(page=page or {}, **judging)
        store.add_campaign(Campaign("shop", more.pop("wanted", 2), kind, f"{kind}-v1", settings=settings, **more))
        store.add_tasks("shop", given)
        for role, its in known.items():
            if its:
                store.add_tasks("shop", its, role=role)  # type: ignore[arg-type]
        now = [1000.0]
        app = make_app(store, WebSettings(tmp_path / "media", limits=limits or Limits(), **web))
        kit = Kit(store, app.state.kit.settings, clock=lambda: now[0])
        app.state.kit, app.state.board.kit = kit, kit
        return Site(app, store, now)

    yield make
    for store in opened:
        store.close()
