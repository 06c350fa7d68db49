"""`keel annotate`: the store, the campaign, the links, the server."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.config import load
from keel.feedback.db import Store
from keel.feedback.sql import make_url
from keel.site.listening import LOOPBACK, listen
from keel.verbs.annotate.recipe import AnnotateRecipe
from keel.verbs.annotate.tasks import Imported, choose_campaign, prepare
from keel.web.media import Media
from keel.web.server import serve
from keel.web.settings import WebSettings

_DAY = 86400.0


def media_folder(store: str) -> Path:
    """Where pictures lie: beside a SQLite file, else in ``annotations.media`` here."""
    url = make_url(store)
    return Path(str(url.database)).with_suffix(".media") if url.drivername.startswith("sqlite") else Path("annotations.media")


def run_annotate(
    store: str = "annotations.db",
    campaign: str = "",
    tasks: str = "",
    host: str = "127.0.0.1",
    port: int = 8766,
    public_url: str = "",
    browser: bool = True,
    runs: str = "runs",
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Serve until Ctrl-C. Every vote that was acknowledged is on the disk then. Raises UserError before it serves."""
    recipe = load(AnnotateRecipe, None, list(overrides))
    listening = listen(host, port)
    try:
        settings = WebSettings(media_folder(store), host, listening.getsockname()[1], public_url, Path(runs))
        with Store(store) as opened:
            media = Media(opened, settings.media)
            name = choose_campaign(opened, campaign, Path(tasks) if tasks else None)
            imported = prepare(opened, media, name, Path(tasks) if tasks else None, recipe, overrides)
            links = invite(opened, settings, name)
            _tell(settings, name, imported, links, opened.progress(name))
            if browser:
                threading.Timer(0.3, webbrowser.open, [links["manager"]]).start()
            serve(opened, settings, listening)
            progress = opened.progress(name)
    finally:
        listening.close()
    print(f"closed: {progress['votes']} votes on {progress['items']} items are stored in {store}")
    return {"campaign": name, "store": store, **progress}


def invite(store: Store, settings: WebSettings, campaign: str) -> dict[str, str]:
    """New links: for a thousand annotators during a month, for one manager during a day."""
    annotators = store.invite("annotator", campaign, 1000, 30 * _DAY, "keel annotate")
    manager = store.invite("manager", "", 1, _DAY, "keel annotate")
    store.note("keel annotate", "started", campaign=campaign)
    return {"annotators": f"{settings.base}/i/{annotators}", "manager": f"{settings.base}/i/{manager}"}


def _tell(settings: WebSettings, name: str, imported: Imported, links: Mapping[str, str], progress: Mapping[str, int]) -> None:
    if imported.added or imported.there:
        new = ", ".join(f"{n} {role}" for role, n in imported.added.items()) or "none"
        twice = f", {imported.twice} lines that stand twice in the file left out" if imported.twice else ""
        print(f"tasks: {new} added, {imported.there} were there{twice}")
    print(f"campaign {name}: {progress['done']} of {progress['items']} items done, {progress['votes']} votes")
    print(f"annotators  {links['annotators']}")
    print(f"manager     {links['manager']}")
    print(f"sign in     {settings.base}/login")
    if settings.host not in LOOPBACK and not settings.secure:
        print(
            "note: passwords travel unencrypted; put a server with https before this one and name it with --public-url (docs/annotate.md)"
        )
    print("Ctrl-C ends it", flush=True)
