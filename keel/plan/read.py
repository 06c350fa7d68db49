"""From a recipe to what it asks of memory and time: its settings, the lengths of its data, the numbers of its models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from keel.core.config import load, read_recipe
from keel.core.errors import ConfigError, ModelError
from keel.learner.config import ClusterConfig
from keel.loops.offline import total_steps
from keel.methods import resolve
from keel.methods.preference import preference_objective
from keel.models.config import ModelOptions
from keel.models.loading import compute_dtype
from keel.plan.seconds import Amount
from keel.plan.size import Size, size_of
from keel.plan.tokens import TEMPLATE, Lengths, lengths_of
from keel.plan.work import Work
from keel.rewards.sources.model import ModelReward
from keel.rewards.table import RewardConfig
from keel.rollout.config import SamplingConfig
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.run import RECIPES
from keel.verbs.shared.recipes import TrainRecipe
from keel.verbs.shared.units import datasets

VERBS = ("rl", "reward", "prefer", "sft", "offline")
_BRANCHES = 2  # of a pair


@dataclass(frozen=True, slots=True)
class Asked:
    """A recipe as a plan reads it."""

    verb: str
    recipe: TrainRecipe
    size: Size
    lengths: Lengths  # of the training side
    held_out: Lengths
    ranks: int = 1  # 1: as the recipe has it
    share: bool = True


def read(path: Path, overrides: Sequence[str], verb: str, size: Size | None, ranks: int = 1, share: bool = True) -> Asked:
    """Read recipe and data. Without ``verb`` it is taken for one of the first verb that reads it: RL, if it can be; without ``size`` the
    model's config is read. Raises UserError for what cannot be read."""
    verb, recipe = recipe_of(path, overrides, verb)
    size = size or size_of(recipe.model, recipe.model_options)
    splits = datasets(recipe)
    system = recipe.render.system
    more = len(system.encode()) / size.bytes_per_token + TEMPLATE if isinstance(system, str) and system else 0.0
    train, held = (
        lengths_of(data.records, data.prompts(), size.bytes_per_token) if data is not None else Lengths((), (), ())
        for data in (splits.train, splits.held_out)
    )
    return Asked(verb, recipe, size, _longer(train, more), _longer(held, more), ranks, share)


def recipe_of(path: Path, overrides: Sequence[str], verb: str) -> tuple[str, TrainRecipe]:
    """The recipe and whose it is. Raises ConfigError for one of no training."""
    if "stages" in read_recipe(path):
        raise ConfigError(
            f"{path} is the recipe of a pipeline", f"keel plan looks at a stage's recipe; keel run {path} --dry-run prints them"
        )
    problem: ConfigError | None = None
    for name in (verb,) if verb else VERBS:
        try:
            return name, cast(TrainRecipe, load(RECIPES[name], path, overrides))
        except ConfigError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _longer(lengths: Lengths, more: float) -> Lengths:
    """With the system prompt that the recipe puts before each."""
    prompts, distinct = (tuple(n + more for n in row) for row in (lengths.prompts, lengths.distinct))
    return replace(lengths, prompts=prompts, distinct=distinct)


def work_of(asked: Asked) -> Work:
    """What it asks of memory."""
    recipe, size = asked.recipe, asked.size
    device, cluster = _device(recipe.model_options), getattr(recipe, "cluster", None) or ClusterConfig()
    base = Work(
        size=size,
        value=value_bytes(recipe.model_options, device),
        rank=recipe.lora.r if recipe.lora is not None else 0,
        optimizer=recipe.optim.name,
        checkpointing=recipe.model_options.gradient_checkpointing,
        device=device,
        ranks=asked.ranks if asked.ranks > 1 else cluster.ranks,
        share=asked.share and cluster.shard == "full",
        rounded=cluster.gather == "bf16",
        offload=cluster.offload,
        shareable="cluster" in type(recipe).model_fields,
    )
    sampled = sampling_of(recipe)
    return _sampled(base, asked, *sampled) if sampled is not None else _read(base, asked)


def sampling_of(recipe: TrainRecipe) -> tuple[SamplingConfig, int, int] | None:
    """(distribution, answers to a prompt, rows side by side) of a recipe that draws answers while it trains."""
    if isinstance(recipe, RLRecipe):
        return recipe.sampling, recipe.samples, recipe.sampler.max_rows
    if isinstance(recipe, PreferRecipe) and recipe.online is not None:
        return recipe.online.sampling, recipe.online.samples, recipe.online.sampler.max_rows
    return None


def value_bytes(options: ModelOptions, device: str) -> int:
    """Bytes of a value in compute precision; ``auto`` for a GPU that is not here is bfloat16."""
    if options.precision != "auto":
        return 2 if options.precision == "bf16" else 4
    if device == "cuda" and not torch.cuda.is_available():
        return 2
    return 2 if compute_dtype(options) == torch.bfloat16 else 4


def _device(options: ModelOptions) -> str:
    return "cuda" if options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available()) else "cpu"


def _read(base: Work, asked: Asked) -> Work:
    """Of a training on a file."""
    recipe, lengths = asked.recipe, asked.lengths
    units = sorted(lengths.units, reverse=True)
    batch = sum(units[: recipe.loop.batch_size])
    whole = max(units, default=0.0)
    longest = max((p + max(a, default=0.0) for p, a in zip(lengths.prompts, lengths.answers, strict=True)), default=0.0)
    scored = 0.0 if asked.verb == "reward" else lengths.scored
    reference = isinstance(recipe, PreferRecipe) and bool(recipe.reference_model)
    needs = isinstance(recipe, PreferRecipe) and preference_objective(recipe.objective).needs_reference
    microbatch = max(whole, min(recipe.batch.microbatch_tokens, batch))
    return replace(
        base,
        microbatch=microbatch,
        smallest=longest,
        scored=scored * microbatch,
        inference=max(whole, min(recipe.batch.inference_tokens, sum(units))) if needs else 0.0,
        evaluated=_evaluated(recipe, asked.held_out),
        images=_images(lengths, microbatch),
        reference=reference,
        named=reference,
    )


def _sampled(base: Work, asked: Asked, sampling: SamplingConfig, samples: int, most_rows: int) -> Work:
    """Of a training on answers that are drawn."""
    recipe, prompts = asked.recipe, sorted(asked.lengths.distinct, reverse=True)
    n = min(len(prompts), recipe.loop.batch_size)
    trained = samples if isinstance(recipe, RLRecipe) else _BRANCHES
    prompt, answer = max(prompts, default=0.0), float(sampling.max_tokens)
    batch = sum(prompts[:n]) + n * trained * answer
    microbatch = max(prompt + answer, min(recipe.batch.microbatch_tokens, batch))
    rows = min(most_rows, n * samples)
    rl = recipe if isinstance(recipe, RLRecipe) else None
    algorithm = resolve(rl.algorithm, samples) if rl is not None else None
    if algorithm is not None:
        compared = algorithm.kl is not None
        named = algorithm.taught or (algorithm.kl is not None and algorithm.kl.reference is not None)
    else:
        compared = isinstance(recipe, PreferRecipe) and preference_objective(recipe.objective).needs_reference
        named = isinstance(recipe, PreferRecipe) and bool(recipe.reference_model)
    rewards = rl.rewards if rl is not None else recipe.online.rewards if isinstance(recipe, PreferRecipe) and recipe.online else []
    scored = n * trained * answer / batch if batch else 0.0
    return replace(
        base,
        microbatch=microbatch,
        smallest=prompt + answer,
        scored=scored * microbatch,
        inference=max(prompt + answer, min(recipe.batch.inference_tokens, batch)) if compared or rewards else 0.0,
        rows=rows,
        prompts=math.ceil(rows / samples) if samples else 0,
        prompt=prompt,
        answer=answer,
        eval_rows=min(most_rows, len(asked.held_out.distinct)),
        images=_images(asked.lengths, microbatch),
        reference=compared and (named or not base.rank),
        named=named,
        rewards=tuple(_reward(r, asked) for r in rewards if isinstance(r, ModelReward)),
        critic=algorithm is not None and algorithm.needs_critic,
        sampler="sampler" if rl is not None else "online.sampler",
    )


def _evaluated(recipe: TrainRecipe, held: Lengths) -> float:
    units = held.units
    return max(max(units), min(recipe.batch.inference_tokens, sum(units))) if units else 0.0


def _images(lengths: Lengths, tokens: float) -> int:
    """Images of a micro-batch of so many tokens: as many as units of usual length fit in."""
    units = lengths.units
    if not any(lengths.images) or not units:
        return 0
    return math.ceil(max(lengths.images) * max(1.0, tokens / max(1.0, sum(units) / len(units))))


def _reward(reward: RewardConfig, asked: Asked) -> Size:
    """The size of a reward model; one that is not there yet is taken to be of the policy's size."""
    assert isinstance(reward, ModelReward)
    try:
        return size_of(reward.path, asked.recipe.model_options)
    except ModelError:
        return asked.size


def amount_of(asked: Asked, work: Work) -> Amount:
    """What the whole run goes through."""
    recipe, lengths = asked.recipe, asked.lengths
    sampled = sampling_of(recipe)
    if sampled is None:
        units = lengths.units
        mean = sum(units) / max(1, len(units)) * min(recipe.loop.batch_size, len(units))
        steps = total_steps(recipe.loop, len(units))
        once = sum(units) + sum(asked.held_out.units) if work.inference else 0.0
        return Amount(steps, (mean, mean), once=once, scored=work.scored / work.microbatch if work.microbatch else 0.0)
    sampling, samples, _ = sampled
    n, prompt = min(recipe.loop.batch_size, len(lengths.distinct)), sum(lengths.distinct) / max(1, len(lengths.distinct))
    trained = samples if isinstance(recipe, RLRecipe) else _BRANCHES
    passes = float(bool(work.inference) and (work.reference or bool(work.rank))) + len(work.rewards) + float(work.critic)
    short, long = (n * share * sampling.max_tokens for share in (0.25, 1.0))
    epochs = resolve(recipe.algorithm, samples).epochs if isinstance(recipe, RLRecipe) else 1
    return Amount(
        steps=total_steps(recipe.loop, len(lengths.distinct)),
        trained=(epochs * (n * prompt + trained * short), epochs * (n * prompt + trained * long)),
        sampled=(samples * short, samples * long),
        passes=passes / max(1, epochs),
        critic=work.critic,
        scored=work.scored / work.microbatch if work.microbatch else 0.0,
    )
