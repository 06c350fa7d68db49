"""Operations, rates and times. A forward pass takes 2 operations for each weight that a token goes through, the backward pass 4 more: 2 for
the gradient of the input and 2 for that of the weight, which adapters save (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; attention
scores are left out)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keel.plan.machine import Machine
from keel.plan.size import Size
from keel.plan.work import Mode

SHARE = 0.5  # of the measured rate of products that a whole step reaches
ROUGH = (0.5, 2.0)  # of a time by formula: least and most
MEASURED = (0.7, 1.5)  # of a time by measured rates


def forward_operations(size: Size, tokens: float, scored: float) -> float:
    """``2 (body N + head S)``: of ``N`` tokens through the layers, ``S`` of them through the head."""
    return 2.0 * (size.body * tokens + size.head * scored)


def training_operations(size: Size, tokens: float, scored: float, mode: Mode) -> float:
    """``6 (body N + head S)``, with adapters 4."""
    return (2.0 if mode == "lora" else 3.0) * forward_operations(size, tokens, scored)


@dataclass(frozen=True, slots=True)
class Amount:
    """What a run goes through. Tokens are those of one step; sampled answers end early (``sampled[0]``) or run to the end (``sampled[1]``),
    and what is trained on them with them."""

    steps: int
    trained: tuple[float, float]
    sampled: tuple[float, float] = (0.0, 0.0)
    passes: float = 0.0  # forward passes over the trained tokens beside training: reference, critic, reward models
    critic: bool = False
    once: float = 0.0  # tokens of passes before the first step: a reference's log-probabilities
    scored: float = 0.5  # share of the tokens that go through the head


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second of training and of passes without gradients, sampled tokens a second, seconds of an update."""

    train: float
    infer: float
    sample: float
    update: float = 0.0
    measured: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in the plan."""
        names = {"train": "train_tokens_per_s", "infer": "infer_tokens_per_s", "sample": "sample_tokens_per_s"}
        return {**{text: round(getattr(self, k), 1) for k, text in names.items()}, "update_s": self.update, "measured": self.measured}


def rates_of(machine: Machine, size: Size, mode: Mode, scored: float) -> Rates:
    """By formula, from the machine's products."""
    wide, narrow = machine.wide * SHARE, machine.narrow * SHARE
    return Rates(
        train=wide / training_operations(size, 1.0, scored, mode),
        infer=wide / forward_operations(size, 1.0, scored),
        sample=narrow / forward_operations(size, 1.0, 1.0),
    )


def seconds(amount: Amount, rates: Rates) -> tuple[float, float]:
    """From short answers at good rates to the longest ones at bad ones. Evaluations, checkpoints and rewards that others compute are not in
    it."""
    low, high = (_at(amount, rates, end) for end in (0, 1))
    least, most = MEASURED if rates.measured else ROUGH
    return least * low, most * high


def _at(amount: Amount, rates: Rates, end: int) -> float:
    trained, sampled = amount.trained[end], amount.sampled[end]
    learners = 2 if amount.critic else 1
    step = learners * (trained / rates.train + rates.update) + amount.passes * trained / rates.infer
    step += sampled / rates.sample if sampled else 0.0
    return amount.steps * step + amount.once / rates.infer
