"""A few-shot curve: the same prompts with more and more examples before them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.evaluate import statistics
from keel.evaluate.compare import Answer
from keel.evaluate.config import EvaluateConfig
from keel.types import Demonstration, Group, Message, Prompt


def examples(config: EvaluateConfig, prompts: Sequence[Prompt]) -> list[tuple[Message, ...]]:
    """The turns of the examples, in the file's order; none of a prompt that is evaluated. Raises DataError where there are too few."""
    asked = {p.last_user_text for p in prompts}
    records = load_data(DataConfig(path=config.shot_examples)).records
    found = [
        (*r.prompt.messages, *r.completion)
        for r in records
        if isinstance(r, Demonstration) and r.prompt.messages and r.prompt.last_user_text not in asked
    ]
    if len(found) < config.shots[-1]:
        raise DataError(
            f"evaluate.shot_examples: {len(found)} usable demonstrations in {config.shot_examples}, {config.shots[-1]} are needed",
            "usable are chats with an answer whose question is not evaluated",
        )
    return found


def with_shots(prompt: Prompt, shown: Sequence[tuple[Message, ...]]) -> Prompt:
    """The prompt after the examples; a system turn stays in front."""
    system = prompt.messages[:1] if prompt.messages and prompt.messages[0].role == "system" else ()
    turns = tuple(m for example in shown for m in example if m.role != "system")
    return replace(prompt, messages=(*system, *turns, *prompt.messages[len(system) :]))


def shot_curve(
    config: EvaluateConfig,
    prompts: Sequence[Prompt],
    ask: Callable[[Sequence[Prompt]], tuple[Group, ...]],
    score: Callable[[tuple[Group, ...]], Sequence[Sequence[Answer]]],
    scorers: Sequence[str],
) -> Mapping[str, list[dict[str, Any]]]:
    """By scorer the mean score at each number of examples, with its interval over prompts."""
    shown = examples(config, prompts)
    out: dict[str, list[dict[str, Any]]] = {}
    for k in config.shots:
        groups = ask([with_shots(p, shown[:k]) if p.messages else p for p in prompts])
        answers = score(groups)
        for scorer in scorers:
            values = [[v for a in of_prompt if (v := a.score(scorer)) is not None] for of_prompt in answers]
            means = [math.fsum(v) / len(v) for v in values if v]
            if means:
                interval = statistics.clustered(means).interval(config.level)
                out.setdefault(scorer, []).append({"shots": k, **interval.to_json()})
    return out
