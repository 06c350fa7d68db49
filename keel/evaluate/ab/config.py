"""The file of an experiment: what is compared, how it was planned, what must not get worse."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.evaluate.ab.mixture import BURN_IN


class PlanConfig(Section):
    """How many units, and when they are looked at. Fixed before the first one is seen."""

    min_effect: float = Field(gt=0, description="Smallest difference that matters: 0.05 = a win rate of 55%, or 0.05 more of the outcome.")
    power: float = Field(default=0.8, gt=0.5, lt=1, description="Chance to find that difference if it is there.")
    looks: int | tuple[float, ...] = Field(default=4, description="How many looks, evenly spaced; or their shares of the sample, up to 1.")
    boundary: Literal["obrien_fleming", "pocock", "lan_demets_obrien_fleming", "lan_demets_pocock"] = Field(
        default="obrien_fleming", description="How alpha is shared out over the looks; the last two spend it, for looks of any spacing."
    )
    deviation: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of a unit's value; without it half of the outcome's range, the most there can be.",
    )
    pilot: str = Field(
        default="", description="Data of the same kind from before, whose standard deviation is taken. None of it is tested."
    )

    @model_validator(mode="after")
    def _can_be_done(self) -> PlanConfig:
        if isinstance(self.looks, int):
            if not 1 <= self.looks <= 100:
                raise ValueError(f"looks must be 1 to 100, not {self.looks}: without a plan there may be any number")
        elif not self.looks or any(b <= a for a, b in zip((0.0, *self.looks), self.looks)) or self.looks[-1] != 1:
            raise ValueError(f"looks must rise from above 0 to 1, like [0.3, 0.6, 1], not {list(self.looks)}")
        if self.deviation is not None and self.pilot:
            raise ValueError("give deviation or pilot, not both")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """The looks as shares of the sample."""
        return tuple((k + 1) / self.looks for k in range(self.looks)) if isinstance(self.looks, int) else self.looks


class GuardConfig(Section):
    """A measure that must not get worse by more than a margin; it is shown to hold, or it is open."""

    name: str = Field(description="What it is called.")
    field: str = Field(default="", description="Its field in the rows; the name unless given.")
    margin: float = Field(gt=0, description="How much worse is still allowed, in its own units.")
    better: Literal["higher", "lower"] = Field(default="lower", description="Which way is better: lower for length, cost and refusals.")
    range: tuple[float, float] | None = Field(
        default=None,
        description="Least and most that it can be: with it, bets are valid from the first unit on; without, after the burn-in.",
    )

    @model_validator(mode="after")
    def _has_a_range(self) -> GuardConfig:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must rise, not {list(self.range)}")
        return self


class AlwaysValidConfig(Section):
    """What is done without a plan: any number of looks, at any time."""

    method: Literal["betting", "mixture"] = Field(
        default="betting", description="betting: valid from the first unit on; mixture: asymptotic, after a burn-in only."
    )
    burn_in: int = Field(default=BURN_IN, ge=BURN_IN, description="Units before which the asymptotic interval is not looked at.")
    horizon: int = Field(default=1_000, ge=1, description="Units at which the asymptotic interval is made narrowest.")
    min_effect: float = Field(default=0.0, ge=0, description="Smallest difference that matters; an interval below it says: not better.")


class AbConfig(Section):
    """`keel ab plan|check FILE`: an experiment of two arms."""

    name: str = Field(
        default="experiment", min_length=1, description="Name of the experiment; the hash that assigns keys to arms holds it."
    )
    data: str = Field(default="", description="JSONL of paired verdicts (offline) or of assigned outcomes (online); docs/ab.md.")
    control: str = Field(default="control", description="What the rows call the arm that is there now.")
    treatment: str = Field(default="treatment", description="What the rows call the arm that is tried.")
    share: float = Field(default=0.5, gt=0, lt=1, description="Share of users that get the treatment (online).")
    outcome: str = Field(default="", description="Field of the outcome: verdict offline and outcome online, unless given.")
    scorer: str = Field(default="gold", description="Which score decides a pair, where the rows are those of samples/evaluation.jsonl.")
    range: tuple[float, float] = Field(default=(0.0, 1.0), description="Least and most that an online outcome can be.")
    better: Literal["higher", "lower"] = Field(default="higher", description="Which outcome is better.")
    alpha: float = Field(default=0.05, gt=0, le=0.5, description="Chance of a wrong claim, over all looks together.")
    settle: int | None = Field(
        default=None,
        ge=1,
        description="Outcomes after which a unit's value stands, later ones are counted and not used; without it all of a pair's verdicts "
        "offline and with a plan, a user's first outcome online without one.",
    )
    plan: PlanConfig | None = Field(default=None, description="The plan; without one the test is always valid and needs more units.")
    always_valid: AlwaysValidConfig = Field(default=AlwaysValidConfig(), description="The test without a plan.")
    guards: tuple[GuardConfig, ...] = Field(default=(), description="Measures that must not get worse.")

    @model_validator(mode="after")
    def _fits(self) -> AbConfig:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range must rise, not {list(self.range)}")
        if self.control == self.treatment:
            raise ValueError(f"control and treatment are both called {self.control!r}")
        if len({g.name for g in self.guards}) < len(self.guards):
            raise ValueError("two guards have the same name")
        if self.plan is not None and self.always_valid.changed:
            raise ValueError("always_valid has no effect where there is a plan: leave out one of them")
        return self
