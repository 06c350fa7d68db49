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

Memory, in bytes. ``P`` parameters, ``T`` trained ones (P, or r times the ports of all matrices with adapters), ``b`` bytes a value in
compute precision, ``N`` tokens of a micro-batch, ``L`` layers, ``H`` hidden, ``I`` intermediate size::

    trained model  = 4 P + 12 T      weights, gradient, two moments; a frozen base under adapters b P + 16 T
    autocast       = b P              full training in bfloat16: the rounded copies of the weights
    activations    = b N L (10 H + 4 I) + 8 min(N, 256) V_rows
    extra models   = a reference of RL in full training b P (adapters need none), a reward model 4 P, a critic as the trained model
    sampling       = b rows tokens L cache (keys and values)
    fixed          = 0.6e9            interpreter and libraries
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from keel.advise.machine import Machine
from keel.advise.measure import answers_of
from keel.advise.size import Size
from keel.data.identity import Item
from keel.types import Prompt

SHARE = 0.5  # of the measured rate of products that a whole step reaches
FIXED = 0.6e9
MICROBATCH = 2048  # learner.BatchConfig.microbatch_tokens
ROWS = 128  # rollout.SamplerConfig.max_rows
_HEAD_ROWS = 256
_TEMPLATE = 8  # tokens around a turn

Mode = Literal["full", "lora"]
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
    """Tokens of the records, from their bytes in UTF-8 (in Chinese a character is three) and the tokens of the template around turns."""

    def tokens(texts: Sequence[str]) -> float:
        return sum(len(t.encode("utf-8", "replace")) / size.bytes_per_token + _TEMPLATE for t in texts)

    asked = [tokens([m.text for m in p.messages] or [p.text or ""]) for r in records for p in [r if isinstance(r, Prompt) else r.prompt]]
    given = [[tokens([m.text for m in a]) for a in answers_of(r)] for r in records]
    flat = [n for row in given for n in row]
    return Load(
        records=len(records),
        prompts=len(prompts),
        prompt_tokens=sum(asked),
        answer_tokens=sum(flat),
        distinct_prompt_tokens=sum(tokens([m.text for m in p.messages] or [p.text or ""]) for p in prompts),
        answer=sum(flat) / len(flat) if flat else 0.0,
        longest=max((a + sum(g) for a, g in zip(asked, given)), default=0.0),
    )


def estimate(kind: Kind, mode: Mode, load: Load, size: Size, machine: Machine, plan: Plan, reward_model: bool = False) -> Estimate:
    """What a way takes. ``reward_model``: RL in which a reward model of the same size is trained first and then scores."""
    rl = kind in ("rl", "rl_critic")
    units = load.prompts if rl else load.records
    steps = max(1, math.ceil(units * plan.epochs / plan.batch))
    seconds = _rl_seconds(kind, mode, load, size, machine, plan, reward_model) if rl else _seconds(kind, mode, load, size, machine, plan)
    if rl and reward_model:
        seconds += _seconds("reward", mode, load, size, machine, plan)
    return Estimate(mode, memory(kind, mode, load, size, machine, plan, reward_model), seconds, steps)


def forward(size: Size, tokens: float, scored: float) -> float:
    """Operations of a forward pass."""
    return 2.0 * (size.body * tokens + size.head * scored)


def training(size: Size, tokens: float, scored: float, mode: Mode) -> float:
    """Operations of forward and backward."""
    return (2.0 if mode == "lora" else 3.0) * forward(size, tokens, scored)


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


def memory(kind: Kind, mode: Mode, load: Load, size: Size, machine: Machine, plan: Plan, reward_model: bool = False) -> float:
    """Bytes at the peak; the formula is at the top of the file."""
    b, rl = machine.bytes_per_value, kind in ("rl", "rl_critic")
    trained = trained_model(size, mode, b, plan.rank)
    longest = load.distinct_prompt_tokens / max(1, load.prompts) + plan.samples * plan.max_tokens if rl else load.longest
    batch = plan.batch * (longest if rl else (load.prompt_tokens + load.answer_tokens) / max(1, load.records))
    tokens = max(longest, min(MICROBATCH, batch))
    total = FIXED + trained + b * tokens * size.layers * (10 * size.hidden + 4 * size.intermediate)
    total += 8 * min(tokens, _HEAD_ROWS) * size.vocab
    if rl:
        rows = min(ROWS, plan.batch * plan.samples)
        total += b * rows * plan.max_tokens * size.layers * size.cache
        total += b * size.parameters if mode == "full" else 0.0
        total += 4.0 * size.parameters if reward_model else 0.0
        total += trained if kind == "rl_critic" else 0.0
    return total


def trained_model(size: Size, mode: Mode, bytes_per_value: int, rank: int) -> float:
    """Bytes of weights, gradients and moments of a model in training."""
    if mode == "lora":
        return bytes_per_value * size.parameters + 16.0 * rank * size.ports
    rounded = 2.0 * size.parameters if bytes_per_value == 2 else 0.0
    return 16.0 * size.parameters + rounded
