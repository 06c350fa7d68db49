"""After people have worked: who is faulty, and what the others' votes add up to."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keel.data.text import word_count
from keel.feedback import views
from keel.feedback.aggregate import aggregate, way_of, ways
from keel.feedback.config import AggregateConfig
from keel.feedback.db import Store
from keel.feedback.quality.report import Person, people
from keel.feedback.reliability.votes import CLASSES, from_comparisons, from_judgements
from keel.feedback.soft_pairs import SoftPairs, aggregated
from keel.types import Choice, Comparison, Judgement, Pair, Task
from keel.types.identity import answer_id, item_id, item_of

log = logging.getLogger("keel")


def standing_votes(store: Store, campaign: str) -> tuple[Judgement, ...]:
    """All that was said and neither corrected nor taken back."""
    known = store.standing(campaign)
    return tuple(j for j in store.judgements(campaign) if j.event_id in known and not known[j.event_id].retracted)


def measured(judgements: Sequence[Judgement], tasks: Mapping[str, Task], alpha: float) -> tuple[Person, ...]:
    """Every measure of every person, from standing judgements."""
    votes = from_judgements(judgements)
    gold = {i: t.expected.chosen for i, t in tasks.items() if isinstance(t.expected, Choice)}
    lengths = [_words(tasks[i]) for i in votes.tasks]
    return people(votes, gold, lengths, alpha) if len(votes) else ()


def _words(task: Task) -> float:
    return float(word_count(task.prompt.text or task.prompt.last_user_text) + sum(word_count(c.text) for c in task.candidates))


def person_row(person: Person) -> dict[str, Any]:
    """A person's measures as plain JSON; what is not known is null."""
    return _plain({"annotator": person.annotator, **{k: v for k, v in asdict(person).items() if k != "annotator"}})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Labels:
    """Pairs of the work, and how sure their labels are; ``gold``: known items that the soft labels were fitted on."""

    pairs: tuple[Pair, ...]
    comparisons: tuple[Comparison, ...]
    gold: int


def labels(
    work: Sequence[Comparison], known: Sequence[Comparison], tasks: Mapping[str, Task], config: AggregateConfig, fit: bool = True
) -> Labels:
    """Training pairs of the ``work`` by ``config.method``. For models of annotators the votes on ``known`` items are read too, which tells
    them who is right how often, and with ``fit`` their answers fit temperature and mix; no known item becomes a pair."""
    if config.method not in ("dawid_skene", "mace", "weighted") or not work:
        return Labels(aggregate(work, config), tuple(work), 0)
    own = {item_of(c) for c in work}
    known = [c for c in known if item_of(c) not in own]
    together = [*work, *known]
    expected = {item_id(t.prompt, t.candidates): t for t in tasks.values() if isinstance(t.expected, Choice) and len(t.candidates) == 2}
    gold: dict[int, int] = {}
    for number, key in enumerate(dict.fromkeys(item_of(c) for c in together)):
        task = expected.get(key)
        if fit and task is not None and isinstance(task.expected, Choice) and task.expected.chosen in ("first", "second"):
            wanted = task.candidates[0 if task.expected.chosen == "first" else 1]
            gold[number] = CLASSES.index("first" if answer_id(wanted) == key[1] else "second")
    assert len(from_comparisons(together).tasks) == len({item_of(c) for c in together})
    found: SoftPairs = aggregated(together, config, gold=gold)
    of_work = {way for key in own for way in ways(key)}
    pairs = tuple(p for p in found.pairs if way_of(p) in of_work)
    return Labels(pairs, tuple(work), len(gold))


def views_of(store: Store, campaign: str) -> tuple[views.View, views.View]:
    """What was said of the work, and of the known items."""
    return views.of_store(store, campaign), views.of_store(store, campaign, "gold")
