"""`keel mine RUN --to STORE --campaign NAME`: failures of a finished run become tasks of a campaign, with one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError
from keel.feedback.db import Store
from keel.verbs.annotate.recipe import AnnotateRecipe
from keel.verbs.annotate.run import media_folder
from keel.verbs.annotate.tasks import prepare
from keel.verbs.cases.run import find_tasks
from keel.web.media import Media


def mine_run(run: Path, store: str, campaign: str, overrides: Sequence[str] = (), out: str = "") -> dict[str, Any]:
    """The campaign is made where it is not there. A pair that was asked in it is not asked again. Raises UserError before anything is
    stored."""
    if not campaign or "/" in campaign or not campaign.isprintable():
        raise ConfigError("--campaign NAME is needed", "a name without / and control characters; it is made where it is not there")
    found = find_tasks(run, overrides, store, campaign, out)
    added: dict[str, int] = {}
    if found["tasks"]:
        with Store(store) as opened:
            imported = prepare(opened, Media(opened, media_folder(store)), campaign, Path(found["file"]), AnnotateRecipe(), ())
            added = dict(imported.added)
    n = sum(added.values())
    print(f"campaign {campaign}: {n} tasks added" + "".join(f"; {k} failures: {why}" for why, k in found["not_asked"].items()))
    if n:
        print(f"ask people: keel annotate --store {json.dumps(store)} --campaign {campaign}")
    return {**found, "store": store, "campaign": campaign, "added": n}
