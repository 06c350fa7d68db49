"""The answers of an evaluation with their scores: rewards, the hidden utility, what finds what is made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.errors import UserError
from keel.core.python_file import load_object
from keel.data.text import language
from keel.evaluate.compare import GOLD_CONTENT, Answer, PromptAnswers
from keel.evaluate.config import EvaluateConfig
from keel.rewards.composition.rewards import Reward
from keel.rewards.sources.hallucination import Found
from keel.rewards.sources.model import ModelReward
from keel.simulate import gold
from keel.simulate.annotators import Worth
from keel.types import Group, ImagePart, Prompt, Rollout
from keel.verbs.evaluate.recipe import EvalRecipe


def score(recipe: EvalRecipe, before: Sequence[Group], after: Sequence[Group], rewards: Sequence[Reward]) -> list[PromptAnswers]:
    """Both sides' answers with the scores of gold, reward model and rules."""
    return pair_rows(before, side_answers(recipe, before, rewards), side_answers(recipe, after, rewards))


Scored = Sequence[tuple[Answer, ...]]


def side_answers(recipe: EvalRecipe, groups: Sequence[Group], rewards: Sequence[Reward]) -> Scored:
    """One model's answers to each prompt with their scores."""
    scores = {reward.source.name: reward.source.score(groups) for reward in rewards}
    model_name = next((r.name for r in recipe.rewards if isinstance(r, ModelReward)), None)
    judges = judges_of(recipe.evaluate)

    def answers(k: int, group: Group) -> tuple[Answer, ...]:
        found: list[Answer] = []
        for i, rollout in enumerate(group.rollouts):
            by_source = {name: float(values[k][i]) for name, values in scores.items()}
            reward = by_source.pop(model_name) if model_name else None
            if not group.valid_G[i]:  # a rollout that failed has no text to judge
                found.append(Answer(rollout.text, None, reward, by_source, int(rollout.sampled_T.sum()), turns=_turns(rollout)))
                continue
            utility = judges.utility(group.prompt, rollout.text) if judges.utility else None
            if judges.content:
                by_source[GOLD_CONTENT] = judges.content(group.prompt, rollout.text)
            made_up = judges.detect(group.prompt, rollout.text) if judges.detect else None
            errors = None if made_up is None else tuple((kind, first, end) for kind, first, end in made_up.errors)
            coverage = None if made_up is None else made_up.coverage
            tokens = int(rollout.sampled_T.sum())
            found.append(Answer(rollout.text, utility, reward, by_source, tokens, errors, coverage, _turns(rollout)))
        return tuple(found)

    return [answers(k, group) for k, group in enumerate(groups)]


def _turns(rollout: Rollout) -> tuple[Mapping[str, Any], ...]:
    return () if rollout.conversation is None else tuple(rollout.conversation.told())


def pair_rows(baseline: Sequence[Group], before: Scored, after: Scored) -> list[PromptAnswers]:
    """The baseline's and a model's answers to the same prompts."""
    return [
        PromptAnswers(
            g.prompt.prompt_id,
            g.prompt.last_user_text,
            old,
            new,
            language_of(g.prompt),
            str(g.prompt.meta.get("category", "")),
            _images(g.prompt),
        )
        for g, old, new in zip(baseline, before, after, strict=True)
    ]


def language_of(prompt: Prompt) -> str:
    return str(prompt.meta.get("language") or language(prompt.last_user_text))


@dataclass(frozen=True, slots=True)
class Judges:
    """What looks at texts beside the rewards; None = nobody asked for it."""

    utility: Callable[[Prompt, str], float] | None = None
    content: Callable[[Prompt, str], float] | None = None
    detect: Callable[[Prompt, str], Found] | None = None


def judges_of(config: EvaluateConfig) -> Judges:
    detect = _detector(config)
    if not isinstance(config.gold, str):
        return Judges(gold.utility if config.gold else None, gold.content if config.gold else None, detect)
    worth: Worth = load_object(config.gold, "evaluate.gold")
    return Judges(lambda prompt, text: math.fsum(worth(prompt, text).values()), None, detect)


def _detector(config: EvaluateConfig) -> Callable[[Prompt, str], Found] | None:
    if config.detecting is None:
        return None
    try:
        return config.detecting.made()
    except UserError as error:
        raise UserError(f"evaluate.detector: {error.message}", error.hint) from None


def _images(prompt: Prompt) -> tuple[str, ...]:
    return tuple(p.source for m in prompt.messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart))
