"""Any number of models against one baseline, by any number of scorers: pure functions of plain records.

For each model and scorer the win rate with its interval, ties, p and Holm's p over all models; at equal lengths; ratings of all models;
results by the prompts' own fields; how the interval narrows; and the price that was paid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.evaluate import statistics
from keel.evaluate.compare import GOLD, REWARD_MODEL, Answer, PromptAnswers, scorers, text_measures
from keel.evaluate.statistics import LEVEL

JUDGE, PEOPLE = "judge", "people"
_FIRST = (PEOPLE, GOLD, JUDGE, REWARD_MODEL)  # what speaks first where the recipe does not say
_ALIKE = 0.1  # lengths that differ by less count as equal


@dataclass(frozen=True, slots=True)
class Shares:
    """Win shares by prompt, and the share of ties among what was compared."""

    won: Mapping[str, float]
    ties: float = 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One model beside the baseline: ``rows[k].after`` are its answers. ``given``: shares of scorers that compare (judge, people)."""

    name: str
    rows: Sequence[PromptAnswers]
    given: Mapping[str, Shares] = field(default_factory=dict[str, Shares])
    price: Mapping[str, Any] = field(default_factory=dict[str, Any])  # KL, perplexity
    at: float | None = None  # training steps or examples, for a learning curve


def shares_of(entry: Entry, scorer: str) -> Shares | None:
    """The shares of an entry by a scorer; None where nothing was scored on both sides."""
    if scorer in entry.given:
        return entry.given[scorer] if entry.given[scorer].won else None
    won: dict[str, float] = {}
    ties: list[float] = []
    for row in entry.rows:
        before, after = ([v for a in side if (v := a.score(scorer)) is not None] for side in (row.before, row.after))
        if before and after:
            won[row.prompt_id] = statistics.pair_score(before, after)
            ties.append(sum(a == b for a in after for b in before) / (len(before) * len(after)))
    return Shares(won, math.fsum(ties) / len(ties)) if won else None


def board(
    entries: Sequence[Entry],
    baseline: str,
    *,
    headline: str = "",
    fields: Mapping[str, Mapping[str, str]] | None = None,
    draws: int = 1_000,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Any]:
    """The board as plain values. ``fields``: further splits, name -> prompt id -> value. Raises ValueError for a headline nobody
    scored by."""
    found = {scorer: {e.name: s for e in entries if (s := shares_of(e, scorer)) is not None} for scorer in _scorers(entries)}
    found = {scorer: by_model for scorer, by_model in found.items() if by_model}
    if headline and headline not in found:
        raise ValueError(f"no scorer {headline!r} scored anything: there are {', '.join(found) or 'none'}")
    first = headline or next((name for name in _FIRST if name in found), next(iter(found), ""))
    out: dict[str, Any] = {"baseline": baseline, "headline": first, "level": level, "scorers": list(found)}
    models: dict[str, Any] = {}
    for entry in entries:
        models[entry.name] = {"win_rates": {}, "price": dict(entry.price), "at": entry.at, **_texts(entry)}
    for scorer, by_model in found.items():
        estimates = {name: statistics.clustered([s.won[k] for k in sorted(s.won)]) for name, s in by_model.items()}
        adjusted = statistics.holm({name: e.p_value(0.5) for name, e in estimates.items()})
        for entry in entries:
            if (shares := by_model.get(entry.name)) is None:
                continue
            rate = statistics.share_interval(estimates[entry.name], level).to_json()
            more = {"ties": shares.ties, "p": estimates[entry.name].p_value(0.5), "p_holm": adjusted[entry.name]}
            more["unscored"] = len({r.prompt_id for r in entry.rows} - shares.won.keys())
            models[entry.name]["win_rates"][scorer] = rate | more | _controlled(entry, shares, by_model, draws, level, seed)
    out["models"] = models
    if first:
        main = {name: s.won for name, s in found[first].items()}
        out["splits"] = _splits(entries, main, fields or {}, level)
        out["convergence"] = {name: _convergence(won, level) for name, won in main.items()}
        if len(entries) > 1:
            out["ratings"] = _ratings(entries, baseline, first, draws, level, seed)
    return out


def _scorers(entries: Sequence[Entry]) -> list[str]:
    names: dict[str, None] = {}
    for entry in entries:
        names |= dict.fromkeys(entry.given) | dict.fromkeys(scorers(entry.rows))
    return [n for n in _FIRST if n in names] + [n for n in names if n not in _FIRST]


def _length(answers: Sequence[Answer]) -> float:
    return math.fsum(a.length for a in answers) / len(answers)


def _controlled(entry: Entry, shares: Shares, by_model: Mapping[str, Shares], draws: int, level: float, seed: int) -> dict[str, Any]:
    """The win rate at equal lengths; with the own difficulty of the prompts where several models tell of it."""
    gaps = {r.prompt_id: _length(r.after) - _length(r.before) for r in entry.rows if r.before and r.after}
    if len(shares.won.keys() & gaps.keys()) < 10:
        return {}
    hard = statistics.own_difficulty({name: s.won for name, s in by_model.items()}, entry.name) if len(by_model) > 2 else {}
    difficulty = hard if shares.won.keys() <= hard.keys() else None
    found = statistics.length_controlled(shares.won, gaps, difficulty=difficulty, draws=min(draws, 1_000), level=level, seed=seed)
    return {"length_controlled": found.win_rate.to_json() | {"slope": found.slope, "length_explains_it": found.explained}}


def _texts(entry: Entry) -> dict[str, Any]:
    sides = {
        name: text_measures([a for r in entry.rows for a in getattr(r, side)]) for name, side in (("baseline", "before"), ("own", "after"))
    }
    out: dict[str, Any] = {"texts": {}}
    for name, measured in sides.items():
        length = None if measured.length is None else measured.length.mean
        out["texts"][name] = {"length": length, "distinct_2": measured.distinct_2, "repetition": measured.repetition}
    out["constant"] = statistics.constant_share([r.after[0].text for r in entry.rows if r.after])
    return out


def _splits(
    entries: Sequence[Entry], main: Mapping[str, Mapping[str, float]], fields: Mapping[str, Mapping[str, str]], level: float
) -> dict[str, Any]:
    """Win rates of each model by category, language, length and further fields of the prompts; a split into one part says nothing."""
    ways: dict[str, Callable[[PromptAnswers], str]] = {
        "category": lambda row: row.category,
        "language": lambda row: row.language,
        "length": _longer,
        **{name: (lambda row, of=of: of.get(row.prompt_id, "")) for name, of in fields.items()},
    }
    out: dict[str, Any] = {}
    for way, value_of in ways.items():
        parts: dict[str, dict[str, Any]] = {}
        for entry in entries:
            groups: dict[str, dict[str, float]] = {}
            for row in entry.rows:
                if row.prompt_id in main.get(entry.name, {}):
                    groups.setdefault(value_of(row), {})[row.prompt_id] = main[entry.name][row.prompt_id]
            for value, won in groups.items():
                parts.setdefault(value, {})[entry.name] = statistics.win_rate(won, level=level).to_json()
        if len(parts) > 1:
            out[way] = dict(sorted(parts.items()))
    return out


def _longer(row: PromptAnswers) -> str:
    if not row.before or not row.after:
        return ""
    before, after = _length(row.before), _length(row.after)
    return "longer" if after > (1 + _ALIKE) * before else "shorter" if after < (1 - _ALIKE) * before else "alike"


def _convergence(won: Mapping[str, float], level: float) -> dict[str, Any]:
    found = statistics.convergence(won, level=level)
    curve = [i.to_json() for i in found.curve]
    return {"curve": curve, "more_to_decide": found.more_to_decide, "more_to_halve": found.more_to_halve}


def _ratings(entries: Sequence[Entry], baseline: str, scorer: str, draws: int, level: float, seed: int) -> dict[str, Any]:
    """Bradley-Terry ratings: all against all by a scorer of single answers, each against the baseline by one that compares."""
    by_prompt: dict[str, dict[tuple[str, str], float]] = {}
    if any(scorer in e.given for e in entries):
        for entry in entries:
            for prompt, share in entry.given.get(scorer, Shares({})).won.items():
                by_prompt.setdefault(prompt, {}).update({(entry.name, baseline): share, (baseline, entry.name): 1 - share})
    else:
        scores: dict[str, dict[str, list[float]]] = {}
        for entry in entries:
            for row in entry.rows:
                of_prompt = scores.setdefault(row.prompt_id, {})
                for name, side in ((baseline, row.before), (entry.name, row.after)):
                    of_prompt[name] = [v for a in side if (v := a.score(scorer)) is not None]
        by_prompt = {prompt: statistics.all_pairs(of_prompt) for prompt, of_prompt in scores.items()}
    found = statistics.ratings({p: w for p, w in by_prompt.items() if w}, draws=min(draws, 1_000), level=level, seed=seed)
    return {"elo": {name: i.to_json() for name, i in found.elo.items()}, "unbounded": list(found.unbounded)}
