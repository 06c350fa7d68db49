"""Why an answer, or a pair of answers, is worth a person's time. Pure functions of numbers and texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from keel.core.hashing import permutation
from keel.feedback.active import doubt
from keel.feedback.candidates import similarity
from keel.feedback.hacks import Limits, hacks, refrains
from keel.feedback.reliability.votes import Floats
from keel.types import Candidate, Prompt
from keel.verbs.mine.recipe import MineConfig

PRIORITY: Mapping[str, float] = {"hack": 1.0, "rule": 0.8, "length": 0.7, "unsure": 0.6, "close": 0.5}  # at least, by reason
REASONS = tuple(PRIORITY)
Detector = Callable[[Prompt, str], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with what was measured. ``reasons``: reason -> how much, e.g. ``{"hack:echo": 0.8, "unsure": 0.9}``."""

    prompt: Prompt
    candidate: Candidate
    score: float  # of the reward model, standardised
    spread: float  # of its members, 0 with one
    parts: Mapping[str, float]  # other rewards by name
    length: int  # tokens
    finished: bool
    reasons: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PairFound:
    """Two answers to one prompt that a person may compare."""

    first: Judged
    second: Judged
    reasons: Mapping[str, float]
    priority: float


def kind_of(reason: str) -> str:
    """``hack:echo`` -> ``hack``."""
    return reason.partition(":")[0]


def with_reasons(answers: Sequence[Judged], config: MineConfig, detector: Detector | None = None) -> list[Judged]:
    """The same answers with their reasons."""
    texts: dict[str, list[str]] = {}
    for a in answers:
        texts.setdefault(a.prompt.prompt_id, []).append(a.candidate.text)
    limits = Limits(config.hacks.repetition, config.hacks.echo, config.hacks.refrain)
    common = refrains(texts, limits.refrain)
    doubtful = unsure_above([a.spread for a in answers], config.unsure)
    off = length_residuals([a.score for a in answers], [a.length for a in answers])
    found: list[Judged] = []
    for a, z in zip(answers, off, strict=True):
        reasons: dict[str, float] = {}
        own = dict(detector(a.prompt, a.candidate.text)) if detector is not None else {}
        told = {**hacks(a.prompt.text or a.prompt.last_user_text, a.candidate.text, common, limits), **own}
        reasons |= {f"hack:{name}": float(value) for name, value in told.items()}
        reasons |= {f"rule:{name}": a.parts[name] for name, least in config.rules.items() if a.parts[name] < least}
        if abs(z) > config.length_z:
            reasons["length"] = z
        if a.spread > doubtful:
            reasons["unsure"] = a.spread
        found.append(replace(a, reasons=reasons))
    return found


def unsure_above(spreads: Sequence[float], share: float) -> float:
    """The spread above which ``share`` of the answers lie, fewer where several are equal. A share and no fixed limit: members of one trunk
    may differ by offsets of their own on every answer."""
    return float(np.quantile(spreads, 1.0 - share)) if len(spreads) and share else math.inf


def length_residuals(scores: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """How many deviations each score lies off the straight line of scores over lengths; 0 where there is no line (fewer than eight answers,
    or all on it)."""
    if len(scores) < 8:
        return [0.0] * len(scores)
    x, y = np.asarray(lengths, np.float64), np.asarray(scores, np.float64)
    dx = x - x.mean()
    slope = float((dx * y).sum() / (dx * dx).sum()) if (dx * dx).sum() > 0 else 0.0
    rest = y - y.mean() - slope * dx
    scale = float(rest.std())
    return (rest / scale).tolist() if scale > 1e-9 else [0.0] * len(scores)


def pairs_of(answers: Sequence[Judged], config: MineConfig, known: frozenset[frozenset[str]] = frozenset()) -> list[PairFound]:
    """Every two different answers to one prompt that were not asked before, with their reasons and a priority (0 without any reason)."""
    by_prompt: dict[str, list[Judged]] = {}
    for a in answers:
        kept = by_prompt.setdefault(a.prompt.prompt_id, [])
        if all(b.candidate.text != a.candidate.text and similarity(b.candidate.text, a.candidate.text) <= config.similarity for b in kept):
            kept.append(a)
    found: list[PairFound] = []
    for kept in by_prompt.values():
        for one, two in itertools.combinations(kept, 2):
            if frozenset((one.candidate.candidate_id, two.candidate.candidate_id)) in known:
                continue
            reasons: dict[str, float] = {}
            for name, value in [*one.reasons.items(), *two.reasons.items()]:
                reasons[name] = max(reasons.get(name, value), value, key=abs)
            apart = abs(one.score - two.score)
            if apart < config.margin:
                reasons["close"] = apart
            found.append(PairFound(one, two, reasons, _priority(one, two, reasons)))
    return found


def _priority(one: Judged, two: Judged, reasons: Mapping[str, float]) -> float:
    """The most urgent reason's, or the reward model's doubt where that is more; 0 without a reason."""
    if not reasons:
        return 0.0
    spread = math.hypot(one.spread, two.spread)
    unsure = float(doubt(np.array([[one.score - two.score]]), np.array([[spread]]))[0])
    return max(unsure, *(PRIORITY[kind_of(r)] for r in reasons))


def capped(pairs: Sequence[PairFound], most: int) -> Floats:
    """Priorities in which only the ``most`` urgent pairs of a prompt keep theirs: one prompt cannot fill the plan. [T]"""
    priority_T = np.array([p.priority for p in pairs])
    by_prompt: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        by_prompt.setdefault(pair.first.prompt.prompt_id, []).append(i)
    for places in by_prompt.values():
        for i in sorted(places, key=lambda i: (-priority_T[i], i))[most:]:
            priority_T[i] = 0.0
    return priority_T


def features(pairs: Sequence[PairFound]) -> Floats:
    """Where a pair lies, for coverage: mean score, margin, spread, both lengths' mean and difference, and each reason. [T, 5 + reasons]"""
    rows = [
        [
            (p.first.score + p.second.score) / 2,
            abs(p.first.score - p.second.score),
            math.hypot(p.first.spread, p.second.spread),
            (p.first.length + p.second.length) / 2,
            abs(p.first.length - p.second.length),
            *(float(any(kind_of(r) == name for r in p.reasons)) for name in REASONS),
        ]
        for p in pairs
    ]
    return np.array(rows, np.float64).reshape(len(pairs), 5 + len(REASONS))


def turned(pair: PairFound, seed: int) -> tuple[Judged, Judged]:
    """The two answers in an order that follows from the seed and tells nothing."""
    order = permutation(2, "mined", seed, pair.first.candidate.candidate_id, pair.second.candidate.candidate_id)
    both = (pair.first, pair.second)
    return both[order[0]], both[order[1]]
