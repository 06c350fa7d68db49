"""Settings of a reward of several members."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.config import Section


class EnsembleConfig(Section):
    """What becomes of several members' scores."""

    aggregate: Literal["mean", "median", "min", "lower_bound"] = Field(
        default="mean", description="Of the members' scores: mean, median, the least, or the mean less `k` standard deviations."
    )
    k: float = Field(default=1.0, ge=0, description="lower_bound: standard deviations that are taken off.")
    refuse_above: float | None = Field(
        default=None, gt=0, description="An answer on which the members' standard deviation is above this gets no reward, and is counted."
    )
    members: list[str] = Field(default=[], description="Further reward models that are asked beside `path`; each score in its own scale.")
