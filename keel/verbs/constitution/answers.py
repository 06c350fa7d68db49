"""The answers that a constitution is applied to: sampled from a model, or those that a file has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.core.errors import DataError
from keel.data.dataset import Dataset
from keel.data.identity import Item, cluster_key, prompt_of
from keel.data.left_out import LeftOut
from keel.feedback.candidates import make_candidate
from keel.judges.ask import Judge
from keel.judges.config import LocalConfig, TemplatesConfig
from keel.judges.local import LocalJudge
from keel.loops.online import sample_groups
from keel.models.loading import Loaded
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.types import Candidate, Comparison, Demonstration, Message, Pair, Prompt, Ranking, Rating, SampleRequest, Unpaired
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.session import Session, load, record, record_sampling, renderer_of

log = logging.getLogger("keel")
Answered = list[tuple[Prompt, Candidate]]


@dataclass(frozen=True, slots=True)
class Own:
    """The recipe's model at work. ``reading`` renders what it is asked as a critic: long prompts, no system turn of the answers."""

    loaded: Loaded
    renderer: Renderer
    reading: Renderer
    sampler: LocalSampler


def own_model(session: Session, recipe: ConstitutionRecipe) -> Own:
    """Load the model, once."""
    loaded, renderer = load(recipe)
    record(session, loaded, renderer)
    loaded.model.freeze()
    sampler = LocalSampler(loaded.model, renderer.decode, recipe.sampler)
    record_sampling(session, sampler)
    return Own(loaded, renderer, renderer_of(loaded, RenderConfig()), sampler)


def sampled(own: Own, recipe: ConstitutionRecipe, prompts: Sequence[Prompt], account: Account) -> Answered:
    """``samples`` answers to each prompt. Empty ones and those that failed are left out by name."""
    params = recipe.sampling.params(own.renderer.stop_tokens, own.renderer.banned_tokens)
    encoded = encode(prompts, own.renderer, account, "prompts", params.max_tokens)
    log.info("sampling %d answers to each of %d prompts", recipe.samples, len(encoded))
    requests = [SampleRequest(i, one, recipe.samples, params, recipe.seed) for i, (_, one) in encoded.items()]
    found: Answered = []
    lost: list[LeftOut] = []
    for group in sample_groups(own.sampler, requests, {i: p for i, (p, _) in encoded.items()}):
        prompt = group.prompt
        for valid, rollout in zip(group.valid_G.tolist(), group.rollouts, strict=True):
            if not valid or not rollout.text.strip():
                why = f"sampling failed: {rollout.error}" if rollout.finish_reason == "error" else "the answer is empty"
                lost.append(LeftOut(f"{prompt.prompt_id}/{rollout.sample}", prompt.source_id, why))
                continue
            origin = {"source": "policy", "model": recipe.model, "sample": rollout.sample, "finish_reason": rollout.finish_reason}
            found.append((prompt, make_candidate(prompt.prompt_id, rollout.text, origin)))
    account.leave_out("answers", lost)
    return found


def from_data(data: Dataset) -> tuple[Answered, list[LeftOut]]:
    """The answers of the rows, rows of one prompt together; and the rows that have none."""
    prompts: dict[str, Prompt] = {}
    found: Answered = []
    lost: list[LeftOut] = []
    for item in data.records:
        own = prompt_of(item)
        meta = {k: v for k, v in own.meta.items() if k != "answers"}
        prompt = prompts.setdefault(cluster_key(own), replace(own, meta=meta))
        texts = [t for t in _answers(item) if t.strip()]
        if not texts:
            lost.append(LeftOut(getattr(item, "record_id", own.prompt_id), own.source_id, "holds no answer"))
        found += [(prompt, make_candidate(prompt.prompt_id, t, {"source": "data", "place": own.source_id})) for t in texts]
    if not found:
        raise DataError(f"{data.source}: no row holds an answer", "source: model samples answers to prompts alone")
    return found, lost


def _answers(item: Item) -> list[str]:
    """Texts of a record's answers."""
    match item:
        case Demonstration():
            return [_text(item.completion)]
        case Pair():
            return [_text(item.chosen), _text(item.rejected)]
        case Ranking():
            return [_text(a) for a in item.answers]
        case Rating() | Unpaired():
            return [_text(item.answer)]
        case Comparison():
            return [c.text for c in item.candidates]
        case Prompt():
            told: Any = item.meta.get("answers")
            return [t for t in told if isinstance(t, str)] if isinstance(told, list) else []
        case _:
            return []


def _text(turns: Sequence[Message]) -> str:
    return "\n\n".join(m.text for m in turns if m.role == "assistant")


def judge_of(own: Own, name: str, language: str) -> Judge:
    """The model as a judge that answers with one label."""
    config = LocalConfig(model=name, templates=TemplatesConfig(rubric=f"rubric_{language}"))
    return LocalJudge(name, config, own.loaded, own.reading, own.sampler)
