"""What ails a run of RL, by its metrics: symptoms in the order in which they showed, and for each the causes that have evidence, the
likeliest first. A table of plain rules; every one is a number against a limit, and both are told. How often the first cause is the right
one: docs/watchbench.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keel.evaluate import run_symptoms as shown
from keel.evaluate.run_seen import FEW, KL, LENGTH, REWARD, Seen, Shows, rolling
from keel.runs.columns import Columns


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of a symptom: the number that speaks for it, its limit, what helps, and where to read on. Present: at its limit or above."""

    name: str
    value: float
    limit: float
    evidence: str
    remedy: str
    page: str
    general: bool = False  # it is there in many runs that are well: others come first

    @property
    def present(self) -> bool:
        return self.value >= self.limit

    @property
    def strength(self) -> float:
        """How many times its limit."""
        return self.value / self.limit


@dataclass(frozen=True, slots=True)
class Symptom:
    """What is wrong, and why it may be: causes that are present, general ones last, the strongest first. ``step``: since when it shows;
    None where it is of the whole run."""

    name: str
    evidence: str
    causes: tuple[Cause, ...]
    step: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return asdict(self)


def diagnose(metrics: Columns) -> list[Symptom]:
    """The symptoms of a run: hard facts, then the first that showed first, for what comes later may be its consequence; those of the whole
    run stand last. A symptom whose causes have no evidence stands with none."""
    seen = Seen(metrics)
    found: list[tuple[float, Symptom]] = []
    for name, (shows, causes) in SYMPTOMS.items():
        if (there := shows(seen)) is not None:
            present = [cause for rule in causes if not math.isnan((cause := rule(seen)).value) and cause.present]
            ranked = tuple(sorted(present, key=lambda c: (c.general, -c.strength)))
            step = there.step if math.isfinite(there.step) else None
            found.append((there.step, Symptom(name, there.evidence, ranked, step)))
    return [symptom for _, symptom in sorted(found, key=lambda f: (f[1].name not in FACTS, f[0]))]  # of one step in the table's order


# -- causes -----------------------------------------------------------------------------------------------------------------------

Rule = Callable[[Seen], Cause]


def _cause(
    name: str, value: Callable[[Seen], float], limit: float, evidence: str, remedy: str, page: str, *, general: bool = False
) -> Rule:
    """``evidence``: with ``{value}`` in it."""

    def rule(seen: Seen) -> Cause:
        found = float(value(seen))
        return Cause(name, found, limit, evidence.format(value=f"{found:.3g}"), remedy, page, general)

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


def _leap(seen: Seen) -> float:
    """The largest change of KL or entropy in three steps, in units of what three steps may change."""
    kl, entropy = seen.of(*KL), seen.of("entropy", "objective/entropy")
    found = [math.nan]
    if len(kl) > FEW and (means := rolling(kl, 3))[3:].size:
        found.append(float(np.max(means[3:] / np.maximum(means[:-3], 0.2))) / 5)
    if len(entropy) > FEW:
        found.append(float(np.max(np.abs(entropy[3:] - entropy[:-3]))) / (0.5 * float(entropy[:5].mean())))
    return float(np.nanmax(found)) if len(found) > 1 else math.nan


def _alike(seen: Seen) -> float:
    """How much more alike answers have become beyond what repetition within them explains."""
    pairs, words = seen.ratio("completions/distinct_2"), seen.ratio("completions/unique_token_ratio")
    return words / pairs if pairs > 0 and words > 1 / 1.5 else math.nan


def _idle(seen: Seen) -> float:
    """The share of the last steps that change nothing."""
    lr, norm = seen.of("lr"), seen.of("grad_norm")
    return max((float(np.mean(values[-5:] <= 0)) for values in (lr, norm) if len(values)), default=math.nan)


def _since_the_start(name: str, n: int = 1) -> Callable[[Seen], float]:
    """The largest mean of ``n`` values over the largest of the first 20."""

    def value(seen: Seen) -> float:
        means = rolling(seen.of(name), n)
        return float(means.max() / max(float(means[:FEW].max()), 1e-12)) if len(means) > FEW else math.nan

    return value


def _shift(seen: Seen) -> float:
    values = rolling(seen.of("prompts/surprise"), 3)
    return float(np.max(np.abs(values - values[:FEW].mean()))) if len(values) > FEW else math.nan


def _resized(seen: Seen) -> float:
    values = rolling(seen.of("prompts/mean_length"), 3)
    usual = float(values[:FEW].mean()) if len(values) > FEW else math.nan
    return float(np.max(np.maximum(values / usual, usual / values))) if usual > 0 else math.nan


def _judged_otherwise(seen: Seen) -> float:
    """How much further the reward of training is above the held-out one than at the start, in spreads of a prompt's answers."""
    steps, held_out = seen.points("eval/reward")
    trained, reward = seen.points(*REWARD)
    spread = rolling(seen.of("reward_std"), 5)
    apart = [float(reward[trained <= s][-5:].mean()) - h for s, h in zip(steps, held_out, strict=True) if (trained <= s).sum() >= 5]
    return (max(apart) - apart[0]) / max(float(spread.max()), 1e-12) if len(apart) > 1 and len(spread) else math.nan


def _broken(seen: Seen) -> float:
    _, norm = seen.metrics.points("grad_norm")
    return float(np.sum(~np.isfinite(norm))) if len(norm) else math.nan


def _far_out(seen: Seen) -> float:
    """The KL by now; where none is measured nothing holds the policy, which counts as the limit."""
    return seen.last(*KL) if len(seen.of(*KL)) else 1.0


_LR = "lower optim.lr to a third, or raise the number of answers a step"
LONGER = _cause("length", lambda s: s.ratio(*LENGTH), 1.5, "answers are {value} times as long as at first",
                "price length (a `gaming` or `rules` reward, algorithm.credit.overlong), or let judges read answers of equal length",
                "docs/alarms.md#length")  # fmt: skip
SHORTER = _cause("length collapse", lambda s: _inverse(s.ratio(*LENGTH)), 2.0, "answers are {value} times shorter than at first",
                 "reward whole answers (min_tokens, a rule on length), lower optim.lr", "docs/alarms.md#length")  # fmt: skip
REPEATS = _cause("repetition", lambda s: _inverse(s.ratio("completions/unique_token_ratio")), 1.5,
                 "answers use one different token where they used {value}", "price repetition (a `gaming` reward), look at answers "
                 "(rollouts/): is one word paid?", "docs/rewards.md#a-price-for-gaming")  # fmt: skip
ALIKE = _cause("a template", _alike, 1.3, "pairs of tokens are {value} times as common to answers as at first",
               "look at it (rollouts/), price it (a `gaming` or `rules` reward), add a bonus for variety",
               "docs/rewards.md#a-bonus-for-variety")  # fmt: skip
LEAK = _cause("training is judged otherwise", _judged_otherwise, 1.0,
              "the reward of training is {value} spreads further above the held-out one than at first",
              "let the same program judge both sides and compare; look at answers that it judges otherwise; fewer passes over few prompts",
              "docs/alarms.md#train-test-gap")  # fmt: skip
LEAP = _cause("steps far too large", _leap, 1.0, "the policy changed {value} times as much in three steps as it should",
              "lower optim.lr (to a tenth), or raise the number of answers a step", "docs/alarms.md#kl-jump")  # fmt: skip
IDLE = _cause("nothing is updated", _idle, 0.5, "in {value} of the last steps the learning rate or the gradient is 0",
              "look at optim.lr, its schedule, and model_options.train", "docs/alarms.md#no-update")  # fmt: skip
OLD = _cause("stale weights", lambda s: s.last("sampling/staleness/mean"), 3.0, "answers come from weights that are {value} steps old",
             "see that the sampler gets new weights (its log), lower sampler's lag", "docs/alarms.md#stale")  # fmt: skip
APART = _cause("stale weights", lambda s: s.last("sampling/sampling_logp_difference/mean"), 0.02,
               "sampler and trainer are {value} nats apart at a token", "see that the sampler has the weights that it says, in the same "
               "precision; algorithm.correction", "docs/alarms.md#sampler-apart")  # fmt: skip
SHIFT = _cause("other prompts", _shift, 0.1, "their tokens are {value} nats from those of the beginning",
               "shuffle the data, or look at what came in (keel data show)", "docs/alarms.md#prompts-drift")  # fmt: skip
RESIZED = _cause("other prompts", _resized, 1.3, "their length changed by a factor of {value}",
                 "shuffle the data, or look at what came in (keel data show)", "docs/alarms.md#prompts-drift")  # fmt: skip
CRITIC = _cause("the critic", _since_the_start("loss/value_avg", 3), 4.0, "its error is {value} times the largest of the beginning",
                "lower critic_optim.lr, let the critic learn alone first", "docs/alarms.md#critic")  # fmt: skip
BROKEN = _cause("a gradient that is no number", _broken, 1.0, "in {value} steps", "look at the loss and the rewards of these steps, "
                "bf16 in place of fp16, a smaller optim.lr", "docs/alarms.md#gradient-non-finite")  # fmt: skip
FEWER = _cause("entropy", lambda s: _inverse(s.ratio("entropy", "objective/entropy")), 1.6, "entropy fell to one part in {value}",
               "an entropy bonus (algorithm.entropy.coef), a higher temperature, fewer updates", "docs/alarms.md#entropy-fall",
               general=True)  # fmt: skip
PUSHED = _cause("entropy", lambda s: s.last("frac_reward_zero_std"), 0.5, "in {value} of the groups all rewards are equal: it is not the "
                "reward that pushes it down", "see what else is trained: the sign of algorithm.entropy.coef, a term of SFT or distillation",
                "docs/alarms.md#entropy-pushed")  # fmt: skip
GREW = _cause("length", lambda s: s.ratio(*LENGTH), 1.3, "answers are {value} times as long as at first",
              "price length (a `gaming` or `rules` reward, algorithm.credit.overlong)", "docs/alarms.md#length-up")  # fmt: skip
NARROW = _cause("entropy", lambda s: _inverse(s.ratio("entropy", "objective/entropy")), 3.0, "entropy fell to one part in {value}",
                "an entropy bonus (algorithm.entropy.coef), a higher temperature, fewer updates", "docs/alarms.md#entropy",
                general=True)  # fmt: skip
CHEAP = _cause("KL too cheap", _far_out, 0.5, "the KL is {value} nats a token by now (1 where none is measured)",
               "raise algorithm.kl.coef, or set a target (algorithm.kl.control)", "docs/alarms.md#kl", general=True)  # fmt: skip
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

FACTS = frozenset({"not finite", "no rewards", "samples of other weights", "other prompts than at first"})  # no matter of judgement
SYMPTOMS: Mapping[str, tuple[Callable[[Seen], Shows | None], Sequence[Rule]]] = {
    "not finite": (shown.not_finite, (BROKEN, SPIKE, FAILED)),
    "no rewards": (shown.no_rewards, (FAILED,)),
    "samples of other weights": (shown.stale, (OLD, APART)),
    "other prompts than at first": (shown.other_prompts, (SHIFT, RESIZED)),
    "a leap of the policy": (shown.leap, (LEAP, SPIKE, CLIPPED)),
    "KL explosion": (shown.far, (LEAP, SPIKE, CLIPPED, PART, MODALITY, SHORTER)),
    "the critic is lost": (shown.lost_critic, (CRITIC,)),
    "nothing is learned any more": (shown.not_updated, (IDLE, NO_SIGNAL)),
    "answers grow": (shown.lengthy, (GREW,)),
    "reward up, held-out down": (shown.gap, (LONGER, SHORTER, REPEATS, TEMPLATE, ALIKE, LEAK, PART, NARROW, CHEAP)),
    "entropy collapse": (shown.narrow, (LEAP, FEWER)),
    "entropy falls, and nothing is left to learn": (shown.pushed, (PUSHED,)),
    "sudden drop": (shown.drop, (LEAP, SPIKE, FAILED, CHEAP, SHORTER)),
    "oscillation": (shown.swings, (CLIPPED, SPIKE, CHEAP)),
    "stagnation": (shown.flat, (NO_SIGNAL, SMALL, DEAR, FAILED, NARROW)),
}
