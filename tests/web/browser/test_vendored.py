"""Foreign files that the pages load: which, of which version, under which licence, and unchanged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

WEB = Path(__file__).parents[3] / "keel" / "web"
FOLDER = Path(__file__).parents[3] / "keel" / "site" / "static" / "vendored"


def test_every_file_is_listed_with_its_hash_and_licence() -> None:
    listed = json.loads((FOLDER / "list.json").read_text(encoding="utf-8"))
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"list.json"}
    assert files == {row["file"] for row in listed}
    for row in listed:
        assert hashlib.sha256((FOLDER / row["file"]).read_bytes()).hexdigest() == row["sha256"], row["file"]
        assert row["version"] in row["source"]
        for licence in row["licences"]:
            assert (FOLDER / "licences" / licence).read_text(encoding="utf-8").strip()
    named = {licence for row in listed for licence in row["licences"]}
    assert named == {path.name for path in (FOLDER / "licences").iterdir()}


def test_nothing_points_to_files_that_are_not_there() -> None:
    """A source map that is missing is an error in every console."""
    for path in FOLDER.glob("*.js"):
        assert b"sourceMappingURL" not in path.read_bytes(), path.name


def test_the_page_asks_for_all_its_modules_at_once() -> None:
    """A module that is found only when another was read costs a round trip: all are named in the page."""
    template = (WEB / "templates" / "annotate.html").read_text(encoding="utf-8")
    modules = {path.name for path in (WEB / "static" / "annotate").glob("*.js")} - {"worker.js"}
    assert all(f'"/static/annotate/{name}"' in template for name in modules)
