"""Memory and time of a way, from the sizes of model, data and machine. Rough: meant to tell 4 GB from 40 and an hour from a week.

Time. A forward pass takes 2 operations for each weight that a token goes through, the backward pass 4 more: 2 for the gradient of the input
and 2 for that of the weight, which adapters save (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; attention scores are left out).
With ``B`` the body's weights, ``V`` those of the head (which only scored tokens go through), ``N`` tokens, ``S`` scored ones::

    forward(N, S) = 2 (B N + V S)        training(N, S) = 6 (B N + V S), with adapters 4 (B N + V S)

    sft, simpo, orpo    training
    dpo, ipo, kto ...   training + forward (the reference, once however many epochs)
    reward              training without a head
    rl, a prompt        G answers: forward at the rate of narrow products (decoding), training, and a forward each for reference and reward
    ppo                 the same and a critic: forward + training
    best_of_n           reward

seconds = operations / (rate of the machine's products x ``SHARE``), SHARE = 0.5 being what is left after everything that is no product.

Memory: by the formulas of `keel.plan`, which knows no other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from keel.data.identity import Item
from keel.plan.machine import Machine
from keel.plan.memory import memory
from keel.plan.seconds import SHARE
from keel.plan.seconds import forward_operations as forward
from keel.plan.seconds import training_operations as training
from keel.plan.size import Size
from keel.plan.tokens import lengths_of
from keel.plan.work import Mode, Work
from keel.types import Prompt

MICROBATCH = 2048  # learner.BatchConfig.microbatch_tokens
INFERENCE = 16384  # learner.BatchConfig.inference_tokens
ROWS = 128  # rollout.SamplerConfig.max_rows

Kind = Literal["sft", "reference_free", "referred", "reward", "rl", "rl_critic"]


@dataclass(frozen=True, slots=True)
class Load:
    """The data in tokens: of one pass over all records. ``answer`` is the mean length of an answer."""

    records: int
    prompts: int
    prompt_tokens: float  # in all, each prompt once a record
    answer_tokens: float  # in all
    distinct_prompt_tokens: float  # in all, each prompt once
    answer: float
    longest: float  # of a record


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: ``epochs`` passes, in RL ``samples`` answers of ``max_tokens`` to each prompt, adapters of rank ``rank``."""

    epochs: float = 1.0
    samples: int = 8
    max_tokens: int = 128
    batch: int = 16
    rank: int = 16


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes at the peak and seconds in all; ``steps`` are optimizer steps."""

    mode: Mode
    memory: float
    seconds: float
    steps: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in the advice."""
        return {**asdict(self), "memory_gb": round(self.memory / 1e9, 3), "seconds": round(self.seconds, 2)}


def load_of(records: Sequence[Item], prompts: Sequence[Prompt], size: Size) -> Load:
    """Tokens of the records, told from their bytes."""
    found = lengths_of(records, prompts, size.bytes_per_token)
    flat = [n for row in found.answers for n in row]
    return Load(
        records=len(records),
        prompts=len(prompts),
        prompt_tokens=sum(found.prompts),
        answer_tokens=sum(flat),
        distinct_prompt_tokens=sum(found.distinct),
        answer=sum(flat) / len(flat) if flat else 0.0,
        longest=max(found.units, default=0.0),
    )


def estimate(kind: Kind, mode: Mode, load: Load, size: Size, machine: Machine, plan: Plan, reward_model: bool = False) -> Estimate:
    """What a way takes. ``reward_model``: RL in which a reward model of the same size is trained first and then scores."""
    rl = kind in ("rl", "rl_critic")
    units = load.prompts if rl else load.records
    steps = max(1, math.ceil(units * plan.epochs / plan.batch))
    seconds = _rl_seconds(kind, mode, load, size, machine, plan, reward_model) if rl else _seconds(kind, mode, load, size, machine, plan)
    if rl and reward_model:
        seconds += _seconds("reward", mode, load, size, machine, plan)
    work = work_of(kind, mode, load, size, machine, plan, reward_model)
    return Estimate(mode, memory(work).peak, seconds, steps)


def _seconds(kind: Kind, mode: Mode, load: Load, size: Size, machine: Machine, plan: Plan) -> float:
    tokens, scored = load.prompt_tokens + load.answer_tokens, 0.0 if kind == "reward" else load.answer_tokens
    work = plan.epochs * training(size, tokens, scored, mode)
    work += forward(size, tokens, scored) if kind == "referred" else 0.0
    return work / (machine.wide * SHARE)


def _rl_seconds(kind: Kind, mode: Mode, load: Load, size: Size, machine: Machine, plan: Plan, reward_model: bool) -> float:
    answers = plan.samples * plan.max_tokens * load.prompts
    tokens = load.distinct_prompt_tokens + answers
    decode = forward(size, answers, answers) / (machine.narrow * SHARE)
    learn = training(size, tokens, answers, mode) + forward(size, load.distinct_prompt_tokens, 0.0) + forward(size, tokens, answers)
    learn += forward(size, tokens, 0.0) if reward_model else 0.0
    learn += forward(size, tokens, 0.0) + training(size, tokens, 0.0, mode) if kind == "rl_critic" else 0.0
    return plan.epochs * (decode + learn / (machine.wide * SHARE))


def work_of(kind: Kind, mode: Mode, load: Load, size: Size, machine: Machine, plan: Plan, reward_model: bool = False) -> Work:
    """What a way asks of memory, in the settings that its recipe begins with."""
    rl, answer = kind in ("rl", "rl_critic"), float(plan.max_tokens)
    prompt = load.distinct_prompt_tokens / max(1, load.prompts)
    unit = prompt + plan.samples * answer if rl else (load.prompt_tokens + load.answer_tokens) / max(1, load.records)
    longest = prompt + answer if rl else load.longest
    batch = plan.batch * unit
    share = plan.samples * answer / unit if rl else load.answer_tokens / max(1.0, load.prompt_tokens + load.answer_tokens)
    tokens = max(longest, min(MICROBATCH, batch))
    whole = batch if rl else load.records * unit
    return Work(
        size=size,
        value=machine.bytes_per_value,
        rank=plan.rank if mode == "lora" else 0,
        device="cpu" if machine.device == "cpu" else "cuda",
        microbatch=tokens,
        smallest=longest,
        scored=0.0 if kind == "reward" else share * tokens,
        inference=max(longest, min(INFERENCE, whole)) if rl or kind == "referred" else 0.0,
        rows=min(ROWS, plan.batch * plan.samples) if rl else 0,
        prompts=plan.batch,
        prompt=prompt,
        answer=answer,
        reference=rl and mode == "full",
        rewards=(size,) if rl and reward_model else (),
        critic=kind == "rl_critic",
    )
