"""Answers of one model of an evaluation, and what is computed from them with its log-probabilities."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.evaluate.config import EvaluateConfig
from keel.learner.inference import LocalInference
from keel.loops.gathering import sample_groups
from keel.methods.credit.units import rollout_units
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.types import Branch, Encoded, Group, Prompt, Sampler, SampleRequest, Unit
from keel.verbs.evaluate.parts import Measured
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.shared.grounded_decoding import biases

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Side:
    """One model with its answers."""

    inference: LocalInference
    groups: tuple[Group, ...]
    retained: float | None  # summed log-probability of the unrelated text
    retained_tokens: int
    measured: Measured = field(default_factory=Measured)
    whole: bool = True  # does ``inference`` have the log-probabilities of what answered? Not those of an ensemble


def answer(
    model: Model,
    renderer: Renderer,
    prompts: Mapping[str, tuple[Prompt, Encoded]],
    recipe: EvalRecipe,
    sampler: Sampler | None = None,
    grounded: bool = False,
) -> tuple[Group, ...]:
    """``evaluate.samples`` answers to every prompt, in the evaluation's own distribution, by ``model`` or by the ``sampler`` given; with
    the recipe's grounding if ``grounded``."""
    config = recipe.evaluate
    sampler = sampler or LocalSampler(model, renderer.decode, recipe.sampler)
    params = config.sampling(renderer.stop_tokens, renderer.banned_tokens)
    asked = {i: prompt for i, (prompt, _) in prompts.items()}
    bias = biases(recipe.grounded_decoding if grounded else None, asked, renderer.tokenizer)
    how = {"n": config.samples, "params": params, "seed": config.seed}
    requests = [SampleRequest(i, encoded, **how, bias=bias.get(i)) for i, (_, encoded) in prompts.items()]
    log.info("%d answers to each of %d prompts", config.samples, len(requests))
    return sample_groups(sampler, requests, asked)


def text_units(renderer: Renderer, config: EvaluateConfig) -> list[Unit]:
    """The unrelated text as units: each paragraph predicted from its own first token on, up to ``retention_tokens`` in all."""
    texts = load_data(DataConfig(path=config.retention_text)).records
    units: list[Unit] = []
    left = config.retention_tokens
    for i, record in enumerate(texts):
        text = record.text if isinstance(record, Prompt) else "".join(m.text for m in getattr(record, "completion", ()))
        ids = torch.tensor(renderer.codec.start(text or "")[: left + 1], dtype=torch.int64)
        if len(ids) < 2:
            continue
        branch = Branch(ids[1:], torch.ones(len(ids) - 1, dtype=torch.bool))
        units.append(Unit(f"text-{i}", Encoded(ids[:1]), (branch,)))
        left -= len(branch)
        if left <= 0:
            break
    if not units:
        raise DataError(f"{config.retention_text}: no text in it", 'give a file of {"text": ...} rows')
    return units


def drawn_in_full(recipe: EvalRecipe, side: Side, renderer: Renderer) -> tuple[Group, ...]:
    """Answers of ``side`` to the first ``kl_prompts`` prompts from its whole distribution: those that are there, or new ones where the
    evaluation draws from a part of it (``top_p`` below 1, greedy) or with grounding."""
    config = recipe.evaluate
    groups = side.groups[: config.kl_prompts]
    if config.top_p == 1 and config.temperature > 0 and recipe.grounded_decoding is None:
        return groups
    whole = config.model_copy(update={"top_p": 1.0, "temperature": config.temperature or 1.0})
    prompts = {g.prompt.prompt_id: (g.prompt, g.encoded) for g in groups}
    return answer(side.inference.model, renderer, prompts, recipe.model_copy(update={"evaluate": whole}))


def sequence_kl(after: Side, before: Side, groups: Sequence[Group]) -> dict[str, float]:
    """KL(after || before) in nats per sequence and per token, estimated (k1) on ``groups``, answers that ``after`` sampled. Both sides are
    the whole distributions at the evaluation's temperature (1 when it is greedy), never cut by ``top_p``, and so must be the answers'."""
    units = rollout_units(groups)
    ratios = [
        (float((new - old).sum()), len(new))
        for row_new, row_old in zip(after.inference.logprobs(units), before.inference.logprobs(units), strict=True)
        for new, old in zip(row_new, row_old, strict=True)
    ]
    total, tokens = sum(r for r, _ in ratios), sum(n for _, n in ratios)
    return {"mean": total / len(ratios), "per_token": total / tokens, "n": len(ratios)}
