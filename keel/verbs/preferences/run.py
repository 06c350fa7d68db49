"""Candidates sampled from a model, compared by simulated annotators: the records are those that people's answers will use."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.hashing import digest_bytes, stable_hash
from keel.core.python_file import load_object
from keel.data.dataset import load as load_data
from keel.data.left_out import LeftOut
from keel.feedback.aggregate import aggregate, counts, left_out
from keel.feedback.agreement import agreement
from keel.feedback.candidates import choose_pairs, samples_by_temperature, select
from keel.feedback.reliability.votes import CLASSES
from keel.feedback.soft_pairs import doubt
from keel.feedback.store import append, pair_row
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.runs.directory import RunDir
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.simulate import gold
from keel.simulate.annotators import Worth, annotate, make_annotators
from keel.types import Annotator, Candidate, Comparison, Encoded, Prompt, Rollout
from keel.types.identity import answer_id, item_of
from keel.verbs.preferences.recipe import PreferencesRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.answers import sample_answers, sampled_candidates
from keel.verbs.shared.grounded_decoding import biases
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.session import load, open_session, record, record_sampling

log = logging.getLogger("keel")
COMPARISONS, PAIRS = "comparisons.jsonl", "pairs.jsonl"


def run_preferences(recipe: PreferencesRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Leaves ``comparisons.jsonl`` (every vote), ``pairs.jsonl`` (what they add up to) and ``left_out.jsonl`` (prompts without two
    different answers, votes of even pairs); returns the summary with the agreement."""
    data = load_data(recipe.data, recipe.seed)
    with open_session("preferences", recipe, path, {data.source: data.fingerprint}, parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe)
        record(session, loaded, renderer)
        loaded.model.freeze()
        account = Account(path, recipe.settings.max_refused, prompts=data)
        prompts = encode(data.prompts(), renderer, account, "prompts", recipe.sampling.max_tokens)
        sampler = LocalSampler(loaded.model, renderer.decode, recipe.sampler)
        record_sampling(session, sampler)
        rollouts = _sample(recipe, renderer, sampler, prompts)
        candidates = {prompt_id: select(found, recipe.preferences) for prompt_id, found in _candidates(rollouts, recipe).items()}
        comparisons = _compare(recipe, {i: p for i, (p, _) in prompts.items()}, candidates)
        account.leave_out("prompts", _alone(prompts, candidates))
        if not comparisons:
            raise DataError(
                "no prompt got two different answers: nothing can be compared", "sample hotter or more (preferences.temperatures)"
            )
        (path / COMPARISONS).unlink(missing_ok=True)  # an interrupted attempt: everything is drawn again, exactly
        append(path / COMPARISONS, comparisons)
        stored = _store(recipe, comparisons)
        known = _known(recipe, comparisons)
        pairs = aggregate(comparisons, recipe.preferences.aggregate, gold=known)
        account.leave_out("votes", left_out(comparisons, pairs))
        write_atomic(path / PAIRS, b"".join(json_line(pair_row(p)) for p in pairs))
        _show(session.run, candidates, prompts)
        found = agreement(comparisons)
        agreed = {**asdict(found), "krippendorff_alpha": found.alpha_ordinal}
        near_half, sure, mean_label = doubt(pairs)
        sizes = {
            "prompts": len(prompts),
            "answers": sum(len(r) for r in rollouts.values()),
            "candidates": sum(map(len, candidates.values())),
        }
        return session.finish(
            {
                **sizes,
                "comparisons": len(comparisons),
                **stored,
                "votes": counts(comparisons, pairs),
                "agreement": agreed,
                "pairs": len(pairs),
                "labels": {"near_half": near_half, "sure": sure, "mean": mean_label if pairs else None, "gold": len(known)},
                "file": str(path / PAIRS),
                "data": account.summary(),
            }
        )


def _sample(
    recipe: PreferencesRecipe, renderer: Renderer, sampler: LocalSampler, prompts: Mapping[str, tuple[Prompt, Encoded]]
) -> dict[str, list[tuple[float, Rollout]]]:
    base = recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    wanted = samples_by_temperature(recipe.preferences.temperatures, recipe.preferences.samples)
    bias = biases(recipe.grounded_decoding, {i: prompt for i, (prompt, _) in prompts.items()}, renderer.tokenizer)
    log.info("sampling %d answers to each of %d prompts, then comparing them", sum(n for _, n in wanted), len(prompts))
    return sample_answers(sampler, prompts, base, wanted, recipe.seed, bias)


def _candidates(rollouts: Mapping[str, list[tuple[float, Rollout]]], recipe: PreferencesRecipe) -> dict[str, list[Candidate]]:
    return {i: sampled_candidates(i, found, {"model": recipe.model}) for i, found in rollouts.items()}


def _alone(prompts: Mapping[str, tuple[Prompt, Encoded]], candidates: Mapping[str, Sequence[Candidate]]) -> list[LeftOut]:
    """Prompts that get no comparison."""
    why = "fewer than two of its answers say different things (preferences.samples, temperatures and similarity decide)"
    return [LeftOut(i, prompt.source_id, why) for i, (prompt, _) in prompts.items() if len(candidates.get(i, ())) < 2]


def _compare(recipe: PreferencesRecipe, prompts: Mapping[str, Prompt], candidates: Mapping[str, Sequence[Candidate]]) -> tuple[Any, ...]:
    config = recipe.preferences
    annotators = make_annotators(config.annotators, stable_hash("annotators", recipe.seed), _worth(recipe))
    items = [
        (prompts[i], first, second)
        for i in prompts
        for first, second in choose_pairs(candidates.get(i, ()), config.pairs, "pairs", recipe.seed, i)
    ]
    return annotate(items, annotators, config.annotators.per_item, recipe.seed)


def _worth(recipe: PreferencesRecipe) -> Worth:
    utility = recipe.preferences.annotators.utility
    return load_object(utility, "preferences.annotators.utility") if utility else gold.worth


def _known(recipe: PreferencesRecipe, comparisons: Sequence[Comparison]) -> dict[int, int]:
    """The right class of the pairs that are gold, by their number among those that were compared. Answers of equal worth are none."""
    share, worth = recipe.preferences.gold, _worth(recipe)
    first = {item_of(c): c for c in reversed(comparisons)}
    found: dict[int, int] = {}
    for number, item in enumerate(dict.fromkeys(map(item_of, comparisons))):
        prompt_id, (one, _), (two, _) = item
        if stable_hash("gold", recipe.seed, prompt_id, one, two) < share * 2.0**64:
            value = {answer_id(c): sum(worth(first[item].prompt, c.text).values()) for c in first[item].candidates}
            gap = value[item[1]] - value[item[2]]
            found |= {number: CLASSES.index("first" if gap > 0 else "second")} if gap else {}
    return found


def _store(recipe: PreferencesRecipe, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The same votes in a store, when the recipe names one. Done again it changes nothing."""
    config = recipe.preferences
    if not config.store:
        return {}
    from keel.feedback.db import Store
    from keel.feedback.interchange import put_comparisons

    identity = digest_bytes(repr((config.annotators, recipe.seed)).encode())[:8]
    comparisons = [replace(c, annotator_id=f"{c.annotator_id}@{identity}") for c in comparisons]  # those of other settings are others
    people = [Annotator(name, "simulated", identity) for name in sorted({c.annotator_id for c in comparisons})]
    with Store(config.store) as store:
        new = put_comparisons(store, config.campaign, comparisons, people)
    return {"stored": new}


def _show(run: RunDir, candidates: Mapping[str, Sequence[Candidate]], prompts: Mapping[str, tuple[Prompt, Encoded]]) -> None:
    """A few prompts with their candidates, for the report."""
    shown = sorted(candidates, key=lambda i: stable_hash("show", i))[:8]
    rows = [
        {"step": 0, "prompt": prompts[i][0].last_user_text, "text": c.text, "why": "candidate", **c.origin}
        for i in shown
        for c in candidates[i]
    ]
    run.write_sample(0, rows, "candidates")
