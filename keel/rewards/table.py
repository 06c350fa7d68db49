"""The table of rewards: one row a kind. What a recipe may hold, what is built of it and the names of ``keel score`` are made from it.

A new kind of reward is a file with its settings, its function and its ``ROW``, and a line here. Reading the table loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Field

from keel.rewards.score import PartsRow, Row, SourceRow, TextReward, TextRow
from keel.rewards.settings import SegmentedConfig, SourceConfig
from keel.rewards.sources import constitution, diversity, finished, hallucination, judge, model, python, remote, rotating
from keel.rewards.verifiers import (
    choice,
    code,
    consistency,
    contains,
    exact,
    gaming,
    gym,
    ifeval,
    json_schema,
    maths,
    numeric,
    regex,
    rules,
    steps,
)

ROWS: tuple[Row, ...] = (
    model.ROW,
    remote.ROW,
    rules.ROW,
    python.ROW,
    exact.ROW,
    numeric.ROW,
    maths.ROW,
    choice.ROW,
    contains.ROW,
    consistency.ROW,
    regex.ROW,
    json_schema.ROW,
    ifeval.ROW,
    gym.ROW,
    code.ROW,
    steps.ROW,
    finished.ROW,
    gaming.ROW,
    diversity.ROW,
    rotating.ROW,
    hallucination.ROW,
    judge.ROW,
    constitution.ROW,
)

if TYPE_CHECKING:
    RewardConfig = SourceConfig  # checkers of types cannot read a union that is made of a table
else:
    RewardConfig = Annotated[Union[tuple(row.settings for row in ROWS)], Field(discriminator="type")]  # noqa: UP007

_BY_SETTINGS: Mapping[type, Row] = {row.settings: row for row in ROWS}


def row_of(config: SourceConfig) -> Row:
    """The row of a reward's settings."""
    return _BY_SETTINGS[type(config)]


def text_reward(config: SourceConfig) -> TextReward:
    """The function of prompt and answer behind a reward that reads text alone. Raises UserError for files, functions and libraries that
    are not there, AssertionError for a reward that reads more than text."""
    row = row_of(config)
    assert isinstance(row, TextRow), f"a {type_names(row)[0]} reward reads more than text"
    return row.make(config)


def in_parts(config: SourceConfig) -> bool:
    """Does it score an answer part by part? Raises ConfigError for parts that it cannot score."""
    asked = config.parts() if isinstance(config, SegmentedConfig) else None
    return asked is not None or isinstance(row_of(config), PartsRow)


def type_names(row: Row) -> tuple[str, ...]:
    """What ``type`` of the row's settings may be."""
    kind: Any = row.settings.model_fields["type"].annotation
    return get_args(kind)


def scorers() -> dict[str, Row]:
    """Rewards of ``keel score`` by the name that stands for them."""
    return {name: row for row in ROWS if row.argument is None and not isinstance(row, SourceRow) for name in type_names(row)}


def scorers_of() -> dict[str, Row]:
    """Rewards of ``keel score`` that are written TYPE:VALUE, by the type."""
    return {type_names(row)[0]: row for row in ROWS if row.argument is not None}


def scorer_names() -> list[str]:
    """What ``keel score --reward`` takes, as it is shown."""
    return [*scorers(), *(f"{name}:{row.argument.shown}" for name, row in scorers_of().items() if row.argument is not None)]
