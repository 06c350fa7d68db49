"""Multiple choice by log-probability: items of several layouts, which answer a model prefers, rates and differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.data.dialogue import dialogue
from keel.data.errors import FieldError
from keel.data.sources import read_source
from keel.evaluate import statistics
from keel.evaluate.statistics import LEVEL
from keel.types import Message


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its answers; ``best`` are the indices of those that are right (or better)."""

    item_id: str
    turns: tuple[Message, ...]
    choices: tuple[str, ...]
    best: frozenset[int]
    category: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a model gave to the answers of one item: log-probability of each, in nats, summed over its tokens; and their lengths."""

    item: Item
    logprobs: tuple[float, ...]
    lengths: tuple[int, ...]  # UTF-8 bytes

    def right(self, by_length: bool = False) -> float:
        """1 where the answer of the greatest log-probability (``by_length``: a byte) is a best one; of several with the greatest, the share
        of best ones among them."""
        values = [v / max(1, n) for v, n in zip(self.logprobs, self.lengths, strict=True)] if by_length else list(self.logprobs)
        first = [i for i, v in enumerate(values) if v == max(values)]
        return sum(i in self.item.best for i in first) / len(first)

    @property
    def margin(self) -> float:
        """Log-probability of the best answer less that of the best other one."""
        best = max(v for i, v in enumerate(self.logprobs) if i in self.item.best)
        return best - max(v for i, v in enumerate(self.logprobs) if i not in self.item.best)


def read_items(paths: Sequence[str]) -> list[Item]:
    """Items of all files. Layouts: ``{prompt, choices, best}``; ``{input, targets: {choices, labels}}`` and ``{examples: [{input,
    target_scores}]}`` of the public HHH set; ``{inputs, multiple_choice_targets, multiple_choice_scores}`` of BIG-bench. The category is
    the row's, or else the file's or folder's name. Raises DataError at the first row that is none of these."""
    items: list[Item] = []
    for path in paths:
        for row in read_source(path).rows:
            many = row.values.get("examples")
            name = row.values.get("name", "")
            rows = [{**r, "category": r.get("category") or name} for r in many] if isinstance(many, list) else [row.values]
            items += [_item(r, row.place, row.file, len(items) + k) for k, r in enumerate(rows)]
    if not items:
        raise DataError(f"{', '.join(paths)}: no item in it")
    if len({i.item_id for i in items}) < len(items):
        raise DataError(f"{', '.join(paths)}: two items have the same id", "give each a name of its own in `id`, or none at all")
    return items


def _item(row: Mapping[str, Any], place: str, file: str, number: int) -> Item:
    question = next((row[k] for k in ("prompt", "input", "inputs") if isinstance(row.get(k), str)), None)
    targets, scores = row.get("targets"), row.get("target_scores")
    if isinstance(targets, Mapping):
        choices, marks = targets.get("choices"), targets.get("labels")
    elif isinstance(scores, Mapping):
        choices, marks = list(scores), list(scores.values())
    elif "multiple_choice_targets" in row:
        choices, marks = row["multiple_choice_targets"], row.get("multiple_choice_scores")
    else:
        choices, best = row.get("choices"), row.get("best")
        marks = [int(i == best) for i in range(len(choices))] if isinstance(choices, list) and isinstance(best, int) else None
    if question is None or not isinstance(choices, list) or not isinstance(marks, list) or len(choices) != len(marks):
        raise DataError(f"{place}: no question with choices", "give rows of {prompt, choices, best}, or of the public HHH set")
    best_of = frozenset(i for i, m in enumerate(marks) if m and m == max(marks))
    if not best_of or len(best_of) == len(choices):
        raise DataError(f"{place}: one of the choices must be better than another")
    stem = Path(file).name.split(".")[0]
    category = str(row.get("category") or (Path(file).parent.name if stem in ("task", "test") else stem))
    name = str(row.get("id") or f"{category}-{number}")
    return Item(name, _turns(question, place), tuple(map(str, choices)), best_of, category, str(row.get("language") or ""))


def _turns(question: str, place: str) -> tuple[Message, ...]:
    """One turn of the user, or those of a dialogue that ends before the assistant's answer."""
    if "\n\nAssistant:" not in question:
        return (Message("user", question),)
    body = question.removesuffix("\n\nAssistant:").rstrip()
    body = body if body.startswith(("Human:", "\n\nHuman:")) else f"Human: {body}"
    try:
        return dialogue("input", f"{body}\n\nAssistant: ?")[:-1]
    except FieldError as error:
        raise DataError(f"{place}: {error.field}: {error.reason}") from None


def table(chosen: Sequence[Chosen], *, level: float = LEVEL) -> dict[str, Any]:
    """Share of items whose better answer is preferred, in all, by category and by language, with intervals over items; by the sum of
    log-probabilities (``accuracy``) and by the mean a byte (``accuracy_by_length``)."""
    return _rates(chosen, level) | {
        f"by_{field}": {name: _rates(of, level) for name, of in sorted(parts.items())}
        for field in ("category", "language")
        if len(parts := _parts(chosen, field)) > 1
    }


def _parts(chosen: Sequence[Chosen], field: str) -> dict[str, list[Chosen]]:
    parts: dict[str, list[Chosen]] = {}
    for one in chosen:
        parts.setdefault(getattr(one.item, field), []).append(one)
    return parts


def _rates(chosen: Sequence[Chosen], level: float) -> dict[str, Any]:
    def rate(of: Callable[[Chosen], float]) -> dict[str, Any]:
        return statistics.share_interval(statistics.clustered([of(c) for c in chosen]), level).to_json()

    return {"accuracy": rate(lambda c: c.right()), "accuracy_by_length": rate(lambda c: c.right(by_length=True))}


def gained(before: Iterable[Chosen], after: Iterable[Chosen], *, level: float = LEVEL) -> dict[str, Any]:
    """Accuracy after less before, paired by item, with its interval; and the items that were right and are no longer, those whose margin
    fell most first. Raises ValueError where no item is on both sides."""
    old, new = ({c.item.item_id: c for c in side} for side in (before, after))
    shared = sorted(old.keys() & new.keys())
    gain = statistics.change_of_shares([new[i].right() - old[i].right() for i in shared], level)
    lost = sorted((i for i in shared if old[i].right() > new[i].right()), key=lambda i: (new[i].margin - old[i].margin, i))
    gone = [{"id": i, "question": new[i].item.turns[-1].text, "margin": [old[i].margin, new[i].margin]} for i in lost]
    return {"accuracy": [_mean(old, shared), _mean(new, shared)], "gain": gain.to_json(), "lost": gone}


def _mean(chosen: Mapping[str, Chosen], names: Sequence[str]) -> float:
    return math.fsum(chosen[i].right() for i in names) / len(names)
