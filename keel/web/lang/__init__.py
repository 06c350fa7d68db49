"""What the server's own pages say, one catalogue a language beside this file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


@cache
def catalogue(language: str) -> dict[str, str]:
    """Texts by key."""
    return json.loads((Path(__file__).parent / f"{language}.json").read_text(encoding="utf-8"))
