"""Which answers to a prompt become tasks: lengths, likeness, diversity, poor ones made on purpose. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keel.core.hashing import permutation, stable_hash
from keel.data.left_out import LeftOut
from keel.data.text import word_count, words
from keel.feedback.candidates import choose_pairs, most_diverse, similarity
from keel.feedback.negatives import make_negative
from keel.feedback.rows import named
from keel.types import Candidate, Prompt, Task
from keel.verbs.collect.recipe import CandidatesConfig, CollectRecipe

Chosen = dict[str, tuple[Candidate, ...]]


def usable(prompt: Prompt, found: Sequence[Candidate], config: CandidatesConfig) -> tuple[list[Candidate], list[LeftOut]]:
    """Answers of a fitting length, no two alike; the others with the reason. Of two alike ones the first stays."""
    kept: list[Candidate] = []
    left: list[LeftOut] = []
    for candidate in found:
        count = word_count(candidate.text)
        twin = next((c for c in kept if c.text == candidate.text or similarity(c.text, candidate.text) > config.similarity), None)
        if not words(candidate.text) and not candidate.turns:
            why = "is empty"
        elif not config.min_words <= count <= config.max_words:
            why = f"has {count} words, not {config.min_words} to {config.max_words} (candidates.min_words, max_words)"
        elif twin is not None:
            alike = "repeats" if twin.text == candidate.text else f"is more alike than {config.similarity:g} to"
            why = f"{alike} an answer of {twin.origin.get('source', '?')}"
        else:
            kept.append(candidate)
            continue
        left.append(_left(prompt, candidate, why))
    return kept, left


def choose(prompts: Sequence[Prompt], pool: Mapping[str, Sequence[Candidate]], recipe: CollectRecipe) -> tuple[Chosen, list[LeftOut]]:
    """The answers of each prompt that become tasks, in an order that follows from the seed; what is not taken, with the reason."""
    config, left = recipe.candidates, list[LeftOut]()
    good: dict[str, list[Candidate]] = {}
    for prompt in prompts:
        good[prompt.prompt_id], out = usable(prompt, pool.get(prompt.prompt_id, ()), config)
        left += out
    chosen: Chosen = {}
    for prompt in prompts:
        own = good[prompt.prompt_id]
        poor, missing = _negatives(prompt, own, good, recipe)
        left += missing
        room = max(1, config.keep - len(poor))
        best = most_diverse(own, room) if room > 1 else tuple(own[:1])
        left += [_left(prompt, c, f"is not among the {room} most different ones (candidates.keep)") for c in own if c not in best]
        together = [*best, *poor]
        if len(together) < max(config.at_least, 1 if recipe.task.kind in ("rating", "spans") else 2):
            why = f"{len(together)} usable answers, fewer than are asked for (candidates.at_least)"
            left.append(LeftOut(prompt.prompt_id, prompt.source_id, why))
            left += [_left(prompt, c, f"its prompt has only {len(together)} usable answers") for c in together]
            continue
        order = permutation(len(together), "collect", recipe.seed, prompt.prompt_id)
        chosen[prompt.prompt_id] = tuple(together[i] for i in order)
    return chosen, left


def _negatives(
    prompt: Prompt, own: Sequence[Candidate], good: Mapping[str, Sequence[Candidate]], recipe: CollectRecipe
) -> tuple[list[Candidate], list[LeftOut]]:
    """Poor answers to a prompt; kinds that cannot be made of these answers are left out by name, the next kind is tried."""
    config, i = recipe.negatives, prompt.prompt_id
    if not own or stable_hash("negatives", recipe.seed, i) / 2**64 >= config.share:
        return [], []
    others = {name: found for name, found in good.items() if name != i and found}
    made: list[Candidate] = []
    left: list[LeftOut] = []
    kinds = list(dict.fromkeys(config.kinds))
    for k in permutation(len(kinds), "kinds", recipe.seed, i):
        if len(made) == config.each:
            break
        found = make_negative(kinds[k], prompt, own, others, recipe.seed)
        if found is None or any(found.text == c.text for c in (*own, *made)):
            left.append(LeftOut(f"{i}/{kinds[k]}", prompt.source_id, f"negatives: {kinds[k]} cannot be made of its answers"))
        else:
            made.append(found)
    return made, left


def tasks_of(prompts: Sequence[Prompt], chosen: Chosen, recipe: CollectRecipe) -> tuple[Task, ...]:
    """The tasks of the chosen answers."""
    config = recipe.task
    protocol = config.protocol or f"{config.kind}-v1"
    found: list[Task] = []
    for prompt in prompts:
        candidates = chosen.get(prompt.prompt_id, ())
        if not candidates:
            continue
        if config.kind == "ranking":
            groups: Sequence[tuple[Candidate, ...]] = [candidates]
        elif config.kind == "pairwise":
            groups = choose_pairs(candidates, config.pairs, "collect", recipe.seed, prompt.prompt_id)
        else:
            groups = [(c,) for c in candidates]
        found += [
            named(Task("", prompt, group, config.kind, protocol, campaign=config.campaign, source_id=prompt.source_id)) for group in groups
        ]
    return tuple(found)


def _left(prompt: Prompt, candidate: Candidate, why: str) -> LeftOut:
    return LeftOut(candidate.candidate_id, prompt.source_id, f"{candidate.origin.get('source', '?')}: {why}")
