"""What both studies share: a tiny start model, a gold reward, noisy votes on the start's answers, reward models that learn from them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from keel.core.hashing import stable_hash
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.inference import LocalInference
from keel.loops.config import LoopConfig
from keel.loops.gathering import sample_groups
from keel.loops.offline import Sides
from keel.methods.objectives.reward import RewardObjective
from keel.models.loading import Loaded, load_model
from keel.rewards.sources.model import Standardiser, fit_standardiser, units_of
from keel.rollout.local import LocalSampler
from keel.types import Edge, Encoded, Group, Inference, PairTarget, Prompt, SampleRequest, SamplingParams, Unit
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import Training
from labs.bench.model import make_model
from labs.bench.small import OPTIONS, branch, encoded, imitate, started, trained
from labs.bench.workload import EOS, ModelShape
from labs.study.taste import MAX_TOKENS, VOCAB, Taste, make_answer, make_prompt, make_taste

SHAPES = {
    "policy": ModelShape("llama", vocab=VOCAB, hidden=32, layers=2, intermediate=64),
    "small": ModelShape("llama", vocab=VOCAB, hidden=16, layers=1, intermediate=32),
    "medium": ModelShape("llama", vocab=VOCAB, hidden=32, layers=2, intermediate=64),
    "large": ModelShape("llama", vocab=VOCAB, hidden=64, layers=2, intermediate=128),
}
ANSWERS = 8  # of a prompt that is voted on: four pairs
PARAMS = SamplingParams(max_tokens=MAX_TOKENS, stop_tokens=(EOS,))
_SFT_PROMPTS, _SFT_STEPS, _SFT_BATCH, _SFT_LR = 256, 100, 16, 1e-2
_FIT_PROMPTS, _FIT_SAMPLES = 32, 16  # answers that scales are taken from
_RM_BATCH, _RM_LR = 8, 3e-3

Prompts = Mapping[str, Encoded]


class Source(Protocol):
    """A reward: the part of ``types.RewardSource`` that is asked here."""

    def score(self, groups: Sequence[Group]) -> Sequence[Tensor]: ...


@dataclass(frozen=True, slots=True)
class Point:
    """A policy: its KL to the start in nats a sequence, and the mean rewards of its answers to held-out prompts."""

    kl: float
    gold: float
    proxy: float


def ending(prompt: Prompt, tokens_T: Tensor) -> Tensor:
    """An answer with its end, also where it was cut off."""
    return tokens_T if tokens_T[-1:].tolist() == [EOS] else torch.cat([tokens_T, torch.tensor([EOS])])


def make_prompts(n: int, *name: str | int) -> dict[str, Encoded]:
    """Prompts by chance, the same for the same name."""
    rng = random.Random(stable_hash("prompts", *name))
    return {f"{'-'.join(map(str, name))}-{i}": encoded(make_prompt(rng)) for i in range(n)}


def draw(sampler: LocalSampler, prompts: Prompts, n: int, seed: int, attempt: int = 0) -> tuple[Group, ...]:
    """``n`` answers to each prompt, without rewards."""
    requests = [SampleRequest(name, prompt, n, PARAMS, seed, attempt=attempt) for name, prompt in prompts.items()]
    return sample_groups(sampler, requests, {name: Prompt(name, text="") for name in prompts})


def as_units(groups: Sequence[Group]) -> list[Unit]:
    """All answers that did not fail, closed where they were cut off, as a reward model reads them."""
    return [unit for g in groups if (unit := units_of(g, ending)[0]) is not None]


class World:
    """Models on disk, the start's weights, and the gold reward scaled to the start's answers. Everything is a function of ``seed``."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        rng = random.Random(stable_hash("demonstrations", seed))
        asked = make_prompts(_SFT_PROMPTS, "sft", seed)
        units = [Unit(name, p, tuple(branch(make_answer(rng)) for _ in range(ANSWERS))) for name, p in asked.items()]
        self.start = imitate(self.model_folder("policy", seed), units, _SFT_STEPS, _SFT_BATCH, _SFT_LR)
        self.sampler = LocalSampler(self.policy().model, lambda tokens_T: "")
        self.fitted = draw(self.sampler, make_prompts(_FIT_PROMPTS, "fit", seed), _FIT_SAMPLES, seed)
        taste = make_taste(seed)
        self.gold: Taste = taste.scaled(torch.cat(taste.score(self.fitted)))

    def model_folder(self, shape: str, seed: int) -> Path:
        """A model of a shape with weights by chance."""
        folder = self.folder / f"{shape}-{seed}"
        if not folder.exists():
            make_model(SHAPES[shape], folder, seed)
        return folder

    def policy(self, heads: frozenset[str] = frozenset()) -> Loaded:
        """A model of its own with the start's weights."""
        return started(self.model_folder("policy", self.seed), self.start, heads)

    def votes(self, n_prompts: int, noise: float, seed: int) -> tuple[Unit, ...]:
        """The start's answers to prompts of this seed in pairs, each with one vote: the gold reward's difference over ``noise`` is the
        log-odds (Bradley and Terry 1952)."""
        groups = draw(self.sampler, make_prompts(n_prompts, "votes", seed), ANSWERS, seed)
        rng = random.Random(stable_hash("votes", seed))
        return tuple(self._voted(g, rng, noise) for g in groups)

    def _voted(self, group: Group, rng: random.Random, noise: float) -> Unit:
        (gold_G,) = self.gold.score([group])
        (unit,) = as_units([group])
        edges: list[Edge] = []
        for a in range(0, ANSWERS, 2):
            first = rng.random() < float(torch.sigmoid((gold_G[a] - gold_G[a + 1]).double() / noise))
            edges.append(Edge(a, a + 1) if first else Edge(a + 1, a))
        return Unit(unit.unit_id, unit.prompt, unit.branches, PairTarget(tuple(edges)))

    def proxy(self, shape: str, votes: Sequence[Unit], epochs: int, seed: int) -> tuple[LocalInference, Standardiser]:
        """A reward model trained on votes by ``keel reward``'s loop and loss, and its scale, fitted to the start's answers."""
        folder = self.model_folder(shape, 1 + seed)
        loaded = load_model(str(folder), OPTIONS, heads=frozenset({"score"}), seed=seed, new_heads=True)
        training = Training(OptimConfig(lr=_RM_LR), LoopConfig(batch_size=_RM_BATCH, epochs=epochs), seed)
        learner = trained(OfflineParts.of(loaded, RewardObjective(), Sides(tuple(votes)), training))
        return learner, fit_standardiser(learner.scores(as_units(self.fitted)))


class Meter:
    """Measures policies on the same held-out prompts with the same draws."""

    def __init__(self, world: World, n_prompts: int, samples: int) -> None:
        self.world, self.samples = world, samples
        self.prompts = make_prompts(n_prompts, "held out", world.seed)
        self.reference = LocalInference(world.policy().model, BatchConfig())

    def __call__(self, policy: Inference, sampler: LocalSampler, proxy: Source) -> Point:
        """KL(policy || start) by the mean of the samples' log-ratios; rewards by the mean of the samples."""
        groups = draw(sampler, self.prompts, self.samples, self.world.seed)
        units = as_units(groups)
        own, start = policy.logprobs(units), self.reference.logprobs(units)
        ratios = [float((a_T - b_T).sum()) for a, b in zip(own, start, strict=True) for a_T, b_T in zip(a, b, strict=True)]
        gold, told = (float(torch.cat(list(source.score(groups))).nanmean()) for source in (self.world.gold, proxy))
        return Point(sum(ratios) / len(ratios), gold, told)
