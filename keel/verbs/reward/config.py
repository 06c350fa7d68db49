"""Settings of a reward model's losses, of whom it learns from, and of what it must not forget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.data.config import DataConfig


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


class TeacherConfig(Section):
    """Reward models whose preferences are learnt: an ensemble into one model, a strong model into a small one."""

    paths: list[str] = Field(min_length=1, description="Reward models with this model's tokenizer; of several the mean preference counts.")
    share: float = Field(default=1.0, gt=0, le=1, description="Share of a pair's label that is theirs; the rest is the data's.")
    temperature: float = Field(default=1.0, gt=0, description="Their leads are divided by it before they become probabilities.")


class MembersConfig(Section):
    """Several reward models from one recipe: each with its own seed and its own draw of the prompts. With `lora` they are adapters on one
    base, which is in memory once; else whole models."""

    members: int = Field(ge=2, le=64, description="How many.")
    bootstrap: bool = Field(default=True, description="Each sees its own draw of the prompts, with replacement.")
    member: int | None = Field(
        default=None, ge=0, description="Train this one only, counted from 0 (on several machines); empty = all, one after the other."
    )

    @model_validator(mode="after")
    def _is_one(self) -> MembersConfig:
        if self.member is not None and self.member >= self.members:
            raise ValueError(f"member={self.member} of {self.members}: they are counted from 0")
        return self


class EarlierConfig(Section):
    """Data that the model was trained on before: some of it is replayed, and what is forgotten is measured."""

    data: DataConfig = Field(description="The earlier data.")
    replay: float = Field(default=0.25, ge=0, description="Earlier records beside the new ones, as a share of these.")
    held_out: float = Field(default=0.2, gt=0, lt=1, description="Share of the earlier prompts that is only measured, before and after.")
