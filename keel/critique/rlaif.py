"""Pairs made of a constitution's scores: several answers to each prompt, scored, compared where they are apart."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keel.core.hashing import stable_hash
from keel.critique.config import AuditConfig, PairsConfig
from keel.rewards.constitution.maths import Conflict, agreement, conflicts, stability
from keel.rewards.constitution.scoring import Scored
from keel.types import Candidate, Prompt


@dataclass(frozen=True, slots=True)
class Answer:
    """A scored answer."""

    prompt: Prompt
    candidate: Candidate
    scored: Scored


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two answers to one prompt, the better one first."""

    chosen: Answer
    rejected: Answer
    gap: float
    confidence: float
    conflicts: tuple[Conflict, ...]
    overruled: bool  # without bands the other one would be the better

    @property
    def name(self) -> str:
        return f"{self.chosen.prompt.prompt_id}:{self.chosen.candidate.candidate_id}>{self.rejected.candidate.candidate_id}"


@dataclass(frozen=True, slots=True)
class Compared:
    """All pairs of different scored answers, counted: they are ``kept`` + ``unsure`` + ``close`` + ``surplus`` + ``cut``."""

    kept: tuple[ScoredPair, ...]
    unsure: tuple[ScoredPair, ...]
    close: int
    surplus: int  # beyond `per_prompt`
    cut: int  # the better answer was cut off
    conflicts: Mapping[tuple[str, str, str], int]  # (won, lost, by) over all pairs that are apart, without ``cut``
    overruled: int


def pair_of(one: Answer, two: Answer, how: str, floor: float, apart: float) -> ScoredPair:
    """The two in order of their scores; equal ones as they stand."""
    chosen, rejected = (one, two) if one.scored.score >= two.scored.score else (two, one)
    a, b, rules = chosen.scored, rejected.scored, chosen.scored.rules
    sure = agreement(a.p, b.p, rules)
    if a.samples and b.samples:
        sure *= stability(a.samples, b.samples)
    torn = tuple(conflicts(a.p, b.p, rules, how, floor, apart))  # type: ignore[arg-type]
    overruled = a.total.score > b.total.score and a.total.flat < b.total.flat
    return ScoredPair(chosen, rejected, a.score - b.score, sure, torn, overruled)


def cut_off(answer: Answer) -> bool:
    """Did sampling end it, and not the model?"""
    return answer.candidate.origin.get("finish_reason") == "length"


def compare(answers: Sequence[Answer], config: PairsConfig, how: str = "product", floor: float = 0.0, cut_may_win: bool = True) -> Compared:
    """Pairs of each prompt's answers. Answers without a score take no part; the same text twice is one answer. ``cut_may_win``: may an
    answer that was cut off be the better one? It would teach to end in the middle."""
    by_prompt: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        if not answer.scored.error:
            by_prompt.setdefault(answer.prompt.prompt_id, {}).setdefault(answer.candidate.text, answer)
    kept: list[ScoredPair] = []
    unsure: list[ScoredPair] = []
    torn: Counter[tuple[str, str, str]] = Counter()
    close = surplus = cut = overruled = 0
    for own in by_prompt.values():
        found = [pair_of(a, b, how, floor, config.apart) for a, b in itertools.combinations(own.values(), 2)]
        far = [p for p in found if p.gap > config.gap]
        close += len(found) - len(far)
        whole = [p for p in far if cut_may_win or not cut_off(p.chosen)]
        cut += len(far) - len(whole)
        torn.update((c.won, c.lost, c.by) for p in whole for c in p.conflicts)
        overruled += sum(p.overruled for p in whole)
        sure = sorted((p for p in whole if p.confidence >= config.confidence), key=lambda p: (-p.gap, stable_hash("pair", p.name)))
        unsure += [p for p in whole if p.confidence < config.confidence]
        kept += sure[: config.per_prompt]
        surplus += max(0, len(sure) - config.per_prompt)
    return Compared(tuple(kept), tuple(unsure), close, surplus, cut, dict(torn), overruled)


def for_people(found: Compared, config: AuditConfig, seed: int) -> list[tuple[ScoredPair, str]]:
    """(pair, arm): a random share of those that are kept, and the first of the unsure ones. The draw hangs on seed and pair alone."""

    def drawn(pairs: Sequence[ScoredPair], n: int) -> list[ScoredPair]:
        chosen = sorted(pairs, key=lambda p: stable_hash("audit", seed, p.name))[:n]
        return [p for p in pairs if p in chosen]

    n = math.ceil(config.share * len(found.kept)) if config.share else 0
    return [(p, "random") for p in drawn(found.kept, n)] + [(p, "unsure") for p in drawn(found.unsure, config.unsure)]
