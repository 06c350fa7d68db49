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
    found = [(*turns_of(r.prompt), *r.completion) for r in records if isinstance(r, Demonstration) and r.prompt.last_user_text not in asked]
    if len(found) < config.shots[-1]:
        raise DataError(
            f"evaluate.shot_examples: {len(found)} usable demonstrations in {config.shot_examples}, {config.shots[-1]} are needed",
            "usable is a demonstration whose prompt is not evaluated",
        )
    return found


def turns_of(prompt: Prompt) -> tuple[Message, ...]:
    """The prompt's turns; of a plain string one turn of the user."""
    return prompt.messages or (Message("user", prompt.text or ""),)


def with_shots(prompt: Prompt, shown: Sequence[tuple[Message, ...]], as_chat: bool = True) -> Prompt:
    """The prompt after the examples; a system turn stays in front. A plain string that no chat template is put around stays one, with the
    examples' texts before it, a blank line between each."""
    if not shown:
        return prompt
    if not prompt.messages and not as_chat:
        before = "".join("\n".join(m.text for m in example) + "\n\n" for example in shown)
        return replace(prompt, text=before + (prompt.text or ""))
    own = turns_of(prompt)
    system = own[:1] if own[0].role == "system" else ()
    turns = tuple(m for example in shown for m in example if m.role != "system")
    return replace(prompt, messages=(*system, *turns, *own[len(system) :]), text=None)


def shot_curve(
    config: EvaluateConfig,
    prompts: Sequence[Prompt],
    ask: Callable[[Sequence[Prompt]], tuple[Group, ...]],
    score: Callable[[tuple[Group, ...]], Sequence[Sequence[Answer]]],
    scorers: Sequence[str],
    as_chat: bool = True,
) -> Mapping[str, list[dict[str, Any]]]:
    """By scorer the mean score at each number of examples, with its interval over prompts."""
    shown = examples(config, prompts)
    out: dict[str, list[dict[str, Any]]] = {}
    for k in config.shots:
        groups = ask([with_shots(p, shown[:k], as_chat) for p in prompts])
        answers = score(groups)
        for scorer in scorers:
            values = [[v for a in of_prompt if (v := a.score(scorer)) is not None] for of_prompt in answers]
            means = [math.fsum(v) / len(v) for v in values if v]
            if means:
                interval = statistics.clustered(means).interval(config.level)
                out.setdefault(scorer, []).append({"shots": k, **interval.to_json()})
    return out
