"""What ails a reward model, by its scores alone, with the remedy named. Each rule is a number against a limit, both are told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keel.evaluate.blindness import REMEDY, Look
from keel.evaluate.measures import fit_temperature, pair_accuracy, pair_calibration
from keel.evaluate.reward_measures import ScoredLabel, log_loss
from keel.evaluate.statistics import wilson

FEW = 20  # pairs; with fewer a finding would be chance


@dataclass(frozen=True, slots=True)
class Finding:
    """One disease: whether the model has it, the number that says so, its limit, and what helps."""

    name: str
    present: bool
    value: float
    limit: float
    evidence: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Patient:
    """What a diagnosis looks at.

    ``trained_on`` are labels of the training data; ``looks`` is how far scores move when the prompt or the image is changed, by which of
    them; ``flips`` the share of right pairs that a variant of the worse answer turns, by variant;
    ``left_rate`` how often annotators preferred the answer on the left, of ``shown`` decided comparisons; ``contradictions`` the share of
    pairs that are also labelled the other way.
    """

    judged: Sequence[ScoredLabel]
    trained_on: Sequence[ScoredLabel] = ()
    looks: Mapping[str, Look] | None = None
    flips: Mapping[str, float] | None = None
    left_rate: float = math.nan
    shown: int = 0
    contradictions: float = 0.0


def diagnose(patient: Patient) -> list[Finding]:
    """All findings that the data allow, those that are present first."""
    found = [*_shape(patient), *_fit(patient), *_trust(patient), *_biases(patient)]
    return sorted(found, key=lambda f: not f.present)


def _pairs(judged: Sequence[ScoredLabel]) -> tuple[list[float], list[float], list[str]]:
    flat = [(m, y, j.prompt_id) for j in judged for m, y in j.pairs if y != 0.5]
    return [m for m, _, _ in flat], [y for _, y, _ in flat], [p for _, _, p in flat]


def _accuracy(judged: Sequence[ScoredLabel]) -> float | None:
    margins, labels, _ = _pairs(judged)
    return pair_accuracy(margins, labels).mean if len(margins) >= FEW else None


def _shape(patient: Patient) -> list[Finding]:
    """Collapse: answers to one prompt get the same score."""
    margins = [m for j in patient.judged for m, _ in j.pairs]
    if len(margins) < FEW:
        return []
    typical = sorted(abs(m) for m in margins)[len(margins) // 2]
    text = f"the median difference between two answers to one prompt is {typical:.2g} nats"
    remedy = "train longer or with a higher learning rate; look whether head.bound flattens the scores"
    return [Finding("collapse", typical < 0.01, typical, 0.01, text, remedy)]


def _fit(patient: Patient) -> list[Finding]:
    found: list[Finding] = []
    here, there = _accuracy(patient.judged), _accuracy(patient.trained_on)
    if here is not None and there is not None:
        gap = there - here
        text = f"accuracy is {there:.0%} on the training data and {here:.0%} on this data"
        over = there > 0.9 and here < 0.7
        remedy = "more data, fewer epochs, LoRA in place of all weights, loss.smoothing, loop.best with patience"
        found.append(Finding("over-fit", over, gap, 0.2, text, remedy))
    known = there if there is not None else here
    if known is not None:
        source = patient.trained_on or patient.judged
        m, y, _ = _pairs(source)
        loss = log_loss(list(zip(m, y)), fit_temperature(m, y))
        where = "the training data" if patient.trained_on else "this data"
        text = f"accuracy on {where} is {known:.0%}; at the best temperature the loss is {loss:.3f} nats, a coin's is {math.log(2):.3f}"
        remedy = "more steps, a higher learning rate, a larger model; look whether the labels follow from what the model sees"
        found.append(Finding("under-fit", loss > 0.95 * math.log(2), loss, 0.95 * math.log(2), text, remedy))
    return found


def _trust(patient: Patient) -> list[Finding]:
    """Over-confidence, and label noise: errors where the model is surest."""
    margins, labels, _ = _pairs(patient.judged)
    if len(margins) < FEW:
        return []
    found: list[Finding] = []
    temperature, ece = fit_temperature(margins, labels), pair_calibration(margins, labels).ece
    text = f"calibration error {ece:.3f}; probabilities are right at temperature {temperature:.3g}"
    remedy = "divide scores by the temperature where probabilities are read; loss.smoothing, fewer epochs, or an ensemble (head.members)"
    found.append(Finding("over-confidence", temperature > 1.25 and ece > 0.05, temperature, 1.25, text, remedy))
    surest = sorted(zip(margins, labels), key=lambda p: -abs(p[0]))[: max(FEW, len(margins) // 5)]
    wrong = [(0.0 if m == 0 else float((m > 0) != (y > 0.5))) for m, y in surest]
    noise = wilson(sum(wrong), len(wrong))
    accuracy = pair_accuracy(margins, labels).mean
    share = max(noise.mean, patient.contradictions)
    present = (noise.low > 0.08 and accuracy > 0.55) or patient.contradictions > 0.05
    text = f"{noise.mean:.0%} of the {len(surest)} pairs that the model is surest of are labelled against it"
    text += f"; {patient.contradictions:.1%} of the pairs are also labelled the other way" if patient.contradictions else ""
    remedy = "look at these pairs; several annotators a pair (soft labels), loss.smoothing near this share, weights by agreement"
    found.append(Finding("label noise", present, share, 0.08, text, remedy))
    return found


def _biases(patient: Patient) -> list[Finding]:
    return [*_length(patient), *_position(patient), *_shortcuts(patient)]


def _length(patient: Patient) -> list[Finding]:
    """Accuracy where the better answer is the longer one against where it is the shorter one."""
    longer: list[float] = []
    shorter: list[float] = []
    for j in patient.judged:
        for winner, loser, label in j.preferences if j.lengths else ():
            better, worse = (winner, loser) if label > 0.5 else (loser, winner)
            if label == 0.5 or j.lengths[better] == j.lengths[worse]:
                continue
            right = 1.0 if j.scores[better] > j.scores[worse] else 0.5 if j.scores[better] == j.scores[worse] else 0.0
            (longer if j.lengths[better] > j.lengths[worse] else shorter).append(right)
    if min(len(longer), len(shorter)) < FEW // 2:
        return []
    a, b = wilson(sum(longer), len(longer)), wilson(sum(shorter), len(shorter))
    text = f"right on {a.mean:.0%} of {len(longer)} pairs whose better answer is longer, {b.mean:.0%} of {len(shorter)} with a shorter one"
    remedy = (
        "balance the data by length (pairs whose better answer is shorter), add `longer` variants of worse answers, a length penalty in RL"
    )
    apart = a.low > b.high or b.low > a.high
    return [Finding("length bias", apart and abs(a.mean - b.mean) > 0.15, a.mean - b.mean, 0.15, text, remedy)]


def _position(patient: Patient) -> list[Finding]:
    """Annotators who prefer a side, whatever stands there."""
    if patient.shown < FEW:
        return []
    rate = wilson(round(patient.left_rate * patient.shown), patient.shown)
    span = f"interval {rate.low:.0%} to {rate.high:.0%}"
    text = f"the answer on the left was preferred in {patient.left_rate:.0%} of {patient.shown} comparisons ({span})"
    remedy = "show each pair in both orders, or draw the order; leave out annotators with a strong side, and label again"
    present = (rate.low > 0.5 or rate.high < 0.5) and abs(patient.left_rate - 0.5) > 0.05
    return [Finding("position", present, patient.left_rate - 0.5, 0.05, text, remedy)]


def _shortcuts(patient: Patient) -> list[Finding]:
    found: list[Finding] = []
    for what, look in (patient.looks or {}).items():
        remedy = REMEDY if what == "image" else f"add pairs that only the {what} decides: good answers to other prompts as worse ones"
        text = f"the {what} moves the output by {look.numbers}"
        found.append(Finding(f"blind to the {what}", look.blind, look.most, look.limit, text, remedy))
    for name, share in (patient.flips or {}).items():
        text = f"{share:.0%} of the pairs that it orders rightly turn when the worse answer is made {name}"
        remedy = f"add pairs whose worse answer is a {name} variant of one (write_stress=FILE writes them), then train again"
        found.append(Finding(f"shortcut: {name}", share > 0.2, share, 0.2, text, remedy))
    return found
