"""The public face: what a notebook or a program needs to load a model, sample from it, score its answers, train and save it.

Everything here is plain calls over the same parts that the recipes use; there is no file format behind it. Import the names from ``keel``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from keel.core.config import checked
from keel.core.errors import ConfigError, DataError
from keel.core.hashing import digest_bytes
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.loops import gathering, online
from keel.methods import Algorithm, AlgorithmConfig, resolve, rollout_units
from keel.methods import credit as credit_units
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.model import Model
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.text import TextSource
from keel.rollout.local import LocalSampler
from keel.types import (
    BranchTensors,
    Demonstration,
    Encoded,
    Group,
    Learner,
    Message,
    Prompt,
    Sampler,
    SampleRequest,
    SamplingParams,
    Unit,
)
from keel.verbs.shared.reference import reference_of
from keel.verbs.shared.session import renderer_of

Logprobs = Callable[[Sequence[Unit]], BranchTensors]
Chat = str | Sequence[Mapping[str, str]]  # a question, or messages with role and content


@dataclass(frozen=True, slots=True)
class Policy:
    """A language model with its tokenizer and chat template."""

    loaded: Loaded
    renderer: Renderer

    @property
    def model(self) -> Model:
        return self.loaded.model

    def prompt(self, chat: Chat, **meta: Any) -> Prompt:
        """A question as a record; ``meta`` (the right answer, for example) is for rewards."""
        turns = [{"role": "user", "content": chat}] if isinstance(chat, str) else list(chat)
        messages = tuple(Message(turn["role"], turn["content"]) for turn in turns)
        return Prompt(digest_bytes(repr(turns).encode())[:16], messages, meta=meta)

    def demonstration(self, prompt: Prompt, answer: str) -> Unit:
        """An answer to imitate. Raises DataError where the template cannot show it."""
        record = Demonstration(f"{prompt.prompt_id}:{answer[:20]}", prompt, (Message("assistant", answer),))
        units, refused = self.renderer.units([record])
        if refused:
            raise DataError(f"the demonstration cannot be rendered: {refused[0].reason}")
        return units[0]

    def sampler(self) -> LocalSampler:
        """What draws answers from the policy as it is."""
        return LocalSampler(self.model, self.renderer.decode)

    def learner(
        self, *, lr: float, updates: int, microbatch_tokens: int = 4096, temperature: float = 1.0, seed: int = 0, **optim: Any
    ) -> LocalLearner:
        """What trains the policy: ``updates`` optimizer steps at a peak rate of ``lr`` (times ten for adapters), ``optim`` as in the
        settings of recipes; ``temperature`` is that of the sampling, of which log-probabilities are. Raises ConfigError."""
        config = checked(OptimConfig, {"lr": lr, **optim})
        return LocalLearner(self.model, config, BatchConfig(microbatch_tokens=microbatch_tokens), updates, seed, temperature)

    def reference(self, learner: LocalLearner, teacher: Policy | None = None) -> Logprobs:
        """Log-probabilities under the weights as they are now: take it before the first step. Or those of a ``teacher`` of the same
        tokenizer, which is frozen."""
        return reference_of(learner, None, teacher.model.freeze() if teacher is not None else None, whole=True).logprobs

    def save(self, folder: str | Path) -> None:
        """A folder that plain transformers and vLLM load; adapters are merged."""
        self.model.save(Path(folder), self.loaded.tokenizer, self.loaded.processor)


def load(
    model: str,
    *,
    lora: int | None = None,
    system: str = "",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
) -> Policy:
    """Load a folder, a Hugging Face id, a GGUF file or ``tiny:llama``. With ``lora`` adapters of that rank are trained, the rest is frozen;
    ``system`` is the system prompt of conversations that have none. Raises ModelError."""
    adapters = LoraConfig(r=lora, alpha=2 * lora) if lora else None
    loaded = load_model(model, ModelOptions(precision=precision, device=device), adapters, seed=seed)
    return Policy(loaded, renderer_of(loaded, RenderConfig(system=system)))


def algorithm(name: str = "grpo", *, samples: int | None = None, **settings: Any) -> Algorithm:
    """An algorithm of RL by its name; ``settings`` override its parts by field, as ``algorithm(kl={"coef": 0.1})``. Raises ConfigError for
    unknown names and for parts that cannot go together; with ``samples`` of a prompt, for too few of them too."""
    return resolve(checked(AlgorithmConfig, {"name": name, **settings}), samples)


def sample(
    draw: Sampler, policy: Policy, prompts: Sequence[Prompt], n: int, *, step: int = 0, seed: int = 0, **params: Any
) -> tuple[Group, ...]:
    """``n`` answers to each prompt, drawn by ``policy.sampler()`` or any other ``types.Sampler``. ``params`` are fields of
    ``SamplingParams`` (max_tokens, temperature, top_p ...). The same seed and step draw the same answers. Raises ConfigError for other
    names, DataError for prompts that are none."""
    known = [f.name for f in fields(SamplingParams) if f.name not in ("stop_tokens", "banned_tokens")]
    if unknown := [name for name in params if name not in known]:
        raise ConfigError(f"sampling has no setting '{unknown[0]}'", f"settings are: {', '.join(known)}")
    if wrong := [p for p in prompts if not isinstance(p, Prompt)]:
        raise DataError(f"a prompt is {type(wrong[0]).__name__}, not Prompt: {wrong[0]!r:.80}", "make it with policy.prompt(...)")
    given = SamplingParams(stop_tokens=policy.renderer.stop_tokens, banned_tokens=policy.renderer.banned_tokens, **params)
    encoded: dict[str, Encoded] = {p.prompt_id: policy.renderer.prompt(p, given.max_tokens) for p in prompts}
    requests = [SampleRequest(i, tokens, n, given, seed, step, keep_support=True) for i, tokens in encoded.items()]
    return gathering.sample_groups(draw, requests, {p.prompt_id: p for p in prompts})


def score(groups: Sequence[Group], *rewards: Callable[[Prompt, str], float] | Reward) -> tuple[Group, ...]:
    """Groups with the sum of the rewards: functions of a prompt and an answer's text, or a ``Reward`` each, with a weight. An
    answer that gets no finite number counts for nothing, and is not trained on."""
    known = [r if isinstance(r, Reward) else Reward(TextSource(getattr(r, "__name__", f"reward{i}"), r)) for i, r in enumerate(rewards)]
    return apply_rewards(groups, known)


def credit(
    groups: Sequence[Group], of: Algorithm, policy: Learner, reference: Logprobs | None = None
) -> tuple[Sequence[Unit], Mapping[str, float]]:
    """Units with an advantage for each token, and what the credit looked like. ``reference`` for algorithms with a KL (``of.kl``); one that
    needs a critic has to be put together by hand. Raises ValueError where something is missing."""
    units = rollout_units(groups)
    if of.needs_critic or of.needs_greedy:
        raise ValueError(f"{of.name} needs a critic or a greedy answer: run it from a recipe, or from RLParts (keel/verbs/rl/build.py)")
    if of.kl is not None and reference is None:
        raise ValueError(f"{of.name} has a KL to a reference: give policy.reference(learner), or algorithm(kl={{'coef': 0}})")
    if of.needs_reference and reference is not None:
        units = online.with_signal(units, "ref_logprobs", reference(units))
    if of.needs_old_logprobs:
        units = online.with_signal(units, "old_logprobs", policy.logprobs(units))
    found = credit_units(groups, units, of)
    return found.units, found.metrics


def update(policy: Learner, draw: Sampler, units: Sequence[Unit], of: Algorithm, version: int) -> Mapping[str, float]:
    """All optimizer steps that the algorithm makes on these units; then the sampler has the new weights, proven by their digest."""
    metrics: dict[str, float] = {}
    for epoch in range(of.epochs):
        for part in online.minibatches(units, of.minibatches, 0, version, epoch):
            report = policy.forward_backward(part, of.policy_objective())
            metrics = {**report.metrics, **policy.step().metrics}
    online.publish(policy, draw, version)
    return metrics


def imitate(policy: Learner, units: Sequence[Unit]) -> Mapping[str, float]:
    """One optimizer step of supervised fine-tuning on these demonstrations: the mean over their answers' tokens."""
    report = policy.forward_backward(units, SupervisedObjective())
    return {**report.metrics, **policy.step().metrics}


def mean_reward(groups: Sequence[Group]) -> float:
    """Over all answers that were scored; NaN where none was."""
    rewards = torch.cat([g.rewards_G[g.valid_G] for g in groups])
    return float(rewards.mean()) if len(rewards) else float("nan")


__all__ = [
    "Policy",
    "Prompt",
    "Reward",
    "algorithm",
    "credit",
    "imitate",
    "load",
    "mean_reward",
    "sample",
    "score",
    "update",
]
