"""`keel eval`: models on held-out prompts, scored side by side, each against the baseline.

The headline is the gold utility, which simulated annotators see through noise only and which no reward reads; reward model and rules are
reported apart from it. Sampling and randomness are the evaluation's own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.environments.config import EnvironmentConfig
from keel.evaluate.compare import GOLD, REWARD_MODEL, compare
from keel.evaluate.config import EvaluateConfig
from keel.evaluate.conversations import changes
from keel.evaluate.conversations import measured as talked
from keel.evaluate.hallucination.answers import made_up
from keel.evaluate.measures import retention
from keel.evaluate.result_lines import result_lines
from keel.feedback.texts import prompt_row
from keel.judges.ask import check_images
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.loops.online import sample_groups
from keel.methods.credit.units import rollout_units
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rewards.composition.rewards import Reward
from keel.rewards.sources.model import ModelReward
from keel.rewards.sources.world import WorldSource
from keel.rollout.local import LocalSampler
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Branch, Encoded, Group, Prompt, Sampler, SampleRequest, Unit
from keel.verbs.evaluate.ensemble import Ensemble
from keel.verbs.evaluate.parts import Measured, Parts
from keel.verbs.evaluate.recipe import EvalRecipe, OtherModel
from keel.verbs.evaluate.results import Compared, made_board, scorer_of
from keel.verbs.evaluate.scoring import language_of, pair_rows, side_answers
from keel.verbs.evaluate.sets import Sets, read_sets
from keel.verbs.evaluate.shots import shot_curve
from keel.verbs.shared.account import Account
from keel.verbs.shared.environment import world_of
from keel.verbs.shared.grounded_decoding import biases
from keel.verbs.shared.judges import check_seen_by, record_judges
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.session import load, open_session

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models with its answers."""

    inference: LocalInference
    groups: tuple[Group, ...]
    retained: float | None  # summed log-probability of the unrelated text
    retained_tokens: int
    measured: Measured = field(default_factory=Measured)
    whole: bool = True  # does ``inference`` have the log-probabilities of what answered? Not those of an ensemble


def run_eval(recipe: EvalRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Sample all models, score, compare, say the result; leaves ``samples/evaluation.jsonl`` and returns the summary."""
    summary = _evaluated(recipe, path, parent)
    for line in result_lines(summary):
        print(line)
    print(f"page: {path / 'report.html'}")
    return summary


def _evaluated(recipe: EvalRecipe, path: Path, parent: str) -> dict[str, Any]:
    config = recipe.evaluate
    sets = read_sets(config)
    parts = Parts(recipe)
    data, asked = sets.data, sets.prompts
    validation = _validation(recipe, data)
    fingerprints = {d.source: d.fingerprint for d in (data, validation, *sets.outside.values()) if d is not None}
    with open_session("eval", recipe, path, fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        total = 3 + len(recipe.others)
        session.bus.emit("run_started", 0, total_steps=total)
        account = Account(path, recipe.settings.max_refused, prompts=data, validation=validation, **sets.outside)
        scorer = scorer_of(recipe)  # refused before anything is sampled
        check_seen_by(recipe.rewards, [*asked, *(validation.prompts() if validation is not None else ())])
        if scorer is not None:
            check_images(scorer.judge, ((p, ()) for p in asked))

        def told(step: int, groups: Sequence[Group]) -> None:
            session.bus.emit("step", step, metrics={"answers": float(sum(len(g.rollouts) for g in groups))})

        before, renderer_before, _ = _side(recipe, recipe.baseline, asked, parts, account, "baseline")
        told(1, before.groups)
        others: list[Compared] = []
        for k, other in enumerate(recipe.others):
            others.append(_other(recipe, other, before, renderer_before, asked, parts, account))
            told(2 + k, others[-1].groups)
        after, renderer, ensemble = _side(recipe, recipe.model, asked, parts, account, "model")
        told(total - 1, after.groups)
        before, after, others = _answered_by_all(before, after, others)
        same = renderer_before.tokenizer.get_vocab() == renderer.tokenizer.get_vocab()
        if not same:
            _compare_texts_only(recipe)
        given = rewards_of(recipe.rewards, recipe, after.inference.model, renderer)
        if recipe.environment is not None:
            given = [Reward(WorldSource(), 1.0), *given]
        record_judges(session.run, given, [scorer.admitted] if scorer is not None else [])
        scored_before = side_answers(recipe, before.groups, given)
        every_row = pair_rows(before.groups, scored_before, side_answers(recipe, after.groups, given))
        rows_of = {recipe.model_name: every_row}
        rows = [row for row in every_row if sets.inside(row.prompt_id)]
        write_atomic(path / "samples" / "evaluation.jsonl", b"".join(json_line(row.to_row()) for row in every_row))
        write_atomic(path / "samples" / "prompts.jsonl", b"".join(json_line(prompt_row(g.prompt)) for g in before.groups))
        summary: dict[str, Any] = {"ensemble": ensemble} if ensemble else {}
        if config.kl_prompts and same and after.whole and recipe.environment is None:
            summary["kl"] = sequence_kl(after, before, drawn_in_full(recipe, after, renderer))
        if before.retained is not None and after.retained is not None and same:
            summary["retention"] = retention(before.retained, after.retained, after.retained_tokens).to_json()
        curve = _shot_curve(recipe, after.inference.model, renderer, given, "model", account)
        price = {key: summary[key] for key in ("kl", "retention") if key in summary}
        compared = [Compared(recipe.model_name, _inside(sets, after.groups), price, recipe.at, rows, curve)]
        for other in others:
            rows_of[other.name] = pair_rows(before.groups, scored_before, side_answers(recipe, other.groups, given))
            kept = [row for row in rows_of[other.name] if sets.inside(row.prompt_id)]
            compared.append(replace(other, groups=_inside(sets, other.groups), rows=kept))
        if recipe.others:
            lines = [json_line({"model": c.name, **row.to_row()}) for c in compared for row in c.rows]
            write_atomic(path / "samples" / "models.jsonl", b"".join(lines))
        summary["board"] = made_board(recipe, path, _inside(sets, before.groups), compared, scorer)
        if scorer is not None and "judge" in summary["board"]["judged"]:
            summary["win_rate_judge"] = summary["board"]["judged"].pop("judge")
        if recipe.environment is not None:
            summary["environment"] = _talks(recipe, sets, before.groups, compared)
        if gap := sets.gap(config, rows_of):
            summary["gap"] = gap
        measured = {recipe.model_name: after.measured, **{o.name: o.measured for o in others}}
        summary |= parts.told(before.measured, measured, recipe.baseline_name)
        if config.refusals is not None:
            lines = [json_line(row) for row in parts.rows(before.measured, measured, recipe.baseline_name)]
            write_atomic(path / "samples" / "refusals.jsonl", b"".join(lines))
        session.bus.emit("step", total, metrics={})
        two = compare(rows, languages=config.languages, level=config.level)
        if (hallucination := made_up(rows, draws=config.draws, level=config.level, seed=config.seed)) is not None:
            summary["hallucination"] = hallucination
        return session.finish(summary | two.to_json() | {"data": account.summary()})


def _talks(recipe: EvalRecipe, sets: Sets, before: Sequence[Group], compared: Sequence[Compared]) -> dict[str, Any]:
    """What each model's conversations came to, and how they differ from the baseline's."""
    config, base = recipe.evaluate, _inside(sets, before)
    how = {"above": config.success, "level": config.level}
    found: dict[str, Any] = {recipe.baseline_name: talked(base, **how)}
    return found | {c.name: {**talked(c.groups, **how), "change": changes(base, c.groups, **how)} for c in compared}


def _inside(sets: Sets, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Answers to what is held out, without those to the outside sets."""
    return tuple(g for g in groups if sets.inside(g.prompt.prompt_id))


def _side(
    recipe: EvalRecipe, spec: str, prompts: Sequence[Prompt], parts: Parts, account: Account, name: str
) -> tuple[Side, Renderer, dict[str, Any]]:
    """A side's answers, its renderer, and what its ensemble is made of ({} for a model alone)."""
    config = recipe.evaluate
    loaded, renderer = load(recipe, spec=spec)
    if recipe.ensemble is None:  # whose members' weights may be averaged, in float32
        loaded.model.freeze()
    sampler, ensemble = _ensemble(recipe, loaded.model, renderer, account) if name == "model" else (None, {})
    if recipe.environment is not None:
        groups = conversations(loaded.model, renderer, prompts, recipe, recipe.environment, account, name)
    else:
        encoded = encode(prompts, renderer, account, name, config.max_tokens)
        groups = answer(loaded.model, renderer, encoded, recipe, sampler, recipe.grounded_decoding is not None and name == "model")
    inference = LocalInference(loaded.model, BatchConfig(), config.temperature or 1.0)
    measured = parts.measure(loaded, renderer, account, name)
    whole = not ensemble or ensemble["of"] == "weights"
    if not whole:
        log.warning("KL and retention need the log-probabilities of one model: of an ensemble of %s they are left out", ensemble["of"])
    if not config.retention_text or not whole:
        return Side(inference, groups, None, 0, measured, whole), renderer, ensemble
    text = text_units(renderer, config)
    plain = LocalInference(loaded.model, BatchConfig())
    total = sum(float(b.sum()) for row in plain.logprobs(text) for b in row)
    return Side(inference, groups, total, sum(len(b) for u in text for b in u.branches), measured), renderer, ensemble


def _validation(recipe: EvalRecipe, evaluated: Dataset) -> Dataset | None:
    """The prompts that an ensemble's weight is fitted on; none of those that are evaluated."""
    if recipe.ensemble is None or not recipe.ensemble.fit:
        return None
    return load_data(DataConfig(path=list(recipe.ensemble.fit)), recipe.evaluate.seed).without_prompts(evaluated)


def _ensemble(recipe: EvalRecipe, model: Model, renderer: Renderer, account: Account) -> tuple[Sampler | None, dict[str, Any]]:
    """The sampler of the recipe's ensemble and what it is; (None, {}) without one."""
    config = recipe.ensemble
    if config is None:
        return None, {}
    ensemble = Ensemble.of(recipe, model, renderer)
    weights, more = ensemble.settled(), dict[str, Any]()
    if config.fit:
        prompts = account.sides["validation"].prompts()
        encoded = encode(prompts, renderer, account, "validation", recipe.evaluate.max_tokens)
        rewards = rewards_of(recipe.rewards, recipe, model, renderer)
        weights, more = ensemble.fitted(lambda sampler: answer(model, renderer, encoded, recipe, sampler), rewards)
    members = [{"model": m, "weight": w} for m, w in zip((recipe.model, *config.models), weights, strict=True)]
    return ensemble.sampler(weights), {"of": config.of, "members": members, **more}


def _answered_by_all(before: Side, after: Side, others: Sequence[Compared]) -> tuple[Side, Side, list[Compared]]:
    """All sides without the prompts that the limits or template of one of them refused."""
    kept = {g.prompt.prompt_id for g in before.groups} & {g.prompt.prompt_id for g in after.groups}
    for other in others:
        kept &= {g.prompt.prompt_id for g in other.groups}
    if not kept:
        raise DataError("no prompt is left that all models can be asked", "refused.jsonl says why each one was refused")

    def only(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(g for g in groups if g.prompt.prompt_id in kept)

    first, second = (replace(side, groups=only(side.groups)) for side in (before, after))
    return first, second, [replace(other, groups=only(other.groups)) for other in others]


def _other(
    recipe: EvalRecipe,
    other: OtherModel,
    before: Side,
    renderer_before: Renderer,
    prompts: Sequence[Prompt],
    parts: Parts,
    account: Account,
) -> Compared:
    """One more model: its answers and what they cost; it is let go of before the next one is loaded."""
    alone = recipe.model_copy(update={"ensemble": None, "grounded_decoding": None})
    side, renderer, _ = _side(alone, other.model, prompts, parts, account, f"others.{other.name}")
    price: dict[str, Any] = {}
    if renderer_before.tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
        _compare_texts_only(recipe)
    else:
        asked = {g.prompt.prompt_id for g in before.groups}
        shared = replace(side, groups=tuple(g for g in side.groups if g.prompt.prompt_id in asked))
        if recipe.evaluate.kl_prompts and shared.groups and recipe.environment is None:
            price["kl"] = sequence_kl(shared, before, drawn_in_full(alone, shared, renderer))
        if before.retained is not None and side.retained is not None:
            price["retention"] = retention(before.retained, side.retained, side.retained_tokens).to_json()
    given = rewards_of(recipe.rewards, recipe, side.inference.model, renderer) if recipe.evaluate.shots else []
    curve = _shot_curve(alone, side.inference.model, renderer, given, other.name, account)
    return Compared(other.name, side.groups, price, other.at, (), curve, side.measured)


def _shot_curve(
    recipe: EvalRecipe, model: Model, renderer: Renderer, rewards: Sequence[Reward], name: str, account: Account
) -> Mapping[str, Any]:
    """Scores with more and more examples before the prompts; {} where none are asked for."""
    config = recipe.evaluate
    if not config.shots:
        return {}
    prompts = load_data(DataConfig(path=list(config.prompts), limit=config.limit), config.seed).prompts()
    prompts = [p for p in prompts if not config.languages or language_of(p) in config.languages]
    names = [*([GOLD] if config.gold else []), *(r.source.name for r in rewards)]
    names = [REWARD_MODEL if any(isinstance(c, ModelReward) and c.name == n for c in recipe.rewards) else n for n in names]
    return shot_curve(
        config,
        prompts,
        lambda shown: answer(model, renderer, encode(shown, renderer, account, f"{name} with examples", config.max_tokens), recipe),
        lambda groups: side_answers(recipe, groups, rewards),
        names,
        recipe.render.as_chat is not False,
    )


def _compare_texts_only(recipe: EvalRecipe) -> None:
    """Two tokenizers: what goes by token ids is left out, and a reward model, which reads ids, is refused."""
    if any(isinstance(reward, ModelReward) for reward in recipe.rewards):
        raise DataError(
            "the two models have different tokenizers: a reward model would read the ids of one of them as other words",
            "leave out the rewards of type model; texts are still compared by rules and functions",
        )
    log.warning("the two models have different tokenizers: KL and retention compare token ids and are left out")


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


def conversations(
    model: Model,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    recipe: EvalRecipe,
    config: EnvironmentConfig,
    account: Account,
    name: str,
) -> tuple[Group, ...]:
    """``evaluate.samples`` conversations of ``model`` about every prompt with the recipe's world, as ``answer`` draws."""
    world = world_of(config, renderer, recipe.evaluate.seed)
    assert world is not None, "an environment is named"
    with contextlib.closing(world.opener.host):
        encoded = encode(prompts, renderer, account, name, config.max_tokens, world.open)
        return answer(model, renderer, encoded, recipe, world.sampler(LocalSampler(model, renderer.decode, recipe.sampler)))


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
