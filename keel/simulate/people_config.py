"""Settings of simulated people."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.feedback.config import AnnotatorsConfig

Fault = Literal["always_left", "random", "fast", "drifting", "sold"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class PeopleConfig(Section):
    """Simulated people: slightly different readers of one hidden utility, some of them faulty, who work through the server."""

    count: int = Field(default=6, ge=1, le=500, description="How many people there are, faulty ones among them.")
    faulty: dict[Fault, int] = Field(
        default={},
        description="How many have which fault: always_left, random, fast (random before anybody could read), drifting (ever more random), "
        "sold (the account changes hands after forty answers).",
    )
    noise: float = Field(default=0.08, ge=0, description="Standard deviation of a judgement's noise, on the scale of the utility (0 to 1).")
    spread: float = Field(
        default=0.3, ge=0, description="How much people differ: standard deviation of the log of their weights and noises."
    )
    tie_threshold: float = Field(default=0.03, ge=0, description="Perceived differences below about this are called ties.")
    position_bias: float = Field(default=0.02, description="How much better the answer on the left looks, on the scale of the utility.")
    both_bad: float = Field(default=0.1, ge=0, le=1, description="Both answers look worse than this: both are called bad; 0 = never.")
    undo: float = Field(default=0.03, ge=0, le=0.5, description="Share of answers that are given by mistake, taken back and given again.")
    seconds_a_word: float = Field(
        default=0.25, gt=0, description="Reading time of a word, told to the server as time at work; nobody waits."
    )
    utility: str = Field(
        default="",
        pattern=r"^(.+\.py:\w+)?$",
        description="FILE.py:NAME of fn(prompt, text) -> what each feature of the text is worth, by name; empty = the shop assistant's.",
    )

    @model_validator(mode="after")
    def _faulty_ones_are_people(self) -> PeopleConfig:
        if min(self.faulty.values(), default=0) < 0:
            raise ValueError("faulty: a number of people is 0 or more")
        if sum(self.faulty.values()) > self.count:
            raise ValueError(f"faulty names {sum(self.faulty.values())} people, but there are only {self.count}: raise count")
        return self

    def readers(self) -> AnnotatorsConfig:
        """The same people as annotators without faults."""
        same = ("count", "noise", "spread", "tie_threshold", "position_bias", "utility")
        return AnnotatorsConfig(per_item=1, **{name: getattr(self, name) for name in same})

    def faults(self) -> list[Fault | None]:
        """The fault of each person, in order; the faulty ones are the last."""
        bad: list[Fault | None] = [fault for fault in FAULTS for _ in range(self.faulty.get(fault, 0))]
        none: list[Fault | None] = [None]
        return none * (self.count - len(bad)) + bad
