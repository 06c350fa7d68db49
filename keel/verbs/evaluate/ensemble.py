"""An ensemble of policies in an evaluation: its members loaded, its weights settled or fitted on validation prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import ConfigError, DataError, UserError
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rewards.composition.rewards import Reward
from keel.rollout.config import PolicyEnsembleConfig
from keel.rollout.local import LocalSampler
from keel.rollout.mixture import SequenceMixtureSampler, TokenMixtureSampler
from keel.types import Group, Sampler
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.shared.session import load

log = logging.getLogger("keel")


@dataclass(slots=True)
class Ensemble:
    """The members (the first is the recipe's model) and how they are put together."""

    config: PolicyEnsembleConfig
    recipe: EvalRecipe
    renderer: Renderer
    models: tuple[Model, ...]
    starts: tuple[Mapping[str, Tensor], ...]  # weights of each, where weights are averaged

    @classmethod
    def of(cls, recipe: EvalRecipe, first: Model, renderer: Renderer) -> Ensemble:
        """Load the other members. Raises UserError for one that is not like the first."""
        config = recipe.ensemble
        assert config is not None, "the recipe has an ensemble"
        models = [first]
        for spec in config.models:
            loaded, other = load(recipe, spec=spec)
            if other.tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
                raise UserError(f"ensemble.models: {spec} has another tokenizer than {recipe.model}", "tokens cannot be averaged")
            loaded.model.media = first.media
            models.append(loaded.model)
        if len({m.head_weight_VH.shape[0] for m in models}) > 1:
            raise UserError("ensemble.models: the members have heads of different sizes", "take models of one family")
        if config.of != "weights":
            return cls(config, recipe, renderer, tuple(models), ())
        shapes = [{name: p.shape for name, p in m.weights().items()} for m in models]
        if any(s != shapes[0] for s in shapes):
            raise UserError("ensemble.of=weights averages models of one architecture, and these differ", "take of=probabilities or logits")
        starts = tuple({name: p.clone() for name, p in m.weights().items()} for m in models)
        return cls(config, recipe, renderer, (first,), starts)

    def sampler(self, weights: Sequence[float]) -> Sampler:
        """What draws from the ensemble under these weights. Averaged weights are those of the first model from then on."""
        decode, config, of = self.renderer.decode, self.recipe.sampler, self.config.of
        if of == "weights":
            names = self.starts[0]
            self.models[0].set_weights({n: sum_of([s[n] for s in self.starts], weights) for n in names})
            return LocalSampler(self.models[0], decode, config)
        if of == "sequences":
            return SequenceMixtureSampler([LocalSampler(m, decode, config) for m in self.models], weights)
        return TokenMixtureSampler(self.models, weights, of, decode, config)

    def settled(self) -> tuple[float, ...]:
        """The recipe's weights, or equal ones."""
        n = len(self.config.models) + 1
        return self.config.weights or (1.0 / n,) * n

    def fitted(self, answer: Callable[[Sampler], tuple[Group, ...]], rewards: Sequence[Reward]) -> tuple[tuple[float, ...], dict[str, Any]]:
        """The weights of the grid whose answers to the validation prompts have the highest mean reward (of equals the least of the other
        member), and all that were tried. Raises ConfigError without rewards, DataError where every reward failed."""
        if not rewards:
            raise ConfigError("ensemble.fit chooses by the recipe's rewards, and there are none", "give rewards, or ensemble.weights")
        tried: list[dict[str, float]] = []
        for share in sorted(set(self.config.grid)):
            score = mean_reward(answer(self.sampler((1.0 - share, share))), rewards)
            log.info("ensemble: weight %g of %s: mean reward %.4g", share, self.config.models[0], score)
            tried.append({"weight": share, "reward": score})
        known = [t for t in tried if t["reward"] == t["reward"]]
        if not known:
            raise DataError("ensemble.fit: every reward failed on the validation prompts", "look at the rewards with keel score")
        best = max(known, key=lambda t: (t["reward"], -t["weight"]))["weight"]
        return (1.0 - best, best), {"tried": tried}


def sum_of(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum in float32."""
    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.float(), alpha=weight)
    return total


def mean_reward(groups: Sequence[Group], rewards: Sequence[Reward]) -> float:
    """The weighted sum of the rewards, mean over answers where all of them are known; NaN where none is."""
    totals = [torch.zeros(len(g.rollouts)) for g in groups]
    for reward in rewards:
        for total_G, found_G in zip(totals, reward.source.score(groups), strict=True):
            total_G += reward.weight * found_G
    return float(torch.nanmean(torch.cat(totals)))
