"""Where the names in a run's record point: its relative paths begin in the folder that it was started in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

_TIME = re.compile(r" \d{4}-\d\d-\d\dT\S+$")  # at the end of a run's identity
_LONGEST = 1024  # a longer text is no path


def folders(manifest: Mapping[str, Any]) -> tuple[Path, ...]:
    """The folders that a run was started in, each once; the current one where its record does not say."""
    starts = manifest.get("starts")
    entries = cast("list[Any]", starts) if isinstance(starts, list) else []
    said = [cast("dict[str, Any]", entry).get("folder") for entry in entries if isinstance(entry, dict)]
    return tuple(map(Path, dict.fromkeys(str(folder) for folder in said if folder))) or (Path.cwd(),)


def places(manifest: Mapping[str, Any], name: str) -> frozenset[Path]:
    """What a text of a run's record names where it is taken for a path: from each of its folders, links followed. Nothing need be there."""
    bare = _TIME.sub("", name)
    if not bare or len(bare) > _LONGEST or "\n" in bare or "\0" in bare:
        return frozenset()
    try:
        own = os.path.expanduser(bare)
        return frozenset(Path(os.path.realpath(folder / own)) for folder in folders(manifest))
    except ValueError:  # a text that no file system can name
        return frozenset()
