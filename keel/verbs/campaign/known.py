"""Known items of a campaign, made of the data's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keel.core.errors import DataError
from keel.core.hashing import permutation
from keel.data.dataset import Dataset
from keel.feedback.candidates import make_candidate
from keel.feedback.negatives import NegativeKind, make_negative
from keel.feedback.rows import named, task_row
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Candidate, Choice, Demonstration, Message, Pair, Prompt, Task
from keel.verbs.campaign.recipe import GoldConfig


def gold_tasks(data: Dataset, config: GoldConfig, protocol: str, seed: int) -> tuple[Task, ...]:
    """At most ``config.count`` known items, each an answer of the data and a poor one; which stands first follows from the seed. Raises
    DataError for data without good answers, or of which no poor one can be made."""
    good = {p.prompt_id: (p, c) for p, c in map(_good, data.records) if c is not None}
    if not good:
        raise DataError(f"{data.source}: holds no answers that are known to be good", "gold.data takes demonstrations, or pairs")
    answers = {i: (candidate,) for i, (_, candidate) in good.items()}
    order = list(good)
    found: list[Task] = []
    for k in permutation(len(order), "gold", seed):
        prompt, best = good[order[k]]
        others = {i: c for i, c in answers.items() if i != prompt.prompt_id}
        kinds: list[NegativeKind] = [config.kinds[j] for j in permutation(len(config.kinds), "gold-kind", seed, prompt.prompt_id)]
        poor = next((c for kind in kinds if (c := make_negative(kind, prompt, (best,), others, seed)) is not None), None)
        if poor is None or poor.text == best.text:
            continue
        turned = permutation(2, "gold-place", seed, prompt.prompt_id)[0] == 1
        pair = (poor, best) if turned else (best, poor)
        expected = Choice("second" if turned else "first")
        meta = {"role": "gold", "negative": poor.origin["negative"]}
        found.append(named(Task("", prompt, pair, "pairwise", protocol, expected=expected, source_id=prompt.source_id, meta=meta)))
        if len(found) == config.count:
            break
    if not found:
        raise DataError(f"{data.source}: no poor answer of kind {', '.join(config.kinds)} can be made", "give other gold.kinds")
    return tuple(found)


def _good(record: object) -> tuple[Prompt, Candidate | None]:
    match record:
        case Demonstration():
            turns: tuple[Message, ...] = record.completion
            prompt = record.prompt
        case Pair():
            turns, prompt = record.chosen, record.prompt
        case _:
            return Prompt(""), None
    if len(turns) != 1 or not turns[0].text.strip() or not isinstance(turns[0].content, str):
        return prompt, None
    return prompt, make_candidate(prompt.prompt_id, turns[0].text, {"source": "reference"})


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """As `keel annotate --tasks` reads them."""
    write_atomic(path, b"".join(json_line(task_row(t)) for t in tasks))
