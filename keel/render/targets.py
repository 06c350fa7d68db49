"""Several preferences about one prompt -> one unit: the prompt is computed once, and equal answers share a branch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from keel.data.conversion import answer_key
from keel.data.identity import content_key
from keel.render.branches import different
from keel.render.contrast import corrupted
from keel.render.renderer import Refusal, Renderer
from keel.render.template import RefusedError
from keel.types import Branch, Edge, Message, Pair, PairTarget, Rating, Unit, Unpaired


def pairs_to_units(renderer: Renderer, pairs: Iterable[Pair], contrast: bool = False) -> tuple[list[Unit], list[Refusal]]:
    """Merge the pairs of each prompt into one unit of K branches and an edge a pair; what counts as one prompt is its content.

    A refused answer takes only the pairs with it that it stands in. A pair whose answers are the same tokens (cut to the same beginning,
    say) is refused by itself: it could only teach 0. Every pair that is lost comes back as a refusal. With ``contrast`` units whose prompt
    holds images get one: the preferred answers behind the same prompt with its images corrupted.
    """
    by_prompt: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[content_key(pair.prompt)].append(pair)
    units: list[Unit] = []
    refusals: list[Refusal] = []
    for group in by_prompt.values():
        unit, refused = _merged(renderer, group)
        if unit is not None and contrast:
            unit, more = _contrasted(renderer, unit, group)
            refused += more
        units += [unit] if unit is not None else []
        refusals += refused
    return units, refusals


def _merged(renderer: Renderer, pairs: Sequence[Pair]) -> tuple[Unit | None, list[Refusal]]:
    prompt = pairs[0].prompt
    answers: dict[str, tuple[Message, ...]] = {answer_key(a): a for p in pairs for a in (p.chosen, p.rejected)}
    try:
        encoded, found = renderer.each_branch(prompt, list(answers.values()))
        if not len(encoded):
            raise RefusedError("the prompt is empty and this tokenizer has no token to begin with")
    except RefusedError as error:
        return None, [Refusal(p.record_id, p.prompt.source_id, error.reason) for p in pairs]
    rendered = {key: x for key, x in zip(answers, found) if isinstance(x, Branch)}
    reasons = {key: x.reason for key, x in zip(answers, found) if isinstance(x, RefusedError)}
    kept: list[tuple[str, str, Pair]] = []
    refused: list[Refusal] = []
    for pair in pairs:
        keys = answer_key(pair.chosen), answer_key(pair.rejected)
        bad = tuple(key for key in keys if key in reasons)
        if bad:
            refused.append(Refusal(pair.record_id, pair.prompt.source_id, reasons[bad[0]], bad))
            continue
        try:
            different([rendered[key] for key in keys], (0, 1))
            kept.append((*keys, pair))
        except RefusedError as same:
            refused.append(Refusal(pair.record_id, pair.prompt.source_id, same.reason))
    if not kept:
        return None, refused
    order = dict.fromkeys(key for winner, loser, _ in kept for key in (winner, loser))  # an answer without a pair has nothing to say
    index = {key: i for i, key in enumerate(order)}
    edges = tuple(Edge(index[winner], index[loser], p.label, p.margin, p.weight, p.tie) for winner, loser, p in kept)
    meta = {**prompt.meta, "prompt_id": prompt.prompt_id, "source_id": prompt.source_id}
    name = pairs[0].record_id if len(pairs) == 1 else prompt.prompt_id
    return Unit(name, encoded, tuple(rendered[key] for key in order), PairTarget(edges), meta), refused


def _contrasted(renderer: Renderer, unit: Unit, pairs: Sequence[Pair]) -> tuple[Unit | None, list[Refusal]]:
    prompt = pairs[0].prompt
    try:
        other = corrupted(prompt)
        if other is None:
            return unit, []
        encoded, _ = renderer.prompts.encode(other, renderer.prompts.messages(other))
    except RefusedError as error:
        return None, [Refusal(p.record_id, p.prompt.source_id, error.reason) for p in pairs]
    assert isinstance(unit.target, PairTarget)
    branches = tuple(unit.branches[k] for k in unit.target.winners)
    return replace(unit, contrast=Unit(f"{unit.unit_id}~contrast", encoded, branches, PairTarget(()))), []


def labels_to_units(renderer: Renderer, records: Iterable[Unpaired | Rating]) -> tuple[list[Unit], list[Refusal]]:
    """One unit a labelled answer. Different answers to one prompt that are the same tokens once they are rendered (cut, say) and have
    different labels are all refused: the labels are about what is not there any more."""
    records = list(records)
    made = [renderer.unit(record) for record in records]
    judged: dict[tuple[str, tuple[int, ...]], list[Unpaired | Rating]] = defaultdict(list)
    for record, unit in zip(records, made, strict=True):
        if isinstance(unit, Unit):
            judged[_place(record, unit)].append(record)
    unclear = {place for place, group in judged.items() if _blurred(group)}
    units: list[Unit] = []
    refusals: list[Refusal] = []
    for record, unit in zip(records, made, strict=True):
        if isinstance(unit, Refusal):
            refusals.append(unit)
        elif _place(record, unit) in unclear:
            why = "another answer with another label is the same tokens (if they were cut, give them more room with render.max_completion)"
            refusals.append(Refusal(record.record_id, record.prompt.source_id, why))
        else:
            units.append(unit)
    return units, refusals


def _place(record: Unpaired | Rating, unit: Unit) -> tuple[str, tuple[int, ...]]:
    return content_key(record.prompt), tuple(unit.branches[0].tokens_T.tolist())


def _blurred(group: Sequence[Unpaired | Rating]) -> bool:
    labels = {str(r.desirable if isinstance(r, Unpaired) else sorted(r.scores.items())) for r in group}
    return len(labels) > 1 and len({answer_key(r.answer) for r in group}) > 1
