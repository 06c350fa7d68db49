"""From settings to sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from keel.rewards.build_text import text_reward
from keel.rewards.cache import CachedTexts, ScoreCache
from keel.rewards.compare_config import CompareConfig
from keel.rewards.composition.rewards import Reward, check_names
from keel.rewards.config import CodeReward, FinishedReward, ModelReward, RewardConfig, RulesReward, StepsReward, segments_of
from keel.rewards.finished import FinishedSource
from keel.rewards.identity import identity
from keel.rewards.remote_config import RemoteReward
from keel.rewards.rules import read_rules
from keel.rewards.segments import Decode, SegmentedText, in_answers, splitter
from keel.rewards.settings import FormConfig, IsolatedConfig, WorkerConfig
from keel.rewards.steps import equation_right, equations
from keel.rewards.text import TextSource
from keel.rewards.workers import WorkerSource
from keel.types import RewardSource

__all__ = ["build_rewards", "text_reward", "text_source"]


def build_rewards(
    configs: Sequence[RewardConfig], load_model: Callable[[ModelReward | RemoteReward], RewardSource], decode: Decode | None = None
) -> tuple[Reward, ...]:
    """The named rewards of a recipe. ``load_model`` makes the source of a reward model, here or behind a server, ``decode`` turns sampled
    tokens into text: what runs models and decodes tokens is not this room's matter.

    Raises UserError for names that stand twice, rule files, functions and libraries that cannot be read.
    """

    def source(config: RewardConfig) -> RewardSource:
        match config:
            case ModelReward() | RemoteReward():
                return load_model(config)
            case FinishedReward():
                return FinishedSource(config.name)
            case _:
                return text_source(config, decode)

    sources = [source(c) for c in configs]
    rewards = tuple(Reward(source, c.weight, c.on_failure, c.retries) for source, c in zip(sources, configs, strict=True))
    check_names(rewards)
    return rewards


def text_source(config: RewardConfig, decode: Decode | None = None) -> TextSource | WorkerSource | CachedTexts | SegmentedText:
    """The source of a reward that reads text alone: in worker processes where it runs what may hang or die, else in this one; behind its
    cache where it has one; asked about the parts of an answer where it is to. ``decode`` says at which token a part ends.

    Raises UserError when it cannot be built.
    """
    if isinstance(config, StepsReward):
        return SegmentedText(TextSource(config.name, equation_right), equations, config.aggregate, decode, config.none)
    segments = segments_of(config)
    whole = _whole_source(config)
    if segments is None:
        return whole
    split = splitter(segments)
    if isinstance(config, FormConfig) and not config.thoughts:
        split = in_answers(split)
    return SegmentedText(whole, split, segments.aggregate, decode)


def comparing_source(config: CompareConfig) -> WorkerSource | CachedTexts:
    """What compares two answers, in worker processes, behind its cache where it has one. Raises UserError for a file or function that is
    not right."""
    source = WorkerSource(config, config.worker)
    source.start()
    return CachedTexts(source, ScoreCache(Path(config.worker.cache), identity(config))) if config.worker.cache else source


def _whole_source(config: RewardConfig) -> TextSource | WorkerSource | CachedTexts:
    options = _workers(config)
    if options is None:
        source = TextSource(config.name, text_reward(config))
    else:
        source = WorkerSource(config, options)
        source.start()
    folder = config.worker.cache if isinstance(config, IsolatedConfig) else ""
    return CachedTexts(source, ScoreCache(Path(folder), identity(config))) if folder else source


def _workers(config: RewardConfig) -> WorkerConfig | None:
    if not isinstance(config, IsolatedConfig):
        return None
    if isinstance(config, RulesReward):
        rules = config.rules if config.rules is not None else read_rules(config.path)
        if not any(f.patterns for f in rules.forbidden):
            return None  # nothing in it can hang
    if isinstance(config, CodeReward):  # its own limits come first: code that hangs is wrong, not a failure
        longest = config.worker.timeout_s + 2 * config.timeout_s * config.max_tests
        return config.worker.model_copy(update={"timeout_s": longest})
    return config.worker
