"""Every disease on a case that has it, and a healthy model that has none."""

from __future__ import annotations

import numpy as np
import pytest

from keel.evaluate.blindness import SD, SWAPPED, Look
from keel.evaluate.diagnosis import Patient, diagnose
from keel.evaluate.reward_measures import ScoredLabel

N = 400
RNG = np.random.default_rng(0)
NOISE = RNG.random(N)


def judged(margins, lengths=None) -> list[ScoredLabel]:
    """One pair a prompt, the first answer the better one; ``margins`` are score(first) - score(second)."""
    of = lengths if lengths is not None else [(10, 10)] * len(margins)
    return [ScoredLabel(f"p{i}", (float(m), 0.0), ((0, 1, 1.0),), lengths=tuple(n)) for i, (m, n) in enumerate(zip(margins, of))]


def calibrated(accuracy_at: float = 2.0) -> np.ndarray:
    """Margins whose sign is right just as often as they claim."""
    size = np.linspace(0.2, accuracy_at * 2, N)
    return np.where(1 / (1 + np.exp(-size)) > NOISE, size, -size)


def present(patient: Patient) -> set[str]:
    found = diagnose(patient)
    assert [f.present for f in found] == sorted((f.present for f in found), reverse=True)
    assert all(f.evidence and f.remedy for f in found)
    return {f.name for f in found if f.present}


def test_a_healthy_model_has_nothing():
    lengths = [(20, 10) if i % 2 else (10, 20) for i in range(N)]
    healthy = judged(calibrated(), lengths)
    looks, flips = {"prompt": Look(SD, {SWAPPED: 0.8}, 9)}, {"longer": 0.05, "flattering": 0.0}
    assert present(Patient(healthy, healthy, looks, flips, left_rate=0.51, shown=400)) == set()


def test_collapse():
    assert "collapse" in present(Patient(judged(calibrated() / 1000)))


def test_over_fit_needs_the_training_data():
    train, test = judged(np.where(NOISE < 0.97, 4.0, -4.0)), judged(np.where(NOISE < 0.6, 0.5, -0.4))
    assert "over-fit" in present(Patient(test, train))
    assert "over-fit" not in {f.name for f in diagnose(Patient(test))}


def test_under_fit():
    coin = judged(np.where(NOISE < 0.5, 0.3, -0.3))
    assert "under-fit" in present(Patient(coin))


def test_over_confidence():
    assert "over-confidence" in present(Patient(judged(6 * calibrated())))


def test_label_noise_is_seen_where_the_model_is_surest_and_in_contradictions():
    size = np.linspace(0.2, 4.0, N)
    flipped = np.where(NOISE < 0.25, -size, size)  # a good model, a quarter of the labels turned, at random
    assert "label noise" in present(Patient(judged(flipped)))
    assert "label noise" in present(Patient(judged(calibrated()), contradictions=0.1))


@pytest.mark.parametrize("longer_wins", [True, False])
def test_length_bias(longer_wins: bool):
    lengths = [(20, 10) if i % 2 else (10, 20) for i in range(N)]
    margins = [2.0 if ((a > b) == longer_wins) or NOISE[i] < 0.4 else -2.0 for i, (a, b) in enumerate(lengths)]
    found = {f.name: f for f in diagnose(Patient(judged(margins, lengths)))}
    assert found["length bias"].present
    assert (found["length bias"].value > 0) == longer_wins


def test_position_of_the_answers_on_the_screen():
    assert "position" in present(Patient(judged(calibrated()), left_rate=0.65, shown=200))
    assert "position" not in present(Patient(judged(calibrated()), left_rate=0.65, shown=21)), "21 votes say little"


def test_blindness_and_shortcuts_name_what_helps():
    looks = {"prompt": Look(SD, {SWAPPED: 0.01}, 9), "image": Look(SD, {SWAPPED: 0.5, "greyed": 0.01}, 9)}
    patient = Patient(judged(calibrated()), looks=looks, flips={"flattering": 0.4, "longer": 0.1})
    assert present(patient) == {"blind to the prompt", "shortcut: flattering"}
    remedies = {f.name: f.remedy for f in diagnose(patient)}
    assert "only the prompt decides" in remedies["blind to the prompt"]
    assert "flattering variant" in remedies["shortcut: flattering"]


def test_few_pairs_say_nothing():
    assert diagnose(Patient(judged([1.0, -1.0]))) == []
