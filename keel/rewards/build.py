"""From settings to sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keel.rewards import verifier
from keel.rewards.compose import Reward, check_names
from keel.rewards.config import (
    ContainsReward,
    ExactReward,
    FinishedReward,
    ModelReward,
    NumericReward,
    PythonReward,
    RegexReward,
    RewardConfig,
    RulesReward,
)
from keel.rewards.finished import FinishedSource
from keel.rewards.python import python_reward
from keel.rewards.rules import read_rules, rules_reward
from keel.rewards.text import TextReward, TextSource
from keel.types import RewardSource


def build_rewards(configs: Sequence[RewardConfig], load_model: Callable[[ModelReward], RewardSource]) -> tuple[Reward, ...]:
    """The named rewards of a recipe. ``load_model`` makes the source of a reward model: what runs models is not this room's matter.

    Raises UserError for names that stand twice, rule files and functions that cannot be read.
    """

    def source(config: RewardConfig) -> RewardSource:
        match config:
            case ModelReward():
                return load_model(config)
            case FinishedReward():
                return FinishedSource(config.name)
            case _:
                return TextSource(config.name, text_reward(config))

    sources = [source(c) for c in configs]
    rewards = tuple(Reward(source, config.weight) for source, config in zip(sources, configs, strict=True))
    check_names(rewards)
    return rewards


def text_reward(config: RewardConfig) -> TextReward:
    """The function behind a source that reads text alone."""
    match config:
        case RulesReward():
            return rules_reward(config.rules if config.rules is not None else read_rules(config.path))
        case PythonReward():
            return python_reward(config.function)
        case ExactReward():
            return verifier.exact(config)
        case NumericReward():
            return verifier.numeric(config)
        case ContainsReward():
            return verifier.contains(config)
        case RegexReward():
            return verifier.regex(config)
        case ModelReward() | FinishedReward():
            raise AssertionError(f"a {config.type} reward reads more than text")
