"""The function behind a source that reads text alone. Imported by worker processes, so it imports no more than it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keel.rewards.compare_config import CompareConfig
from keel.rewards.config import (
    ChoiceReward,
    CodeReward,
    ContainsReward,
    ExactReward,
    GymReward,
    IFEvalReward,
    JsonSchemaReward,
    MathReward,
    NumericReward,
    PythonReward,
    RegexReward,
    RewardConfig,
    RulesReward,
)
from keel.rewards.score import TextReward
from keel.types import Prompt


def judging(config: RewardConfig | CompareConfig) -> Callable[[Prompt, Any], float]:
    """What a worker is to run: a reward of an answer, or a comparison of two. Raises as ``text_reward``."""
    if isinstance(config, CompareConfig):
        from keel.rewards.python import python_comparison

        return python_comparison(config.function)
    return text_reward(config)


def text_reward(config: RewardConfig) -> TextReward:
    """Raises UserError for files, functions and libraries that are not there, AssertionError for a reward that reads more than text."""
    match config:
        case RulesReward():
            from keel.rewards.rules import read_rules, rules_reward

            return rules_reward(config.rules if config.rules is not None else read_rules(config.path), config.thoughts)
        case PythonReward():
            from keel.rewards.python import python_reward

            return python_reward(config.function)
        case CodeReward():
            from keel.rewards.code import code

            return code(config)
        case _:
            return _verifier(config)


def _verifier(config: RewardConfig) -> TextReward:
    from keel.rewards import choice, gym, ifeval, json_schema, maths, verifier

    match config:
        case ExactReward():
            return verifier.exact(config)
        case NumericReward():
            return verifier.numeric(config)
        case ContainsReward():
            return verifier.contains(config)
        case RegexReward():
            return verifier.regex(config)
        case ChoiceReward():
            return choice.choice(config)
        case MathReward():
            return maths.maths(config)
        case JsonSchemaReward():
            return json_schema.json_schema(config)
        case IFEvalReward():
            return ifeval.ifeval(config)
        case GymReward():
            return gym.gym(config)
    raise AssertionError(f"a {config.type} reward reads more than text")
