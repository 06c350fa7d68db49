"""Which way to take: rules as data. A rule gives points to ways when a condition on the measures holds, with its reason and its source.

Points are judgements: about as much as a rule should outweigh the others. What is written is what is added; nothing else decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.advise.estimate import Estimate
from keel.advise.measure import Measures
from keel.advise.ways import PREFERENCES, WAYS, Way, lacking

NOISY, LONG, FEW, FEW_COMPARISONS, MANY = 0.08, 0.65, 200, 2000, 10_000
_RM = ("best_of_n", "ppo", "grpo", "rloo")
_DIRECT = ("dpo", "ipo", "robust_dpo", "simpo", "orpo", "dpo_length_normalised")

DPO = "Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290"
IPO = "Azar et al. 2023, A General Theoretical Paradigm to Understand Learning from Human Preferences, arXiv:2310.12036"
KTO = "Ethayarajh et al. 2024, KTO: Model Alignment as Prospect Theoretic Optimization, arXiv:2402.01306"
BCO = "Jung et al. 2024, Binary Classifier Optimization, arXiv:2404.04656"
ORPO = "Hong et al. 2024, ORPO, arXiv:2403.07691"
SIMPO = "Meng et al. 2024, SimPO: Simple Preference Optimization with a Reference-Free Reward, arXiv:2405.14734"
ROBUST = "Chowdhury et al. 2024, Provably Robust DPO: Aligning Language Models with Noisy Feedback, arXiv:2403.00409"
LENGTH = "Park et al. 2024, Disentangling Length from Quality in Direct Preference Optimization, arXiv:2403.19159"
SENSITIVE = "Liu et al. 2024, Length Desensitization in Direct Preference Optimization, arXiv:2409.06411"
INSTRUCT = "Ouyang et al. 2022, Training language models to follow instructions with human feedback, arXiv:2203.02155"
BETTER = "Xu et al. 2024, Is DPO Superior to PPO for LLM Alignment? A Comprehensive Study, arXiv:2404.10719"
OVER = "Gao et al. 2022, Scaling Laws for Reward Model Overoptimization, arXiv:2210.10760"
GRPO = "Shao et al. 2024, DeepSeekMath, arXiv:2402.03300"
R1 = "DeepSeek-AI 2025, DeepSeek-R1: Incentivizing Reasoning Capability in LLMs via Reinforcement Learning, arXiv:2501.12948"
RLOO = "Ahmadian et al. 2024, Back to Basics: REINFORCE Style Optimization, arXiv:2402.14740"
STEPS = "Lightman et al. 2023, Let's Verify Step by Step, arXiv:2305.20050"
OWN = "Keel: what its losses read (docs/reference.md)"


@dataclass(frozen=True, slots=True)
class Rule:
    """``points`` by way when ``when`` holds; ``why`` may name numbers of :func:`numbers` in braces."""

    when: Callable[[Measures], bool]
    points: Mapping[str, float]
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class Reason:
    points: float
    why: str
    source: str


def _has(*kinds: str) -> Callable[[Measures], bool]:
    return lambda m: any(k in m.kinds for k in kinds)


def paired(m: Measures) -> bool:
    """Are there preferences between answers?"""
    return bool(m.preferences.get("pairs"))


def noisy(m: Measures) -> bool:
    """Are a good part of the labels wrong, as far as one can tell?"""
    return m.noise >= NOISY


def looks_decided(m: Measures) -> bool:
    """Is nearly every label certain, with nothing that speaks of noise or of weak preferences?"""
    p = m.preferences
    if not paired(m) or noisy(m) or p["deterministic"] < 0.9:
        return False
    return p["with_margin"] <= 0.5 or p["margin"] >= 0.5 * p["margin_max"]


def decided(m: Measures) -> bool:
    """Do votes on the same pairs, or stated strengths, say that preferences are certain?"""
    p = m.preferences
    return looks_decided(m) and (p["judged_twice"] >= 0.1 * p["pairs"] or p["with_margin"] > 0.5)


def judged_once(m: Measures) -> bool:
    """Do the labels look certain only because each pair was judged once, and are they few?"""
    return looks_decided(m) and not decided(m) and m.preferences["pairs"] < MANY


def long_wins(m: Measures) -> bool:
    """Does the longer answer win clearly more often than chance?"""
    return m.longer_wins[0] >= LONG


def short_wins(m: Measures) -> bool:
    """Does the shorter answer?"""
    return m.longer_wins[1] <= 1.0 - LONG


def rated_alone(m: Measures) -> bool:
    """Are there ratings, and no two different ones of answers to one prompt?"""
    return "rating" in m.kinds and not paired(m)


def _biased(m: Measures) -> bool:
    return paired(m) and (long_wins(m) or short_wins(m))


def _same(points: float, names: Sequence[str]) -> dict[str, float]:
    return dict.fromkeys(names, points)


RULES: tuple[Rule, ...] = (
    Rule(_has("unpaired"), {"kto": 6.0}, "answers are labelled one by one, which is what this loss learns from", KTO),
    Rule(_has("unpaired"), {"bco": 5.0}, "answers are labelled one by one, which is what this loss learns from", BCO),
    Rule(_has("unpaired"), {"sft": 1.0}, "the wanted answers could be imitated, the unwanted ones would teach nothing", KTO),
    Rule(lambda m: _has("demonstration")(m), {"sft": 8.0}, "there are {demonstration} answers to imitate", INSTRUCT),
    Rule(paired, {"dpo": 5.0}, "{pairs} pairs are what this loss learns from, with no reward model and no sampling", DPO),
    Rule(paired, {"ipo": 4.5}, "{pairs} pairs are what this loss learns from", IPO),
    Rule(paired, {"simpo": 4.0}, "{pairs} pairs; no reference model and no pass of it", SIMPO),
    Rule(paired, {"dpo_length_normalised": 3.5, "robust_dpo": 3.0}, "{pairs} pairs; a variant for data that call for it", OWN),
    Rule(paired, {"orpo": 3.0}, "{pairs} pairs; imitates and prefers in one stage, for a model that was not fine-tuned yet", ORPO),
    Rule(
        paired, _same(3.0, ("ppo", "grpo", "rloo")), "a reward model of the pairs can judge answers that the policy writes itself", INSTRUCT
    ),
    Rule(paired, {"best_of_n": 2.5}, "a reward model picks among samples; the policy is not trained at all", OVER),
    Rule(paired, {"kto": 2.0, "bco": 1.5}, "pairs can be taken apart into single answers, which loses what was compared with what", KTO),
    Rule(paired, {"sft": 1.0}, "the preferred answers could be imitated; that they are better than others is not used", DPO),
    Rule(
        decided,
        {"ipo": 2.0, "dpo": -1.0, "orpo": -0.5},
        "{deterministic:.0%} of the preferences are certain: with sigmoid losses the lead then grows without bound and the tie to the "
        "reference gives way; this loss aims at a finite lead",
        IPO,
    ),
    Rule(
        judged_once,
        {"ipo": 0.75},
        "every pair was judged once, so each of {pairs} labels looks certain: with so few, a lead without bound overfits before long",
        IPO,
    ),
    Rule(
        lambda m: paired(m) and noisy(m),
        {"robust_dpo": 5.0},
        "about {noise:.0%} of the labels are wrong (from {judged_twice} pairs that were judged twice and soft labels): this loss is "
        "unbiased under flipped labels",
        ROBUST,
    ),
    Rule(
        lambda m: paired(m) and noisy(m),
        {"dpo": -1.0, "simpo": -1.5, "orpo": -1.0, "dpo_length_normalised": -0.5, "ipo": -0.5},
        "about {noise:.0%} of the labels are wrong and this loss takes each as it is",
        ROBUST,
    ),
    Rule(
        lambda m: paired(m) and (noisy(m) or m.preferences["soft"] > 0.2),
        _same(2.0, _RM),
        "votes disagree: a reward model is fitted to their shares (soft labels) and averages over noise before anything is optimised",
        INSTRUCT,
    ),
    Rule(
        _biased,
        {"simpo": 5.0},
        "length alone predicts the preferred answer ({length}): scores here are means over tokens, which sums over tokens would follow",
        SIMPO,
    ),
    Rule(
        _biased, {"dpo_length_normalised": 5.0}, "length alone predicts the preferred answer ({length}): scores are means here", SENSITIVE
    ),
    Rule(_biased, {"ipo": 1.0}, "length alone predicts the preferred answer; this loss takes means over tokens by default", OWN),
    Rule(
        _biased,
        {"dpo": -2.0, "robust_dpo": -1.0, "kto": -1.0, "bco": -1.0},
        "length alone predicts the preferred answer ({length}) and this loss sums over tokens",
        LENGTH,
    ),
    Rule(_biased, _same(-1.0, _RM), "length alone predicts the preferred answer ({length}): the reward model would learn that", LENGTH),
    Rule(
        lambda m: paired(m) and m.preferences["pairs"] < FEW_COMPARISONS,
        _same(-2.0, _RM),
        "{pairs} pairs are few for a reward model: optimised against, one of under about 2000 comparisons is hardly better than chance",
        OVER,
    ),
    Rule(
        lambda m: paired(m) and m.preferences["pairs"] >= MANY,
        _same(1.5, ("ppo", "grpo", "rloo")),
        "{pairs} pairs carry a reward model; with one, policies that learn from their own samples came out ahead",
        BETTER,
    ),
    Rule(
        _has("ranking"),
        _same(1.0, _RM),
        "whole rankings: a reward model can be fitted to the order (Plackett-Luce), losses of pairs cannot",
        OWN,
    ),
    Rule(
        _has("rating"),
        _same(1.0, _RM),
        "ratings: a reward model can be fitted to the scores themselves, losses of pairs see the order",
        OWN,
    ),
    Rule(
        rated_alone,
        {"grpo": 3.5, "rloo": 3.0, "ppo": 3.0, "best_of_n": 2.5},
        "a reward model is fitted to the {rating} ratings; where no prompt has two answers that differ, no pair can be made",
        INSTRUCT,
    ),
    Rule(
        lambda m: m.checkable is not None,
        {"grpo_verifier": 10.0},
        "a program ({verifier}) can check the answers: nothing to be learned and exploited stands between reward and truth",
        R1,
    ),
    Rule(
        lambda m: m.checkable is not None,
        {"rloo_verifier": 9.0},
        "a program ({verifier}) can check the answers; unbiased, without a critic",
        RLOO,
    ),
    Rule(lambda m: m.checkable is not None, {"grpo_verifier": 0.5}, "groups of samples are compared with each other: no critic", GRPO),
    Rule(
        _has("steps"),
        {"process_reward": 8.0},
        "steps are labelled: a reward model of steps picks better samples than one of outcomes",
        STEPS,
    ),
)


def numbers(m: Measures) -> dict[str, Any]:
    """What the reasons may name."""
    low, high = m.longer_wins
    length = f"the longer one wins in {low:.0%} to {high:.0%}" if m.preferences.get("length") else "unknown"
    own = {k: m.preferences.get(k) or 0 for k in ("pairs", "deterministic", "judged_twice")}
    verifier = m.checkable.verifier if m.checkable else ""
    return {
        **own,
        "noise": m.noise,
        "length": length,
        "verifier": verifier,
        "demonstration": m.kinds.get("demonstration", 0),
        "rating": m.kinds.get("rating", 0),
    }


def reasons(way: Way, m: Measures) -> tuple[Reason, ...]:
    """The rules that speak for or against a way, in the table's order."""
    facts = numbers(m)
    return tuple(Reason(r.points[way.name], r.why.format(**facts), r.source) for r in RULES if way.name in r.points and r.when(m))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A way with its points. ``estimate`` is None where the model's size is not known; ``fits`` then too."""

    way: Way
    reasons: tuple[Reason, ...]
    estimate: Estimate | None
    fits_memory: bool | None
    fits_budget: bool | None

    @property
    def score(self) -> float:
        return round(sum(r.points for r in self.reasons), 3)

    @property
    def fits(self) -> bool | None:
        """Both; None where nothing is known."""
        known = [f for f in (self.fits_memory, self.fits_budget) if f is not None]
        return all(known) if known else None


def possible(m: Measures) -> tuple[list[Way], dict[str, str]]:
    """The ways that the data allow, and why the others are out."""
    out = {way.name: why for way in WAYS if (why := lacking(way, m))}
    return [way for way in WAYS if way.name not in out], out


def ranked(found: Sequence[Ranked]) -> list[Ranked]:
    """What fits the memory first, then by points; the table's order settles what is even."""
    return sorted(found, key=lambda r: (r.fits_memory is False, -r.score))


def warnings(m: Measures) -> list[str]:
    """What should be known before training, whichever way is taken."""
    found: list[str] = []
    low, high = m.longer_wins
    if _biased(m):
        which = "longer" if long_wins(m) else "shorter"
        found.append(
            f"length bias: the longer answer is preferred in {low:.0%} to {high:.0%} of the pairs; a model may learn to write {which} "
            "answers and nothing else. Balance the pairs by length, or use a length-normalised loss, and watch the length of answers"
        )
    if noisy(m):
        found.append(
            f"noise: about {m.noise:.0%} of the labels contradict what others say of the same answers; look at them, or vote again"
        )
    near, compared = m.coverage["near_duplicates"], m.coverage["compared"]
    if compared and near > 0.2 * compared:
        found.append(f"coverage: {near} of {compared} different prompts nearly repeat an earlier one; the data cover less than they count")
    if m.other["duplicates"] > 0.05 * max(1, sum(m.kinds.values())):
        found.append(f"{m.other['duplicates']} rows say exactly what an earlier one says")
    wanted = m.unpaired.get("wanted")
    if wanted is not None and not 0.1 <= wanted <= 0.9:
        found.append(
            f"{wanted:.0%} of the answers are wanted: weigh the rarer kind (objective.answers.desirable_weight, undesirable_weight)"
        )
    if m.bad:
        found.append(f"{m.bad} of {m.rows} rows could not be read; keel data show names the first")
    if rated_alone(m):
        found.append("no two answers to one prompt are rated differently, so no loss of pairs can be used: rate two answers of each prompt")
    elif PREFERENCES & m.kinds.keys() and not paired(m):
        found.append("no preference is left between answers of one prompt: every one is a tie, or each prompt has one answer")
    if paired(m) and m.preferences["pairs"] < FEW:
        held_out = max(1, round(0.1 * m.preferences["pairs"]))
        found.append(
            f"few: of {m.preferences['pairs']:.0f} pairs a tenth is {held_out}, on which accuracy is known to within "
            f"{min(0.5, 0.98 / math.sqrt(held_out)):.0%}; whichever way is taken, nothing will show that it helped. Label more first"
        )
    return found
