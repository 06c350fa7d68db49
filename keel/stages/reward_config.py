"""Settings of a reward model's losses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.config import Section


class RewardLossConfig(Section):
    """How preferences become a loss. Rankings are Plackett-Luce's, ratings follow from the head's output."""

    pairs: Literal["auto", "bradley_terry", "hinge", "davidson", "rao_kupper"] = Field(
        default="auto", description="Loss of pairs. auto: Davidson's where the data have ties, else Bradley-Terry."
    )
    least_margin: float = Field(default=1.0, gt=0, description="hinge: the least lead that is asked for.")
    smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="Share of labels that is taken to be flipped (label smoothing).")
    self_trust: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a label that is the model's own preference, for learning from a weaker model's labels.",
    )
