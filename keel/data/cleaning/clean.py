"""Cleaning of records: each one that goes is named, with the rule and what it is like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keel.data.cleaning.config import CleanConfig, QualityConfig
from keel.data.cleaning.near import near_duplicates
from keel.data.cleaning.overlap import Questions
from keel.data.cleaning.texts import texts_of
from keel.data.findings import judged, truth_key
from keel.data.identity import Item, claim_key, content_key, prompt_of
from keel.data.text import repetition, word_count
from keel.types import Prompt

RULES = ("quality", "exact_duplicate", "near_duplicate", "contradiction", "evaluation")


@dataclass(frozen=True, slots=True)
class Removed:
    """A record that was taken out: its place among the records, the rule, the reason in words."""

    place: int
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cleaned:
    """``kept`` are places among the records, in order."""

    kept: tuple[int, ...]
    removed: tuple[Removed, ...]

    def counts(self) -> dict[str, int]:
        """How many stayed, and how many went by each rule."""
        by_rule = Counter(r.rule for r in self.removed)
        return {"kept": len(self.kept), "removed": len(self.removed), **{rule: by_rule[rule] for rule in RULES}}


def clean(records: Sequence[Item], config: CleanConfig, evaluation: Sequence[Prompt] = ()) -> Cleaned:
    """What stays of ``records`` and what goes, and why. ``evaluation``: prompts that must not be trained on."""
    left = dict(enumerate(records))
    removed: list[Removed] = []

    def take_out(found: Sequence[Removed]) -> None:
        for one in found:
            del left[one.place]
        removed.extend(found)

    if config.quality is not None:
        quality = config.quality
        take_out([Removed(i, "quality", why) for i, r in left.items() if (why := poor(r, quality))])
    if config.duplicates != "keep":
        take_out(_exact(left))
    if config.duplicates == "near":
        places = list(left)
        found = near_duplicates(list(left.values()), config.similarity)
        take_out([Removed(places[i], "near_duplicate", f"nearly repeats {_where(records[places[j]])}") for i, j in found.items()])
    if config.contradictions != "keep":
        take_out(_contradictions(left, keep_first=config.contradictions == "first"))
    if evaluation:
        questions = Questions(evaluation, config.decontaminate)
        hits = {i: hit for i, r in left.items() if (hit := questions.found_in(r)) is not None}
        take_out([Removed(i, "evaluation", f"holds {share:.0%} of the question at {place}") for i, (place, share) in hits.items()])
    return Cleaned(tuple(left), tuple(sorted(removed, key=lambda r: r.place)))


def poor(record: Item, config: QualityConfig) -> str:
    """The first rule that a record breaks, in words; "" for one that keeps all."""
    for i, text in enumerate(texts_of(record)):
        name = "the prompt" if i == 0 else f"answer {i}" if not isinstance(record, Prompt) else ""
        if i == 0 and not text:
            continue  # plain text to continue has no prompt
        count = word_count(text)
        if count < config.min_words:
            return f"{name} has {count} words, fewer than {config.min_words}"
        if count > config.max_words:
            return f"{name} has {count} words, more than {config.max_words}"
        if (share := repetition(text)) > config.max_repetition:
            return f"{name} repeats itself: {share:.0%} of its runs of four words stood before"
        shown = [c for c in text if not c.isspace()]
        if shown and (letters := sum(c.isalnum() for c in shown) / len(shown)) < config.min_letters:
            return f"{name} is hardly text: {letters:.0%} letters and digits"
        if shown and (marks := shown.count("\ufffd") / len(shown)) > config.broken:
            return f"{name} was decoded wrongly: {marks:.0%} replacement characters"
    return ""


def _exact(left: dict[int, Item]) -> list[Removed]:
    """Records that say exactly what an earlier one says: prompt, right answer, answers, judgement."""
    first: dict[object, Item] = {}
    found: list[Removed] = []
    for i, record in left.items():
        truth = claim_key(record) if isinstance(record, Prompt) else truth_key(record)
        same = first.setdefault((type(record), content_key(prompt_of(record)), *judged(record), truth), record)
        if same is not record:
            found.append(Removed(i, "exact_duplicate", f"repeats {_where(same)}"))
    return found


def _contradictions(left: dict[int, Item], keep_first: bool) -> list[Removed]:
    """Records that judge the same thing in several ways, and questions with several right answers."""
    groups: dict[object, dict[object, list[int]]] = {}
    for i, record in left.items():
        head = (type(record), content_key(prompt_of(record)))
        about, said = judged(record)
        if said is not None:
            groups.setdefault((head, about), {}).setdefault(said, []).append(i)
        if truth := truth_key(record):
            groups.setdefault((head, "truth"), {}).setdefault(truth, []).append(i)
    found: dict[int, Removed] = {}
    for ways in groups.values():
        if len(ways) < 2:
            continue
        (first, *_), *others = (places for places in ways.values())
        gone = [p for places in others for p in places] if keep_first else [p for places in ways.values() for p in places]
        for place in gone:
            other = first if place not in next(iter(ways.values())) else others[0][0]
            found.setdefault(place, Removed(place, "contradiction", f"contradicts {_where(left[other])}"))
    return list(found.values())


def _where(record: Item) -> str:
    return prompt_of(record).source_id or prompt_of(record).prompt_id
