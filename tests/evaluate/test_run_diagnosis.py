"""Made-up runs, each with one disease: it is named, and its cause comes first."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keel.evaluate.report import render
from keel.evaluate.report_data import ReportData, StageData
from keel.evaluate.run_diagnosis import SYMPTOMS, Seen, diagnose
from keel.runs.columns import Columns

N = 100
NOISE = np.sin(np.arange(N) * 7.3) * 0.05  # no chance in it, and no trend
RISE = np.linspace(0.0, 1.0, N) + NOISE
EVEN = np.full(N, 1.0)
HEALTHY: dict[str, Any] = {
    "reward": RISE,
    "kl": np.linspace(0.001, 0.1, N),
    "entropy": np.linspace(2.0, 1.5, N),
    "grad_norm": EVEN + NOISE,
    "completions/mean_length": 50 + 10 * NOISE,
    "frac_reward_zero_std": 0.1 * EVEN,
    "completions/failed_ratio": 0 * EVEN,
    "clip_ratio/region_mean": 0.05 * EVEN,
}


def run(held_out: tuple[float, float] = (0.2, 0.8), **metrics: Any) -> Columns:
    """A healthy run with some metrics replaced; evaluations every 20 steps, from the one number to the other."""
    of = {**HEALTHY, **{name.replace("__", "/"): values for name, values in metrics.items()}}
    rows: list[dict[str, Any]] = [{"step": i + 1, **{name: float(values[i]) for name, values in of.items()}} for i in range(N)]
    for i in range(19, N, 20):
        rows[i]["eval/reward"] = held_out[0] + (held_out[1] - held_out[0]) * (i - 19) / 80
    return Columns.of_rows(rows)


def put(values: Any, at: int, value: float) -> Any:
    changed = np.array(values, dtype=float)
    changed[at] = value
    return changed


def test_a_healthy_run_has_nothing() -> None:
    assert diagnose(run()) == []
    assert diagnose(Columns()) == []
    assert diagnose(Columns.of_rows([{"step": 1, "reward": 1.0}])) == []


FALLS = np.where(np.arange(N) < 60, RISE, RISE - 0.7)
CASES = [
    ("reward up, held-out down", "length", run((0.8, 0.2), completions__mean_length=np.linspace(50, 200, N))),
    ("reward up, held-out down", "length collapse", run((0.8, 0.2), completions__mean_length=np.linspace(50, 3, N))),
    ("reward up, held-out down", "entropy", run((0.8, 0.2), entropy=np.linspace(2.0, 0.05, N))),
    ("reward up, held-out down", "one part of the reward", run((0.8, 0.2), rewards__a__mean=RISE, rewards__b__mean=NOISE)),
    ("reward up, held-out down", "a template", run((0.8, 0.2), completions__refrain_ratio=np.linspace(0.0, 0.9, N))),
    ("reward up, held-out down", "KL too cheap", run((0.8, 0.2), kl=np.linspace(0.1, 4.0, N))),
    ("sudden drop", "a gradient", run(reward=FALLS, grad_norm=put(HEALTHY["grad_norm"], 59, 80.0))),
    ("sudden drop", "rewards failed", run(reward=FALLS, completions__failed_ratio=put(0 * EVEN, 60, 0.9))),
    ("oscillation", "steps too large", run(reward=RISE + np.sin(np.arange(N) / 4) * 0.5, clip_ratio__region_mean=0.5 * EVEN)),
    ("stagnation", "no signal", run(reward=0.3 + NOISE, frac_reward_zero_std=0.9 * EVEN)),
    ("stagnation", "steps too small", run(reward=0.3 + NOISE, kl=1e-6 * EVEN)),
    ("KL explosion", "a gradient", run(kl=np.where(np.arange(N) < 80, 0.05, 9.0), grad_norm=put(HEALTHY["grad_norm"], 79, 500.0))),
    (
        "entropy falls, and nothing is left to learn",
        "entropy",
        run(
            reward=np.minimum(1.0, np.linspace(0.2, 2.0, N)),
            reward_max=EVEN,
            reward_min=0 * EVEN,
            frac_reward_zero_std=np.linspace(0.0, 1.0, N),
            entropy=2.0 * np.where(np.arange(N) < 60, 1.0, 0.95 ** (np.arange(N) - 60.0)),
        ),
    ),
    ("not finite", "a gradient", run(loss=put(EVEN, 50, math.nan), grad_norm=put(HEALTHY["grad_norm"], 49, 1e6))),
]


@pytest.mark.parametrize(("symptom", "cause", "sick"), CASES, ids=[f"{s}: {c}" for s, c, _ in CASES])
def test_a_disease_is_named_and_its_cause_comes_first(symptom: str, cause: str, sick: Columns) -> None:
    found = {s.name: s for s in diagnose(sick)}
    assert symptom in found
    first = found[symptom].causes[0]
    assert first.name == cause
    assert first.present
    assert first.strength >= 1


def test_every_page_is_there() -> None:
    """Each cause points to a section that exists."""
    root = Path(__file__).parents[2]
    sick = run(loss=put(EVEN, 50, math.nan))
    for _, causes in SYMPTOMS.values():
        for rule in causes:
            file, _, anchor = rule(Seen(sick)).page.partition("#")
            titles = re.findall(r"^#+ (.*)$", (root / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in titles}, (file, anchor)


def test_the_report_of_a_sick_run_says_so() -> None:
    sick = run((0.8, 0.2), completions__mean_length=np.linspace(50, 200, N))
    stage = StageData("rl", "", sick, manifest={"verb": "rl"})
    html = render(ReportData("sick", {}, {}, (stage,)))
    assert "<b>reward up, held-out down</b>" in html
    assert "1. length: answers are 3.4 times as long as at first" in html, "193.2 tokens over 56.8"
    well = render(ReportData("well", {}, {}, (StageData("rl", "", run(), manifest={"verb": "rl"}),)))
    assert "held-out down" not in well
