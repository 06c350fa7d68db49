"""What a campaign is, without the database, which is an extra: files of tasks begin with one."""

from __future__ import annotations

from dataclasses import dataclass, field

from keel.feedback.campaign_settings import CampaignSettings
from keel.types import TaskKind


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
