"""The answers that a constitution is applied to: sampled from a model, or those that a file has."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.core.errors import DataError
from keel.core.hashing import stable_hash
from keel.data.dataset import Dataset
from keel.data.identity import Item, cluster_key, prompt_of
from keel.data.left_out import LeftOut
from keel.feedback.candidates import make_candidate
from keel.judges.ask import Judge
from keel.judges.config import LocalConfig, TemplatesConfig
from keel.judges.local import LocalJudge
from keel.judges.pictures import holds_image
from keel.loops.gathering import sample_groups
from keel.models.loading import Loaded
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.rewards.constitution.config import Constitution
from keel.rollout.local import LocalSampler
from keel.types import Candidate, Comparison, Demonstration, Message, Pair, Prompt, Ranking, Rating, SampleRequest, Unpaired
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.session import Session, load, record, record_sampling, renderer_of

log = logging.getLogger("keel")
Answered = list[tuple[Prompt, Candidate]]
ANSWERS = "answers"  # the column of rows {prompt, answers: [texts]}
CUT_OFF = "cut off at sampling.max_tokens"


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
    """``samples`` answers to each prompt. Empty ones, those that failed and (unless ``cut`` says else) those that were cut off are left out
    by name."""
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
            if recipe.cut == "drop" and rollout.finish_reason == "length":
                lost.append(LeftOut(f"{prompt.prompt_id}/{rollout.sample}", prompt.source_id, CUT_OFF))
                continue
            origin = {"source": "policy", "model": recipe.model, "sample": rollout.sample, "finish_reason": rollout.finish_reason}
            found.append((prompt, make_candidate(prompt.prompt_id, rollout.text, origin)))
    account.leave_out("answers", lost)
    return found


def from_data(data: Dataset, found: Constitution) -> tuple[Answered, list[LeftOut]]:
    """The answers of the rows, rows of one prompt together; and what holds none, row by row and answer by answer.

    Rows whose prompts say the same but differ in a column that decides how they are scored (their domain, what a right answer is) are
    prompts of their own. Of other columns those of the first row stand, and it is told."""
    prompts: dict[tuple[str, str], Prompt] = {}
    ids: dict[str, tuple[str, str]] = {}
    other: Counter[str] = Counter()
    answered: Answered = []
    lost: list[LeftOut] = []
    for item in data.records:
        own = prompt_of(item)
        meta = {k: v for k, v in own.meta.items() if k != ANSWERS}
        key = cluster_key(own), _told({k: meta[k] for k in sorted(found.columns() & set(meta))})
        if key not in prompts:
            taken = ids.setdefault(own.prompt_id, key) != key
            name = f"{own.prompt_id}-{stable_hash('scored as', key[1]):016x}" if taken else own.prompt_id
            prompts[key] = replace(own, prompt_id=name, meta=meta)
        prompt = prompts[key]
        other.update(k for k in {*meta, *prompt.meta} if meta.get(k) != prompt.meta.get(k))
        texts = _answers(item)
        name = getattr(item, "record_id", own.prompt_id)
        lost += [LeftOut(f"{name}/{k}", own.source_id, why) for k, (_, why) in enumerate(texts) if why]
        if not texts:
            lost.append(LeftOut(name, own.source_id, "holds no answer"))
        origin = {"source": "data", "place": own.source_id}
        answered += [(prompt, make_candidate(prompt.prompt_id, t, origin)) for t, why in texts if not why]
    if not answered:
        reasons = ", ".join(f"{n}x {why}" for why, n in Counter(x.reason for x in lost).items())
        raise DataError(f"{data.source}: no row holds an answer that can be scored ({reasons})", "source: model samples answers to prompts")
    for column, n in sorted(other.items()):
        log.info("%s: column %s differs in %d rows from the first row with the same prompt, whose value stands", data.source, column, n)
    return answered, lost


def _told(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)


def _answers(item: Item) -> list[tuple[str, str]]:
    """(text, why it cannot be scored) of a record's answers."""
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
            return [_text(c.messages) for c in item.candidates]
        case Prompt():
            told: Any = item.meta.get(ANSWERS)
            if not isinstance(told, list):
                return []
            return [_text((Message("assistant", t),)) if isinstance(t, str) else ("", "an answer that is no text") for t in told]
        case _:
            return []


def _text(turns: Sequence[Message]) -> tuple[str, str]:
    """An answer's text, and why the text is not the whole of it or none at all."""
    text = "\n\n".join(m.text for m in turns if m.role == "assistant")
    if holds_image(turns):
        return text, "an answer with images"
    if more := sorted({name for m in turns for name, value in m.extra.items() if value}):
        return text, f"an answer with {', '.join(more)}"
    if len(turns) != 1:
        return text, "an answer of several turns"
    return text, "" if text.strip() else "an empty answer"


def judge_of(own: Own, name: str, language: str) -> Judge:
    """The model as a judge that answers with one label."""
    config = LocalConfig(model=name, templates=TemplatesConfig(rubric=f"rubric_{language}"))
    return LocalJudge(name, config, own.loaded, own.reading, own.sampler)
