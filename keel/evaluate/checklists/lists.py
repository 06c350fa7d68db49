"""The lists: items as data, each with what the program found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from keel.evaluate.checklists.checks import CHECKS, Found, Status
from keel.evaluate.checklists.facts import Facts

When = Literal["before", "during", "after"]
WHENS: tuple[When, ...] = ("before", "during", "after")
STATUSES: tuple[Status, ...] = ("fail", "pass", "cannot tell", "for a person")


@dataclass(frozen=True, slots=True)
class Item:
    """A line of a list. ``check``: the function that looks, empty for a matter of people."""

    name: str
    when: When
    en: str
    zh: str
    page: str
    check: str = ""
    limits: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """An item and what was found."""

    item: Item
    status: Status
    evidence: str

    def to_json(self) -> dict[str, Any]:
        """Plain: the item's fields, status, evidence."""
        return {**asdict(self.item), "limits": dict(self.item.limits), "status": self.status, "evidence": self.evidence}


@cache
def items() -> tuple[Item, ...]:
    """All items, in their order."""
    text = (resources.files("keel.evaluate.checklists") / "items.yaml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = yaml.safe_load(text)["items"]
    return tuple(Item(**{**row, "limits": tuple((row.get("limits") or {}).items())}) for row in rows)


def check_items(facts: Facts, whens: Sequence[When] = WHENS) -> list[Checked]:
    """Every item of these lists."""
    return [_checked(item, facts) for item in items() if item.when in whens]


def _checked(item: Item, facts: Facts) -> Checked:
    found = CHECKS[item.check](facts, dict(item.limits)) if item.check else Found("for a person")
    return Checked(item, found.status, found.evidence)
