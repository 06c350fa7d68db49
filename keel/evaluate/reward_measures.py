"""How good a reward model is: order, rank correlation, calibration, by category. Pure functions of scores and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.hashing import stable_hash
from keel.evaluate.measures import fit_temperature, pair_accuracy, pair_calibration
from keel.evaluate.statistics import Interval, kendall, mean_interval, spearman

DRAWS = 2000
MIN_FOR_TEMPERATURE = 8  # prompts; below, half of them say nothing


@dataclass(frozen=True, slots=True)
class Ties:
    """How likely a model takes a tie to be: the log of its weight, and the model of ties that it is the weight of."""

    log_weight: float
    model: str = "davidson"  # or rao_kupper

    def margin(self, lead: float) -> float:
        """The log-odds of ``P(win) + P(tie) / 2`` at this lead: what a label that counts ties half is expected to be. Between answers of
        nearly one score ties pull it towards 0."""
        if self.model == "rao_kupper":
            h = (max(self.log_weight, 0.0) + math.log1p(math.exp(-abs(self.log_weight)))) / 2.0  # softplus(log weight) / 2
            return math.log(_chance(lead + h) + _chance(lead - h)) - math.log(_chance(h - lead) + _chance(-lead - h))
        half_tie = self.log_weight - math.log(2.0)
        return _log_add(lead / 2.0, half_tie) - _log_add(-lead / 2.0, half_tie)


def _chance(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(max(x, -700.0)) / (1.0 + math.exp(max(x, -700.0)))


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


@dataclass(frozen=True, slots=True)
class ScoredLabel:
    """The answers to one prompt: what the model scores them, what people said. ``edges`` are (better, worse, P(better is better));
    ``order`` is what ratings or ranks say of each answer, the higher the better, empty for pairs. ``ties``: where the labels have ties and
    the model has learnt how likely they are."""

    prompt_id: str
    scores: tuple[float, ...]
    edges: tuple[tuple[int, int, float], ...] = ()
    order: tuple[float, ...] = ()
    category: str = ""
    std: tuple[float, ...] = ()  # of the ensemble's members; empty without one
    lengths: tuple[int, ...] = ()  # of the answers, in tokens
    ties: Ties | None = None
    unit_id: str = ""  # of the row, where it has one of its own

    @property
    def preferences(self) -> list[tuple[int, int, float]]:
        """All (better, worse, P(better is better)), those between answers of different order included."""
        n = len(self.order)
        return [*self.edges, *((i, j, 1.0) for i in range(n) for j in range(n) if self.order[i] > self.order[j])]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(margin, label) of all preferences. The margin is the log-odds that the model gives the label: the lead, where there are no
        ties."""
        leads = [(self.scores[a] - self.scores[b], label) for a, b, label in self.preferences]
        return leads if self.ties is None else [(self.ties.margin(lead), label) for lead, label in leads]


def measure(judged: Sequence[ScoredLabel], *, bins: int = 5, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """All measures of ``judged``; what cannot be measured is left out. Intervals are over prompts."""
    flat = [(j, margin, label) for j in judged for margin, label in j.pairs]
    found: dict[str, Any] = {
        "prompts": len({j.prompt_id for j in judged}),
        "answers": sum(len(j.scores) for j in judged),
        "pairs": len(flat),
    }
    decided = [(j, m, y) for j, m, y in flat if y != 0.5]
    if decided:
        found["accuracy"] = _accuracy(decided, draws, seed).to_json()
        found |= _calibration(flat, bins, seed)
        found["by_category"] = _by_category(decided, draws, seed)
    found |= _orders([j for j in judged if len(j.order) > 2], draws, seed)
    rated = [(s, o) for j in judged for s, o in zip(j.scores, j.order)]
    if len(rated) > 2:
        found["spearman_overall"] = spearman(*zip(*rated))
        found["kendall_overall"] = kendall(*zip(*rated))
    return found


def _accuracy(pairs: Sequence[tuple[ScoredLabel, float, float]], draws: int, seed: int) -> Interval:
    return pair_accuracy([m for _, m, _ in pairs], [y for _, _, y in pairs], [j.prompt_id for j, _, _ in pairs], draws=draws, seed=seed)


def _by_category(pairs: Sequence[tuple[ScoredLabel, float, float]], draws: int, seed: int) -> dict[str, Any]:
    names = sorted({j.category for j, _, _ in pairs})
    if names in ([], [""]):
        return {}
    return {name: _accuracy([p for p in pairs if p[0].category == name], draws, seed).to_json() for name in names}


def _orders(judged: Sequence[ScoredLabel], draws: int, seed: int) -> dict[str, Any]:
    """Rank correlations within prompts of three answers and more, and how often the first choice is one of the best."""
    found: dict[str, Any] = {}
    measures: dict[str, Callable[[ScoredLabel], float | None]] = {
        "kendall": lambda j: kendall(j.scores, j.order),
        "spearman": lambda j: spearman(j.scores, j.order),
        "best_of_k": _best,
    }
    for name, of in measures.items():
        values: dict[str, list[float]] = {}
        for j in judged:
            value = of(j)
            if value is not None:
                values.setdefault(j.prompt_id, []).append(value)
        if values:
            found[name] = mean_interval(values, draws=draws, seed=seed).to_json()
    return found


def _best(judged: ScoredLabel) -> float | None:
    """Share of the answers scored highest that are among the best; None when all are equally good."""
    if min(judged.order) == max(judged.order):
        return None
    top = [o for s, o in zip(judged.scores, judged.order) if s == max(judged.scores)]
    return sum(o == max(judged.order) for o in top) / len(top)


def _calibration(pairs: Sequence[tuple[ScoredLabel, float, float]], bins: int, seed: int) -> dict[str, Any]:
    """Calibration of all pairs; the temperature that mends it is fitted on half of the prompts and its effect told on the other half."""
    whole = pair_calibration([m for _, m, _ in pairs], [y for _, _, y in pairs], bins=bins)
    found: dict[str, Any] = {
        "calibration": whole.to_json(),
        "temperature": fit_temperature([m for _, m, _ in pairs], [y for _, _, y in pairs]),
    }
    names = sorted({j.prompt_id for j, _, _ in pairs}, key=lambda name: (stable_hash("temperature", seed, name), name))
    if len(names) < MIN_FOR_TEMPERATURE:
        return found
    fitted = set(names[: len(names) // 2])
    fit = [(m, y) for j, m, y in pairs if j.prompt_id in fitted]
    rest = [(m, y) for j, m, y in pairs if j.prompt_id not in fitted]
    temperature = fit_temperature(*zip(*fit))
    before, after = (pair_calibration([m for m, _ in rest], [y for _, y in rest], bins=bins, temperature=t) for t in (1.0, temperature))
    scaled = {"temperature": temperature, "prompts": len(names) - len(fitted), "ece_before": before.ece, "ece_after": after.ece}
    found["temperature_scaling"] = scaled | {"calibration": after.to_json()}
    return found


def log_loss(pairs: Sequence[tuple[float, float]], temperature: float = 1.0) -> float:
    """Mean cross-entropy of Bradley-Terry probabilities to labels, in nats: ln 2 is a coin."""
    losses = [math.log1p(math.exp(-abs(m / temperature))) + max(0.0, -m / temperature) + (1 - y) * m / temperature for m, y in pairs]
    return math.fsum(losses) / len(losses)


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that a stage's summary shows: accuracy with its interval, calibration error, temperature."""
    accuracy = found.get("accuracy")
    if accuracy is None:
        return {k: found[k] for k in ("spearman_overall", "kendall_overall") if found.get(k) is not None}
    return {**accuracy, "accuracy": accuracy["mean"], "ece": found["calibration"]["ece"], "temperature": found["temperature"]}
