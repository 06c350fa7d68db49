"""How a campaign judges answers, and in which order people get its items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal, get_args

from keel.core.errors import ConfigError

Order = Literal["given", "judge_doubt"]
ORDERS: tuple[str, ...] = get_args(Order)


@dataclass(frozen=True, slots=True)
class CampaignSettings:
    """All of it may be left as it is."""

    pass_mark: float = 0.8  # share of qualification items that must be right
    right_at: float = 1.0  # likeness to the known answer from which an answer is right
    scale: float = 1.0  # width of the protocol's scale of scores: differences are measured against it
    disagreement: float | None = None  # votes that disagree more than this go to an adjudicator; None = none do
    repeat_gap: int = 5  # slots between an item and its repeat, at least
    page: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what only pages read: dimensions, kinds of spans ...
    order: Order = "given"  # of items of one priority: as they came, or those that judges doubt first
    judge_sure: float = 0.9  # judge_doubt: the confidence from which a judge's verdict is sure, in (0.5, 1]
    judge_labels: bool = False  # judge_doubt: what it is sure of is labelled by the judge, and people are not asked
    judge_audit: float = 0.1  # judge_labels: share of the sure ones that people are asked all the same, drawn by hash

    @property
    def judges_advise(self) -> bool:
        """Do judges say only who is asked what? Then their verdicts take no person's place."""
        return self.order == "judge_doubt"


def settings_from(row: Mapping[str, Any]) -> CampaignSettings:
    """The settings of a plain object. Raises ConfigError naming an unknown setting or one out of range."""
    known = [f.name for f in fields(CampaignSettings)]
    unknown = [name for name in row if name not in known]
    if unknown:
        raise ConfigError(f"campaign settings: {unknown[0]} is unknown", f"known: {', '.join(known)}")
    found = CampaignSettings(**row)
    check_settings(found)
    return found


def check_settings(found: CampaignSettings, kind: str = "") -> None:
    """Raises ConfigError for a setting out of range, or one that has no meaning for items of that ``kind``."""
    for name in ("pass_mark", "right_at", "disagreement", "judge_audit"):
        value = getattr(found, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ConfigError(f"campaign settings: {name} must be between 0 and 1, is {value}")
    if found.scale <= 0 or found.repeat_gap < 1:
        raise ConfigError("campaign settings: scale must be above 0 and repeat_gap at least 1")
    if found.order not in ORDERS:
        raise ConfigError(f"campaign settings: order {found.order!r} is unknown", f"known: {', '.join(ORDERS)}")
    if not 0.5 < found.judge_sure <= 1.0:
        raise ConfigError(f"campaign settings: judge_sure must be above 0.5 and at most 1, is {found.judge_sure}")
    if found.judge_labels and found.order != "judge_doubt":
        raise ConfigError("campaign settings: judge_labels would have no effect with order=given", "order=judge_doubt")
    if found.judge_labels and not found.judge_audit:
        what = "campaign settings: judge_audit is 0: nobody would see what a judge is sure of and wrong about"
        raise ConfigError(what, "a share above 0, e.g. 0.1")
    if found.order == "judge_doubt" and kind not in ("", "pairwise", "ranking"):
        raise ConfigError(f"campaign settings: order=judge_doubt is for pairs and rankings, not for {kind}", "order=given")


def settings_row(settings: CampaignSettings) -> dict[str, Any]:
    """The settings as a plain object."""
    return {f.name: getattr(settings, f.name) for f in fields(CampaignSettings)}


@lru_cache(maxsize=256)
def read_settings(text: str) -> CampaignSettings:
    """The settings as a store holds them."""
    return settings_from(json.loads(text))
