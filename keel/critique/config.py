"""Settings of critique, revision, and pairs made of scores."""

from __future__ import annotations

from pydantic import Field

from keel.core.config import Section
from keel.critique.ask import LEAST, MOST

RULES = "rules"


class ReviseConfig(Section):
    """Rounds of critique and revision, one principle a round."""

    answers: int = Field(default=1, ge=0, description="Answers to each prompt that are revised, the first ones; 0 = none is.")
    rounds: int = Field(
        default=3, ge=1, le=50, description="Rounds at most; an answer that keeps all principles, or gets no better, stops."
    )
    critic: str = Field(
        default="",
        description="Who criticises: a judge of the file of judges (endpoint or local), `rules` = what rules and verifiers found, empty = "
        "`model` itself.",
    )
    reviser: str = Field(default="", description="Who revises: a judge of the file of judges (endpoint or local); empty = `model` itself.")
    revisions: int = Field(default=2, ge=1, le=16, description="Revisions drawn in each round, of which one is taken at most.")
    least_severity: int = Field(default=2, ge=LEAST, le=MOST, description="A critique below this severity asks for no revision.")
    gain: float = Field(default=0.01, ge=0, description="A revision must score more than this above the answer, or it is dropped.")
    slack: float = Field(
        default=0.05, ge=0, description="Among revisions that score at most this below the best one, the least edited is taken."
    )
    most_edit: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="A revision that changes a larger share of the words is a new answer, and dropped. 1 allows all: a refusal has no word "
        "of what it stands for.",
    )
    keep: bool = Field(
        default=True, description="A demonstration may only be an answer that keeps all principles; false: the best one that there is."
    )
    max_tokens: int = Field(default=160, ge=8, description="Longest critique or revision of `model` itself.")
    temperature: float = Field(default=0.7, ge=0, description="Of revisions; critiques of `model` itself are greedy.")
    critique_template: str = Field(default="", description="Template of critiques; empty = ours, in the constitution's language.")
    revision_template: str = Field(default="", description="Template of revisions; empty = ours, in the constitution's language.")


class PairsConfig(Section):
    """Pairs of answers whose scores are apart."""

    gap: float = Field(default=0.1, gt=0, description="Epsilon: the better answer scores more than this above the other.")
    per_prompt: int = Field(default=2, ge=1, description="Pairs of one prompt at most, those with the largest gap first.")
    confidence: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="Below this a pair is left out: the share of the deciding principles' differences that speak for the better answer, "
        "times how often its sampled scores lie above.",
    )
    apart: float = Field(default=0.1, gt=0, le=1, description="Two principles are in conflict where they differ by more than this.")


class AuditConfig(Section):
    """Pairs that people look at, so that somebody notices where the constitution's scores go wrong."""

    share: float = Field(default=0.05, ge=0, le=1, description="Share of the pairs, drawn at random; at least one.")
    unsure: int = Field(default=0, ge=0, description="Pairs left out for low confidence that people are asked about too, at most.")
    protocol: str = Field(default="pairwise-v1", min_length=1, description="Protocol of the tasks.")
    store: str = Field(default="", description="Store of feedback that the tasks also go into, e.g. sqlite:///feedback.db.")
    campaign: str = Field(default="audit", min_length=1, description="Campaign of the tasks.")
    people: int = Field(default=1, ge=1, description="People asked about each.")
