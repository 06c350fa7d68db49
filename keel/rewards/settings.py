"""What the settings of all rewards share: fields, and what a reward says of itself so that the rest of the house need not know it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from keel.core.config import Section
from keel.core.errors import ConfigError

OnFailure = Literal["retry", "drop_sample", "stop"]
RIGHT_ANSWER = "which holds the right answer"


def compiles(pattern: str) -> str:
    """The pattern, if it is one. Raises ValueError with the place of the mistake."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error.msg} at position {error.pos}: {pattern!r}") from None
    return pattern


Aggregate = Literal["mean", "sum", "min", "last"]


class SegmentsConfig(Section):
    """The parts of an answer that are scored one by one."""

    by: Literal["token", "sentence", "line", "paragraph"] = Field(
        description="sentence (English and Chinese), line, paragraph (between empty lines), or token (of a reward model)."
    )
    aggregate: Aggregate = Field(
        default="mean", description="The answer's score, of those of its parts: mean, sum, the least, the last one's."
    )


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file or a model folder that settings name, under ``key``."""

    key: str
    path: str
    is_model: bool = False


class ScoringConfig(Section):
    """What decides the scores beside the settings themselves."""

    libraries: ClassVar[tuple[str, ...]] = ()  # packages whose version decides; "python" is the language

    def files(self) -> Iterator[InputFile]:
        """The files and model folders whose content decides the scores."""
        return iter(())


class SourceConfig(ScoringConfig):
    """A named source and its weight."""

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$", description="Name of the reward in metrics and reports.")
    weight: float = Field(default=1.0, description="Factor in the sum of rewards; below 0 punishes.")
    on_failure: OnFailure | None = Field(
        default=None,
        description="A score that fails: retry (and drop the sample when that fails too), drop_sample, stop; empty = on_reward_failure.",
    )
    retries: int = Field(default=2, ge=1, description="How often a failed score is asked for again; read with on_failure=retry.")

    def columns(self) -> Iterator[tuple[str, str]]:
        """Columns without which no row can be scored, each with what it is for: the end of "no row has a column 'x', ..."."""
        return iter(())


class WorkerConfig(Section):
    """The processes that a reward runs in: one that hangs or dies takes no run with it."""

    processes: int = Field(default=2, ge=1, le=256, description="Worker processes of this reward.")
    timeout_s: float = Field(
        default=20.0, gt=0, description="Seconds for one answer; a worker that takes longer is ended, its score failed."
    )
    cache: str = Field(default="", description="Folder in which scores are kept and looked up, for rewards that always say the same.")


class IsolatedConfig(SourceConfig):
    """A source that runs in processes of its own, since what it runs may hang or die."""

    worker: WorkerConfig = Field(default=WorkerConfig(), description="The processes that it runs in.")

    def processes(self) -> WorkerConfig | None:
        """The processes that these very settings need; None where nothing in them can hang."""
        return self.worker


class SegmentedConfig(SourceConfig):
    """A source that can score an answer part by part."""

    by_token: ClassVar[bool] = False  # can a part be a single token?

    segments: SegmentsConfig | None = Field(
        default=None,
        description="Score the answer's parts one by one; credit by token sees each at its end. Empty: the whole answer.",
    )

    def parts(self) -> SegmentsConfig | None:
        """The parts that are scored one by one; None where the whole answer is. Raises ConfigError for tokens of what reads text."""
        if self.segments is not None and self.segments.by == "token" and not self.by_token:
            raise ConfigError(f"reward '{self.name}': segments.by=token is for reward models", "use sentence, line or paragraph")
        return self.segments


class FormConfig(SourceConfig):
    """A source that looks at the form of an answer."""

    thoughts: bool = Field(
        default=False,
        description="Look at the model's thoughts (<think>...</think> and the like) too; false = only at the answer that follows them.",
    )


class TruthConfig(SourceConfig):
    """A source that compares with the row's right answer."""

    truth: str = Field(default="ground_truth", min_length=1, description="Key of the prompt's extra columns that holds the right answer.")

    def columns(self) -> Iterator[tuple[str, str]]:
        yield self.truth, RIGHT_ANSWER
