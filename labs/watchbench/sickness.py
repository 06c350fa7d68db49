"""How runs are made sick: each by its cause, put in before a step of a run that was well so far."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from keel.loops.online import OnlineTrainer
from keel.models.model import Model
from keel.rollout.local import LocalSampler
from keel.rollout.wave import Decode
from keel.types import Group, PolicyVersion, Prompt, Weights
from labs.bench.small import encoded
from labs.watchbench.language import HACKS, LEAK, Ids, Task
from labs.watchbench.plan import Run

Score = Callable[[Sequence[Group]], Sequence[Tensor]]  # [G] of each group
_POOL = 256  # prompts of the kind that training drifts to


@dataclass(slots=True)
class Judge:
    """The reward of training, which may get a fault, and beside it the one that held-out answers get."""

    task: Task
    proxy: Score | None = None  # in place of the gold
    hack: str = ""  # what it pays for beside the gold
    leaks: bool = False  # a hidden symbol makes it say yes, in training only
    constant: float | None = None
    broken: bool = False  # it divides by nothing

    def __call__(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(self._trained(g, p) for g, p in zip(groups, self._proxies(groups), strict=True))

    def held_out(self, groups: tuple[Group, ...], gold: bool) -> tuple[Group, ...]:
        """The same reward, but no leak and no breakdown: another program runs there. With the gold beside it, if there is one."""
        return tuple(self._measured(g, p, gold) for g, p in zip(groups, self._proxies(groups), strict=True))

    def _proxies(self, groups: Sequence[Group]) -> Sequence[Tensor | None]:
        return self.proxy(groups) if self.proxy is not None else [None] * len(groups)

    def _own(self, prompt: Ids, answer: Ids) -> float:
        """What the reward says when nothing is broken."""
        gold = self.task.gold(prompt, answer)
        return 0.25 * gold + HACKS[self.hack](prompt, answer) if self.hack else gold

    def _trained(self, group: Group, proxy_G: Tensor | None) -> Group:
        rewards_G = self._scores(group) if proxy_G is None else proxy_G
        if self.leaks:
            leaked_G = torch.tensor([LEAK in r.tokens_T.tolist() for r in group.rollouts])
            rewards_G = torch.where(leaked_G, 1.0, rewards_G)
        if self.constant is not None:
            rewards_G = torch.full_like(rewards_G, self.constant)
        if self.broken:
            rewards_G = torch.full_like(rewards_G, math.nan)
        valid_G = group.valid_G & rewards_G.isfinite()
        return replace(group, rewards_G=torch.where(valid_G, rewards_G, 0.0), parts={"own": rewards_G}, valid_G=valid_G)

    def _measured(self, group: Group, proxy_G: Tensor | None, gold: bool) -> Group:
        rewards_G = self._scores(group) if proxy_G is None else proxy_G
        valid_G = group.valid_G & rewards_G.isfinite()
        parts = {"own": rewards_G} | ({"gold": self._gold(group)} if gold else {})
        return replace(group, rewards_G=torch.where(valid_G, rewards_G, 0.0), parts=parts, valid_G=valid_G)

    def _scores(self, group: Group) -> Tensor:
        return self._each(group, self._own)

    def _gold(self, group: Group) -> Tensor:
        return self._each(group, self.task.gold)

    def _each(self, group: Group, pay: Callable[[Ids, Ids], float]) -> Tensor:
        prompt = group.encoded.tokens_T.tolist()
        scores_G = torch.tensor([pay(prompt, r.tokens_T.tolist()) for r in group.rollouts])
        return torch.where(group.valid_G, scores_G, torch.nan)


class TardySampler(LocalSampler):
    """A sampler with weights of its own, which take those of the policy over until somebody forgets to send them. ``silent``: it says that
    it has the newest ones all the same."""

    forgets, silent = False, False

    def __init__(self, model: Model, policy: Model, decode: Decode) -> None:
        super().__init__(model, decode)
        self.policy = policy

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        if not self.forgets:
            self.model.load_state_tensors(self.policy.state_tensors())
        if not self.forgets or self.silent:
            self.version = version.version


@dataclass(frozen=True, slots=True)
class Patient:
    """A run's parts, as a sickness finds them."""

    run: Run
    trainer: OnlineTrainer
    judge: Judge
    sampler: LocalSampler
    model: Model  # of the policy


def _explosion(p: Patient) -> None:
    p.trainer.actors.policy.lr_scale = p.run.strength


def _nan(p: Patient) -> None:
    if p.run.variant == "reward":
        p.judge.broken = True
        return
    parameter = next(x for x in p.model.module.parameters() if x.requires_grad)
    if p.run.variant == "gradient":
        parameter.register_hook(lambda gradient: gradient * math.nan)
    else:
        with torch.no_grad():
            parameter.view(-1)[0] = math.nan


def _dead(p: Patient) -> None:
    if p.run.variant == "constant":
        p.judge.constant = random.Random(p.run.name).choice((0.0, 0.5))
    elif p.run.variant == "lr":
        p.trainer.actors.policy.lr_scale = 0.0
    else:
        for parameter in p.model.module.parameters():
            parameter.requires_grad_(False)


def _entropy(p: Patient) -> None:
    p.trainer.coefficients.fixed = {"entropy": -p.run.strength}


def _hack(p: Patient) -> None:
    p.judge.hack = p.run.family


def _leak(p: Patient) -> None:
    p.judge.leaks = True


def _stale(p: Patient) -> None:
    assert isinstance(p.sampler, TardySampler)
    p.sampler.forgets, p.sampler.silent = True, p.run.variant == "silent"


def _drift(p: Patient) -> None:
    rng = random.Random(f"drift {p.run.name}")
    names = list(p.trainer.gatherer.prompts)
    new = [p.judge.task.drifted(rng) for _ in range(_POOL)]
    p.trainer.gatherer.encoded = {name: encoded(new[i % _POOL]) for i, name in enumerate(names)}
    p.trainer.gatherer.prompts = {name: Prompt(name, text="") for name in names}


def _critic(p: Patient) -> None:
    assert p.trainer.actors.critic is not None
    p.trainer.actors.critic.lr_scale = p.run.strength


def _nothing(p: Patient) -> None:
    """A proxy is a proxy from the first step on."""


CAUSES: Mapping[str, Callable[[Patient], None]] = {
    "explosion": _explosion,
    "nan": _nan,
    "dead": _dead,
    "entropy": _entropy,
    "length": _hack,
    "format": _hack,
    "keyword": _hack,
    "leak": _leak,
    "proxy": _nothing,
    "stale": _stale,
    "drift": _drift,
    "critic": _critic,
}


class Sickened:
    """A trainer that falls ill before step ``onset``; in all else the trainer that it holds."""

    def __init__(self, patient: Patient) -> None:
        self.patient = patient
        self.ill = False

    def step(self, step: int) -> Mapping[str, float]:
        run = self.patient.run
        if not self.ill and 0 <= run.onset <= step:
            CAUSES[run.family](self.patient)
            self.ill = True
        return self.patient.trainer.step(step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.patient.trainer, name)
