"""Settings of `keel cases RUN` and `keel mine RUN`."""

from __future__ import annotations

from pydantic import Field

from keel.core.config import Section
from keel.feedback import hacks


class CasesConfig(Section):
    """Which answers of a finished evaluation or RL run are failures, how they are grouped, which are shown and sent."""

    scorer: str = Field(default="", description="Whose scores say what is best, worst and lost; empty: the run's headline, else its first.")
    worst: float = Field(default=0.1, ge=0, le=0.5, description="worst: this share of the answers with the lowest scores; 0 = off.")
    disagree: float = Field(
        default=0.25,
        ge=0,
        le=0.5,
        description="disagree: among this share of the best by one scorer and of the worst by another; 0 = off.",
    )
    repetition: float = Field(default=hacks.REPETITION, ge=0, le=1, description="hack: share of repeated 4-grams from which on; 0 = off.")
    echo: float = Field(default=hacks.ECHO, ge=0, le=1, description="hack: share of the answer's 4-grams in the prompt; 0 = off.")
    refrain: float = Field(default=hacks.REFRAIN, ge=0, le=1, description="hack: a sentence in answers to this share of prompts; 0 = off.")
    clusters: int = Field(default=0, ge=0, le=50, description="Groups by the prompts' wording; 0: as many as there are prompts for.")
    examples: int = Field(default=3, ge=1, description="Answers shown of each group.")
    fixed: int = Field(default=3, ge=0, description="Cases that are always shown, the same whatever the run.")
    extremes: int = Field(default=3, ge=0, description="Worst and best cases that are shown, of each so many.")
    random: int = Field(default=3, ge=0, description="Cases drawn at random.")
    picture_kb: int = Field(
        default=4000, ge=0, description="Pictures on the page, all together in kB; what is beyond is left out by count."
    )
    tasks: int = Field(default=60, ge=1, description="Most tasks that `keel mine` sends.")
    per_prompt: int = Field(default=2, ge=1, description="Of one prompt at most this many tasks.")
    seed: int = Field(default=0, description="Draws the random cases and breaks ties.")
