"""From settings to sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keel.rewards.cache import CachedTexts, ScoreCache, identity
from keel.rewards.composition.rewards import Reward, check_names
from keel.rewards.score import PartsRow, SourceRow, TextRow
from keel.rewards.segments import Decode, SegmentedText, in_answers, splitter
from keel.rewards.settings import FormConfig, IsolatedConfig, SegmentedConfig, SourceConfig
from keel.rewards.sources.python import CompareConfig, python_comparison
from keel.rewards.sources.workers import WorkerSource
from keel.rewards.table import row_of
from keel.rewards.text import TextSource
from keel.types import RewardSource


def build_rewards(
    configs: Sequence[SourceConfig], load_model: Callable[[Any], RewardSource], decode: Decode | None = None
) -> tuple[Reward, ...]:
    """The named rewards of a recipe. ``load_model`` makes the source of a reward model, here or behind a server, ``decode`` turns sampled
    tokens into text: what runs models and decodes tokens is not this room's matter.

    Raises UserError for names that stand twice, rule files, functions and libraries that cannot be read.
    """

    def source(config: SourceConfig) -> RewardSource:
        row = row_of(config)
        if isinstance(row, SourceRow):
            return load_model(config) if row.source is None else row.source(config, decode)
        return text_source(config, decode)

    sources = [source(c) for c in configs]
    rewards = tuple(Reward(source, c.weight, c.on_failure, c.retries) for source, c in zip(sources, configs, strict=True))
    check_names(rewards)
    return rewards


def text_source(config: SourceConfig, decode: Decode | None = None) -> TextSource | WorkerSource | CachedTexts | SegmentedText:
    """The source of a reward that reads text alone: in worker processes where it runs what may hang or die, else in this one; behind its
    cache where it has one; asked about the parts of an answer where it is to. ``decode`` says at which token a part ends.

    Raises UserError when it cannot be built, AssertionError for a reward that reads more than text.
    """
    row = row_of(config)
    assert not isinstance(row, SourceRow), f"reward {config.name!r} reads more than text"
    if isinstance(row, PartsRow):
        given: Any = config  # settings of such a row have aggregate and none
        return SegmentedText(TextSource(config.name, row.judge), row.split, given.aggregate, decode, given.none)
    segments = config.parts() if isinstance(config, SegmentedConfig) else None
    whole = _whole_source(config, row)
    if segments is None:
        return whole
    split = splitter(segments)
    if isinstance(config, FormConfig) and not config.thoughts:
        split = in_answers(split)
    return SegmentedText(whole, split, segments.aggregate, decode)


def comparing_source(config: CompareConfig) -> WorkerSource | CachedTexts:
    """What compares two answers, in worker processes, behind its cache where it has one. Raises UserError for a file or function that is
    not right."""
    source = WorkerSource(config, python_comparison, config.worker)
    source.start()
    return CachedTexts(source, ScoreCache(Path(config.worker.cache), identity(config))) if config.worker.cache else source


def _whole_source(config: SourceConfig, row: TextRow) -> TextSource | WorkerSource | CachedTexts:
    options = config.processes() if isinstance(config, IsolatedConfig) else None
    if options is None:
        source = TextSource(config.name, row.make(config))
    else:
        source = WorkerSource(config, row.make, options)
        source.start()
    folder = config.worker.cache if isinstance(config, IsolatedConfig) else ""
    return CachedTexts(source, ScoreCache(Path(folder), identity(config))) if folder else source
