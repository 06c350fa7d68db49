"""What stands beside an item or a vote (``meta``) as columns of a row whose other columns have a meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "meta."
Taken = Callable[[str], bool]


def columns_of(meta: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    """Columns for ``meta``: under their own names, or ``meta.NAME`` where the format has a meaning for the name (``taken``)."""
    return {f"{PREFIX}{name}" if taken(_bare(name)) else name: value for name, value in meta.items()}


def meta_of(columns: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    """The way back: other columns, and those that are called ``meta.NAME`` because the name was taken."""
    return {name.removeprefix(PREFIX) if name != (bare := _bare(name)) and taken(bare) else name: v for name, v in columns.items()}


def _bare(name: str) -> str:
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    return name
