"""Texts of `keel new` by language: `lang/*.json` and `templates/*`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from keel.core.json_lines import lines_of

_HERE = Path(__file__).parent


@cache
def words(language: str) -> dict[str, str]:
    """All texts of a language, by key."""
    return json.loads((_HERE / "lang" / f"{language}.json").read_text(encoding="utf-8"))


def template(name: str) -> str:
    """A file of ``templates/``."""
    return (_HERE / "templates" / name).read_text(encoding="utf-8")


def example_rows(language: str) -> list[dict[str, str]]:
    """Questions with a good and a poor answer, written for this."""
    return [json.loads(line) for line in lines_of((_HERE / "examples" / f"{language}.jsonl").read_text(encoding="utf-8"))]
