"""Several preferences about one prompt -> one unit: the prompt is computed once, and equal answers share a branch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from keel.data.conversion import answer_key
from keel.render.renderer import Refusal, Renderer, collect
from keel.render.template import RefusedError
from keel.types import Edge, Message, Pair, PairTarget, Unit


def pairs_to_units(renderer: Renderer, pairs: Iterable[Pair]) -> tuple[list[Unit], list[Refusal]]:
    """Merge the pairs of each prompt into one unit of K branches and an edge a pair. Raises DataError when all are refused."""
    by_prompt: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.prompt.prompt_id].append(pair)
    return collect(_merged(renderer, group) for group in by_prompt.values())


def _merged(renderer: Renderer, pairs: Sequence[Pair]) -> Unit | Refusal:
    if len(pairs) == 1:
        return renderer.unit(pairs[0])
    prompt = pairs[0].prompt
    answers: dict[str, tuple[Message, ...]] = {answer_key(a): a for p in pairs for a in (p.chosen, p.rejected)}
    index = {key: i for i, key in enumerate(answers)}
    try:
        encoded, branches = renderer.branches(prompt, list(answers.values()))
    except RefusedError as refused:
        return Refusal(prompt.prompt_id, prompt.source_id, refused.reason)
    edges = tuple(Edge(index[answer_key(p.chosen)], index[answer_key(p.rejected)], p.label, p.margin, p.weight) for p in pairs)
    meta = {**prompt.meta, "prompt_id": prompt.prompt_id, "source_id": prompt.source_id}
    return Unit(prompt.prompt_id, encoded, branches, PairTarget(edges), meta)
