"""What a campaign is, without the database, which is an extra: files of tasks begin with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from keel.types import TaskKind

Role = Literal["work", "gold", "training", "qualification"]
ROLES = ("work", "gold", "training", "qualification")


@dataclass(frozen=True, slots=True)
class CampaignSettings:
    """How a campaign judges answers; all of it may be left as it is."""

    pass_mark: float = 0.8  # share of qualification items that must be right
    right_at: float = 1.0  # likeness to the known answer from which an answer is right
    scale: float = 1.0  # width of the protocol's scale of scores: differences are measured against it
    disagreement: float | None = None  # votes that disagree more than this go to an adjudicator; None = none do
    repeat_gap: int = 5  # slots between an item and its repeat, at least
    page: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what only pages read: dimensions, kinds of spans ...


@dataclass(frozen=True, slots=True)
class Campaign:
    """One round of questions of one kind and protocol. ``seed`` decides all that is random in it."""

    name: str
    wanted: int  # different people an item
    kind: TaskKind
    protocol: str
    guideline: str = ""
    gold_share: float = 0.0  # of the items that a person gets
    repeat_share: float = 0.0
    lease_seconds: float = 1800.0
    paused: bool = False
    seed: int = 0
    settings: CampaignSettings = field(default_factory=CampaignSettings)
