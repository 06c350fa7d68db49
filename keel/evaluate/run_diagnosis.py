"""What ails a run of RL, by its metrics: symptoms, and for each the causes that have evidence, the likeliest first. A table of plain rules;
every one is a number against a limit, and both are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keel.runs.columns import Columns, Floats

FEW = 20  # steps; with fewer a symptom would be chance


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of a symptom: the number that speaks for it, its limit, what helps, and where to read on. Present: at its limit or above."""

    name: str
    value: float
    limit: float
    evidence: str
    remedy: str
    page: str

    @property
    def present(self) -> bool:
        return self.value >= self.limit

    @property
    def strength(self) -> float:
        """How many times its limit."""
        return self.value / self.limit


@dataclass(frozen=True, slots=True)
class Symptom:
    """What is wrong, and why it may be: causes that are present, the strongest first."""

    name: str
    evidence: str
    causes: tuple[Cause, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Seen:
    """A run's metrics as the rules ask for them."""

    metrics: Columns

    def of(self, *names: str) -> Floats:
        """Values [N] of the first of these metrics that the run has, non-finite ones left out; empty where it has none."""
        for name in names:
            _, values = self.metrics.points(name)
            if len(values):
                return values[np.isfinite(values)]
        return np.empty(0)

    def ratio(self, *names: str) -> float:
        """The last tenth's mean over the first tenth's; NaN where there is none."""
        values = self.of(*names)
        tenth = max(1, len(values) // 10)
        first, last = (float(np.mean(values[:tenth])), float(np.mean(values[-tenth:]))) if len(values) >= 2 else (0.0, 0.0)
        return last / first if first > 0 else math.nan

    def change(self, *names: str) -> float:
        """The last tenth's mean less the first tenth's, in spreads of a step about the mean of its ten; 0 where there are too few."""
        values = self.of(*names)
        if len(values) < FEW:
            return 0.0
        tenth = max(5, len(values) // 10)
        return float((np.mean(values[-tenth:]) - np.mean(values[:tenth])) / max(_noise(values), 1e-12))

    def last(self, *names: str) -> float:
        """Mean of the last tenth, NaN where there is none."""
        values = self.of(*names)
        return float(np.mean(values[-max(1, len(values) // 10) :])) if len(values) else math.nan


def _noise(values: Floats) -> float:
    """Spread of single steps, slow changes apart: that of the differences of neighbours, over the square root of 2."""
    return float(np.std(np.diff(values)) / math.sqrt(2)) if len(values) > 2 else 0.0


REWARD, KL, LENGTH = ("reward", "objective/rlhf_reward"), ("kl", "objective/kl"), ("completions/mean_length",)


def diagnose(metrics: Columns) -> list[Symptom]:
    """The symptoms of a run. A symptom whose causes have no evidence stands with none."""
    seen = Seen(metrics)
    found: list[Symptom] = []
    for name, (shows, causes) in SYMPTOMS.items():
        if evidence := shows(seen):
            present = [cause for rule in causes if not math.isnan((cause := rule(seen)).value) and cause.present]
            found.append(Symptom(name, evidence, tuple(sorted(present, key=lambda c: -c.strength))))
    return found


# -- symptoms: evidence, or nothing ------------------------------------------------------------------------------------------------


def _gap(seen: Seen) -> str:
    held_out = seen.of("eval/gold", "eval/reward")
    if len(held_out) < 3 or seen.change(*REWARD) < 2:
        return ""
    first, now = float(held_out[0]), float(np.mean(held_out[-2:]))
    return f"the reward rose, held-out answers fell from {first:.3g} to {now:.3g}" if now < first else ""


def _drop(seen: Seen) -> str:
    values = seen.of(*REWARD)
    if len(values) < FEW:
        return ""
    means = np.convolve(values, np.ones(5) / 5, "valid")
    falls = means[:-5] - means[5:]
    at = int(np.argmax(falls))
    deep = float(falls[at]) > 5 * max(float(np.median(np.abs(falls))), 1e-12) and float(falls[at]) > 0.25 * float(np.ptp(values))
    return f"the mean of five steps fell from {means[at]:.3g} to {means[at + 5]:.3g} around row {at + 5}" if deep else ""


def _swings(seen: Seen) -> str:
    values = seen.of(*REWARD)
    if len(values) < 2 * FEW:
        return ""
    means = np.convolve(values, np.ones(5) / 5, "valid")
    trend = np.polyval(np.polyfit(np.arange(len(means)), means, 1), np.arange(len(means)))
    apart = means - trend
    turns = int(np.sum(np.diff(np.sign(apart)) != 0))
    wide = float(np.std(apart)) > 1.5 * _noise(values) and turns >= 4
    return f"the mean of five steps crosses its trend {turns} times, by {np.std(apart):.3g} on average" if wide else ""


def _flat(seen: Seen) -> str:
    values = seen.of(*REWARD)
    if len(values) < 2 * FEW or seen.change(*REWARD) >= 1:
        return ""
    return f"the reward is where it was after {len(values)} steps: {np.mean(values[:5]):.3g}, now {np.mean(values[-5:]):.3g}"


def _far(seen: Seen) -> str:
    values = seen.of(*KL)
    if len(values) < FEW:
        return ""
    usual = float(np.median(values[: len(values) // 2]))
    worst = float(np.max(values))
    return f"the KL went from {usual:.3g} to {worst:.3g}" if worst > 10 * max(usual, 0.05) else ""


def _not_finite(seen: Seen) -> str:
    for name in ("loss", "grad_norm", "reward", "kl"):
        steps, values = seen.metrics.points(name)
        if (bad := ~np.isfinite(values)).any():
            return f"{name} is not finite in {int(bad.sum())} steps, first at step {steps[bad][0]:g}"
    return ""


# -- causes -----------------------------------------------------------------------------------------------------------------------

Rule = Callable[[Seen], Cause]


def _cause(name: str, value: Callable[[Seen], float], limit: float, evidence: str, remedy: str, page: str) -> Rule:
    """``evidence``: with ``{value}`` in it."""

    def rule(seen: Seen) -> Cause:
        found = float(value(seen))
        return Cause(name, found, limit, evidence.format(value=f"{found:.3g}"), remedy, page)

    return rule


def _spike(seen: Seen) -> float:
    values = seen.of("grad_norm")
    return float(np.max(values) / max(float(np.median(values)), 1e-12)) if len(values) else math.nan


def _failed(seen: Seen) -> float:
    values = seen.of("completions/failed_ratio")
    return float(np.max(values)) if len(values) else math.nan


def _inverse(value: float) -> float:
    return math.nan if math.isnan(value) else 1 / max(value, 1e-12)


def _part(seen: Seen) -> float:
    """How much more of the reward's rise one part has than an equal share; NaN with fewer than two parts."""
    parts = [n for n in seen.metrics.names if n.startswith("rewards/") and n.endswith("/mean")]
    rises = [float(np.mean(v[-5:]) - np.mean(v[:5])) for n in parts if len(v := seen.of(n)) >= FEW]
    total = sum(abs(r) for r in rises)
    return max(abs(r) for r in rises) / total * len(rises) if len(rises) > 1 and total > 0 else math.nan


def _modality(seen: Seen) -> float:
    image, text = seen.last("kl/grounded"), seen.last("kl/ungrounded")
    return image / text if text > 0 else math.nan


_LR = "lower optim.lr to a third, or raise the number of answers a step"
LONGER = _cause("length", lambda s: s.ratio(*LENGTH), 1.5, "answers are {value} times as long as at first",
                "price length (a `gaming` or `rules` reward, algorithm.credit.overlong), or let judges read answers of equal length",
                "docs/alarms.md#length")  # fmt: skip
SHORTER = _cause("length collapse", lambda s: _inverse(s.ratio(*LENGTH)), 2.0, "answers are {value} times shorter than at first",
                 "reward whole answers (min_tokens, a rule on length), lower optim.lr", "docs/alarms.md#length")  # fmt: skip
NARROW = _cause("entropy", lambda s: _inverse(s.ratio("entropy", "objective/entropy")), 3.0, "entropy fell to one part in {value}",
                "an entropy bonus (algorithm.entropy.coef), a higher temperature, fewer updates", "docs/alarms.md#entropy")  # fmt: skip
CHEAP = _cause("KL too cheap", lambda s: s.last(*KL), 1.0, "the KL is {value} nats a token by now",
               "raise algorithm.kl.coef, or set a target (algorithm.kl.control)", "docs/alarms.md#kl")  # fmt: skip
DEAR = _cause("KL too dear", lambda s: _inverse(s.last(*KL)) if s.last("kl_coef") >= 0.1 else math.nan, 1000.0,
              "the policy has not moved: a thousandth over the KL is {value}", "lower algorithm.kl.coef", "docs/alarms.md#kl")  # fmt: skip
PART = _cause("one part of the reward", _part, 1.6, "one part has {value} times its share of the change",
              "look at the answers that this part likes best (rollouts/), lower its weight or bound it",
              "docs/rewards.md#a-price-for-gaming")  # fmt: skip
TEMPLATE = _cause("a template", lambda s: s.last("completions/refrain_ratio"), 0.5, "{value} of the answers share a sentence",
                  "look at it (rollouts/), price it (a `gaming` or `rules` reward), add a bonus for variety",
                  "docs/rewards.md#a-bonus-for-variety")  # fmt: skip
SPIKE = _cause("a gradient", _spike, 10.0, "the largest gradient is {value} times the usual one",
               "lower optim.clip_norm, " + _LR, "docs/alarms.md#gradient")  # fmt: skip
FAILED = _cause("rewards failed", _failed, 0.2, "up to {value} of the answers got no reward",
                "mend the reward source: the log names the first failure", "docs/alarms.md#reward-failed")  # fmt: skip
CLIPPED = _cause("steps too large", lambda s: s.last("clip_ratio/region_mean", "policy/clipfrac_avg"), 0.3,
                 "{value} of the tokens are cut off by the clip", _LR, "docs/alarms.md#clip")  # fmt: skip
NO_SIGNAL = _cause("no signal", lambda s: s.last("frac_reward_zero_std"), 0.5, "in {value} of the groups all rewards are equal",
                   "middling prompts, more answers each, algorithm.credit.refill_rounds", "docs/alarms.md#no-signal")  # fmt: skip
SMALL = _cause("steps too small", lambda s: _inverse(s.last(*KL)), 1e4, "the policy has not moved: one over its KL is {value}",
               "raise optim.lr three times", "docs/alarms.md#no-signal")  # fmt: skip
MODALITY = _cause("tokens that hang on the image", _modality, 3.0, "their KL is {value} times that of the others",
                  "price them apart (algorithm.kl.grounded)", "docs/vision.md#measures-by-modality")  # fmt: skip

SYMPTOMS: Mapping[str, tuple[Callable[[Seen], str], Sequence[Rule]]] = {
    "reward up, held-out down": (_gap, (LONGER, SHORTER, NARROW, TEMPLATE, PART, CHEAP)),
    "sudden drop": (_drop, (SPIKE, FAILED, CHEAP, SHORTER)),
    "oscillation": (_swings, (CLIPPED, SPIKE, CHEAP)),
    "stagnation": (_flat, (NO_SIGNAL, SMALL, DEAR, FAILED, NARROW)),
    "KL explosion": (_far, (SPIKE, CLIPPED, PART, MODALITY, SHORTER)),
    "not finite": (_not_finite, (SPIKE, FAILED)),
}
