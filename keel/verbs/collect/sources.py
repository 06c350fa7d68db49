"""Answers from each kind of source, by prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keel.core.hashing import stable_hash
from keel.data.dataset import load as load_data
from keel.data.identity import Item, cluster_key, prompt_of
from keel.data.left_out import LeftOut
from keel.feedback.candidates import make_candidate, samples_by_temperature
from keel.rollout.local import LocalSampler
from keel.types import Candidate, Comparison, Demonstration, Message, Pair, Prompt, Ranking, Rating, Unpaired
from keel.verbs.collect.recipe import CollectRecipe, FileSource, ModelSource, ReferenceSource
from keel.verbs.shared.account import Account
from keel.verbs.shared.answers import sample_answers, sampled_candidates
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.session import Session, load, pin_weights, record, record_sampling, renderer_of

log = logging.getLogger("keel")
Answers = dict[str, list[Candidate]]


def from_model(
    session: Session, recipe: CollectRecipe, sources: Sequence[ModelSource], prompts: Sequence[Prompt], account: Account, first: bool
) -> tuple[dict[str, Answers], list[LeftOut]]:
    """Answers of one model, loaded once, by source and prompt. ``first``: the run records this model as its own."""
    spec = sources[0].model or recipe.model
    loaded, renderer = load(recipe, spec=spec)
    if first:
        record(session, loaded, renderer)
    else:
        pin_weights(session, loaded.model, f"the weights of {spec}")
    loaded.model.freeze()
    found: dict[str, Answers] = {}
    left: list[LeftOut] = []
    for source in sources:
        if source.system is not None:
            renderer = renderer_of(loaded, recipe.render.model_copy(update={"system": source.system}))
        else:
            renderer = renderer_of(loaded, recipe.render)
        encoded = encode(prompts, renderer, account, f"prompts for {source.name}", recipe.sampling.max_tokens)
        sampler = LocalSampler(loaded.model, renderer.decode, recipe.sampler)
        record_sampling(session, sampler)
        base = replace(recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens), top_p=source.top_p, top_k=source.top_k)
        seed = stable_hash("collect", recipe.seed, source.name) >> 1
        wanted = samples_by_temperature(source.temperatures, source.samples)
        log.info("%s: %d answers to each of %d prompts", source.name, source.samples, len(encoded))
        rollouts = sample_answers(sampler, encoded, base, wanted, seed)
        for i, drawn in rollouts.items():
            failed = [r for _, r in drawn if r.finish_reason == "error"]
            left += [LeftOut(f"{i}/{source.name}.{r.sample}", encoded[i][0].source_id, f"{source.name}: sampling failed") for r in failed]
        origin = {"source": source.name, "model": spec, **_strategy(source)}
        whole = {i: [(t, r) for t, r in drawn if r.finish_reason != "error"] for i, drawn in rollouts.items()}
        found[source.name] = {i: sampled_candidates(i, drawn, origin) for i, drawn in whole.items()}
    return found, left


def _strategy(source: ModelSource) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if source.top_p < 1:
        told["top_p"] = source.top_p
    if source.top_k:
        told["top_k"] = source.top_k
    return told if source.system is None else {**told, "system": source.system}


def from_records(source: ReferenceSource | FileSource, records: Sequence[Item], prompts: Sequence[Prompt]) -> tuple[Answers, list[LeftOut]]:
    """Answers that stand in records, to the prompts that say the same; records of other prompts are left out by name."""
    ids = {cluster_key(p): p.prompt_id for p in prompts}
    found: Answers = {}
    left: list[LeftOut] = []
    for item in records:
        prompt = prompt_of(item)
        prompt_id = ids.get(cluster_key(prompt))
        answers = _answers(item)
        if prompt_id is None or not answers:
            why = "its prompt is none of those collected for" if prompt_id is None else "holds no answer"
            if isinstance(source, FileSource):
                left.append(LeftOut(getattr(item, "record_id", prompt.prompt_id), prompt.source_id, f"{source.name}: {why}"))
            continue
        for turns, told in answers:
            text = "\n\n".join(m.text for m in turns if m.role == "assistant")
            candidate = make_candidate(prompt_id, text, {"source": source.name, "place": prompt.source_id, **told})
            plain = len(turns) == 1 and isinstance(turns[0].content, str) and not turns[0].extra
            found.setdefault(prompt_id, []).append(candidate if plain else replace(candidate, turns=turns))
    return found, left


def from_file(source: FileSource, prompts: Sequence[Prompt], seed: int) -> tuple[Answers, list[LeftOut], Mapping[str, str]]:
    """Answers of another file; also its fingerprint by name."""
    data = load_data(source.data, seed)
    found, left = from_records(source, data.records, prompts)
    bad = [LeftOut("", f"{b.file}:{b.line}", f"{source.name}: {b.field}: {b.reason}") for b in data.bad]
    return found, [*bad, *left], {data.source: data.fingerprint}


def _answers(item: Item) -> list[tuple[tuple[Message, ...], dict[str, Any]]]:
    """Answers of a record with what it says of them."""
    match item:
        case Demonstration():
            return [(item.completion, {})]
        case Pair():
            return [(item.chosen, {"side": "chosen"}), (item.rejected, {"side": "rejected"})]
        case Ranking():
            return [(a, {"rank": r}) for a, r in zip(item.answers, item.ranks)]
        case Rating():
            return [(item.answer, {"scores": dict(item.scores)})]
        case Unpaired():
            return [(item.answer, {"desirable": item.desirable})]
        case Comparison():
            return [(c.messages, dict(c.origin)) for c in item.candidates]
        case _:
            return []
