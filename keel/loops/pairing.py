"""From answers to preferences: which of a prompt's answers are compared, by their rewards or by a judge of two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal, Protocol

import torch

from keel.core.hashing import permutation
from keel.methods.credit.units import rollout_units
from keel.rewards.sources.duels import Duel, PairJudge
from keel.types import Edge, Group, PairTarget, Unit

PairRule = Literal["best_worst", "random", "all"]


@dataclass(frozen=True, slots=True)
class Paired:
    """A round's answers with their rewards, the units with preferences between them, and what there is to tell."""

    groups: tuple[Group, ...]
    units: tuple[Unit, ...]
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


class Pairing(Protocol):
    """Makes preferences of a round's answers."""

    def __call__(self, groups: tuple[Group, ...], *draw: str | int) -> Paired:
        """``draw``: what chance depends on (seed, step)."""
        ...


@dataclass(frozen=True, slots=True)
class PairByReward:
    """The answer with the higher reward is the better one; the gap is the pair's margin."""

    rule: PairRule = "best_worst"
    least_gap: float = 0.0

    def __call__(self, groups: tuple[Group, ...], *draw: str | int) -> Paired:
        edges = [edges_between(g.rewards_G[g.valid_G].tolist(), self.rule, self.least_gap, *draw, g.prompt.prompt_id) for g in groups]
        return Paired(groups, units_with(groups, edges))


@dataclass(slots=True)
class PairByJudge:
    """A judge of two says how probably one is the better: the pair's label, so that a narrow win counts as one. An answer's reward is the
    mean of these probabilities over the answers that it met, 0.5 where it met none; without any judgement of its meetings it has none.

    ``failure`` and ``all_failed`` tell, like ``RunRewards``, why a run had nothing to learn from.
    """

    judge: PairJudge
    rule: PairRule = "best_worst"
    least_gap: float = 0.0
    all_failed: bool = field(default=False, init=False)

    @property
    def failure(self) -> str:
        return self.judge.failure

    def __call__(self, groups: tuple[Group, ...], *draw: str | int) -> Paired:
        meetings = [meetings_of(int(g.valid_G.sum()), self.rule, *draw, g.prompt.prompt_id) for g in groups]
        duels = [
            Duel(g.prompt, texts[a], texts[b])
            for g, pairs in zip(groups, meetings, strict=True)
            for texts in (_texts(g),)
            for a, b in pairs
        ]
        said = iter(self.judge.probabilities(duels))
        verdicts = [{pair: next(said) for pair in pairs} for pairs in meetings]
        edges = [judged_edges(v, self.rule, self.least_gap) for v in verdicts]
        judged = tuple(self._judged(g, v) for g, v in zip(groups, verdicts, strict=True))
        self.all_failed = not any(bool(g.valid_G.any()) for g in judged)
        return Paired(judged, units_with(groups, edges), self.judge.metrics())

    def _judged(self, group: Group, verdicts: Mapping[tuple[int, int], float]) -> Group:
        places = group.valid_G.nonzero()[:, 0].tolist()
        rewards_G, valid_G = torch.full_like(group.rewards_G, math.nan), group.valid_G.clone()
        met = {i for pair in verdicts for i in pair}
        wins = win_rates(verdicts)
        for i, place in enumerate(places):
            rewards_G[place] = wins.get(i, math.nan if i in met else 0.5)
            valid_G[place] = not rewards_G[place].isnan()
        parts = {self.judge.config.name: rewards_G}
        return replace(group, rewards_G=torch.where(valid_G, rewards_G, 0.0), parts=parts, valid_G=valid_G)


def meetings_of(n: int, rule: PairRule, *draw: str | int) -> list[tuple[int, int]]:
    """Which of ``n`` answers a judge compares: two by chance, or every two (the best and the worst are known only then)."""
    if n < 2:
        return []
    if rule != "random":
        return list(combinations(range(n), 2))
    first, second, *_ = permutation(n, "pair", *draw)
    return [(first, second)]


def win_rates(verdicts: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """Each answer's mean probability of being the better one, over the meetings that were judged."""
    won: dict[int, list[float]] = {}
    for (a, b), p in verdicts.items():
        if not math.isnan(p):
            won.setdefault(a, []).append(p)
            won.setdefault(b, []).append(1.0 - p)
    return {i: sum(of) / len(of) for i, of in won.items()}


def judged_edges(verdicts: Mapping[tuple[int, int], float], rule: PairRule, least_gap: float) -> tuple[Edge, ...]:
    """Preferences with the judge's probabilities as labels. ``best_worst``: those with the highest and the lowest mean probability, if the
    judge also prefers the one to the other when they meet. Ties make none, nor do leads ``|2p - 1|`` below ``least_gap``."""
    found: list[Edge] = []
    for (a, b), p in verdicts.items():
        lead = abs(2.0 * p - 1.0)
        if lead > 0 and lead >= least_gap:  # not so for NaN
            found.append(Edge(*((a, b) if p > 0.5 else (b, a)), label=max(p, 1.0 - p), margin=lead))
    if rule != "best_worst" or not found:
        return tuple(found)
    wins = win_rates(verdicts)
    best, worst = max(wins, key=lambda i: wins[i]), min(wins, key=lambda i: wins[i])
    return tuple(e for e in found if (e.winner, e.loser) == (best, worst))


def edges_between(rewards: Sequence[float], rule: PairRule, least_gap: float, *draw: str | int) -> tuple[Edge, ...]:
    """Preferences between answers with these rewards, the better one the winner; ``Edge.margin`` is the gap. ``best_worst``: the first best
    and the first worst; ``random``: two drawn by ``draw``; ``all``: every two. Equal rewards make none, nor do gaps below ``least_gap``."""
    pairs = meetings_of(len(rewards), rule, *draw)
    if pairs and rule == "best_worst":
        indices = range(len(rewards))
        pairs = [(max(indices, key=lambda i: rewards[i]), min(indices, key=lambda i: rewards[i]))]
    found: list[Edge] = []
    for a, b in pairs:
        gap = abs(rewards[a] - rewards[b])
        if gap > 0 and gap >= least_gap:
            found.append(Edge(*((a, b) if rewards[a] > rewards[b] else (b, a)), margin=gap))
    return tuple(found)


def units_with(groups: Sequence[Group], edges: Sequence[Sequence[Edge]]) -> tuple[Unit, ...]:
    """The groups' valid answers with these preferences (by place among the valid ones) as units; answers that are in none are left out, and
    so are groups without any."""
    return tuple(_unit(g, e) for g, e in zip(groups, edges, strict=True) if e)


def _unit(group: Group, edges: Sequence[Edge]) -> Unit:
    (unit,) = rollout_units([group])
    used = sorted({i for e in edges for i in (e.winner, e.loser)})
    at = {i: k for k, i in enumerate(used)}
    moved = tuple(replace(e, winner=at[e.winner], loser=at[e.loser]) for e in edges)
    return Unit(unit.unit_id, unit.prompt, tuple(unit.branches[i] for i in used), PairTarget(moved), unit.meta)


def _texts(group: Group) -> list[str]:
    return [r.text for r, ok in zip(group.rollouts, group.valid_G.tolist(), strict=True) if ok]
