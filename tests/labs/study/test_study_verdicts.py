"""What the studies conclude: from curves that are written by hand."""

from __future__ import annotations

import pytest

from labs.study.frontier import ALGORITHMS, Run, settings, strengths
from labs.study.frontier import Plan as FrontierPlan
from labs.study.frontier import report as frontier_report
from labs.study.overoptimisation import PROXIES, SINGLE, Plan, report, sizes
from labs.study.report import markdown
from labs.study.verdicts import Curve, ensembles_help, shape_of
from labs.study.world import Point


def curve(name: str, *golds: list[float], method: str = "rl", proxies: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)) -> Curve:
    seeds = tuple(tuple(Point(4.0 * i, gold, proxies[i]) for i, gold in enumerate(of)) for of in golds)
    return Curve(method, name, (0, 1, 2, 3), seeds)


FALLING = curve("medium", [0.0, 1.0, 0.5, -1.0], [0.0, 1.2, 0.4, -1.1], [0.1, 1.1, 0.6, -0.9])
RISING = curve("mean", [0.0, 1.0, 1.2, 1.3], [0.0, 1.1, 1.3, 1.5], [0.1, 1.0, 1.2, 1.4])


def test_rise_and_fall_are_found_with_the_peak() -> None:
    found = FALLING.to_json()
    assert found["peak"] == {"at": 1, "kl": 4.0, "sqrt_kl": 2.0, "gold": pytest.approx(1.1), "inside": True}
    assert found["fall"]["mean"] == pytest.approx((2.0 + 2.3 + 2.0) / 3)
    assert found["rise"]["mean"] == pytest.approx((1.0 + 1.2 + 1.0) / 3)
    assert found["verdict"]["found"]
    assert found["points"][3]["gold"] == pytest.approx(-1.0)
    assert found["points"][3]["gold_se"] == pytest.approx(0.1 / 3**0.5)
    assert found["points"][3]["sqrt_kl"] == pytest.approx(12**0.5)


def test_what_rises_to_the_end_was_not_overoptimised() -> None:
    verdict = RISING.verdict()
    assert not verdict["found"]
    assert "gold falls from its peak to the end: no" in verdict["reasons"][1]
    together = shape_of([FALLING, RISING], "rl")
    assert together["reasons"][0] == "mean over medium, mean"
    assert together["reasons"][-1] == "each by itself: medium"
    assert "falls from its peak to the end: yes, by 1.05" in together["reasons"][2]  # (2.0 + 2.3 + 2.0) / 3, and nothing, halved
    assert shape_of([FALLING, RISING], "rl", ["medium"])["found"]
    assert not shape_of([RISING], "rl")["found"]
    assert not shape_of([FALLING], "dpo")["found"]


def test_a_fall_with_the_proxy_is_no_overoptimisation() -> None:
    golds = [[p.gold for p in points] for points in FALLING.seeds]
    assert not curve("medium", *golds, proxies=(0.0, 2.0, 1.0, 0.5)).verdict()["found"]


def test_one_seed_and_noise_prove_nothing() -> None:
    assert not curve("medium", [0.0, 1.0, 0.5, -1.0]).verdict()["found"]
    noisy = curve("medium", [0.0, 1.0, 0.5, -1.0], [0.0, 1.0, 1.1, 1.2], [0.0, 1.0, 0.9, 0.8])
    assert not noisy.verdict()["found"]


def test_ensembles_are_compared_with_their_member_seed_by_seed() -> None:
    found = ensembles_help([FALLING, RISING], "medium", ["mean"])
    (compared,) = found["compared"]
    assert found["found"]
    assert compared["later_peak_kl"]["mean"] == pytest.approx(8.0)  # from the stop at 4 to the last at 12
    assert compared["less_fall"]["mean"] == pytest.approx(6.3 / 3)
    assert compared["gold_at_largest_shared_kl"]["mean"] == pytest.approx((2.3 + 2.6 + 2.3) / 3)
    assert compared["higher_peak"]["mean"] == pytest.approx((0.3 + 0.3 + 0.3) / 3)
    reverse = ensembles_help([FALLING, RISING], "mean", ["medium"])
    assert not reverse["found"]
    assert reverse["reasons"][0].startswith("rl: no: later peak KL -8.00")


def test_the_report_says_what_is_missing() -> None:
    names = [*PROXIES]
    golds = [[p.gold for p in points] for points in FALLING.seeds]
    curves = [curve(name, *golds, method=method) for method in ("best_of_n", "rl") for name in names]
    found = report(curves, Plan())
    assert found["verdict"] == {"found": False, "reasons": ["not found: dpo, ensembles"]}
    better = [curve(c.name, *[[p.gold for p in s] for s in RISING.seeds]) if c.name != SINGLE and c.method == "rl" else c for c in curves]
    found = report([*better, curve("beta 0.1", *golds, method="dpo")], Plan())
    assert found["verdict"]["found"], found["verdicts"]
    assert "| RL | medium | 4.0 | 1.10 | -1.00 | 12.0 |" in markdown(found)
    assert sizes(100) == (1, 2, 4, 8, 16, 32, 64)


def test_the_frontier_is_summed_up_over_seeds() -> None:
    def seed(*golds: float) -> tuple[Point, ...]:
        return tuple(Point(2.0 * i, gold, gold) for i, gold in enumerate(golds))

    runs = [Run("rloo", 0.1, (seed(0, 1, 2), seed(0, 2, 3))), Run("rloo", 0.5, (seed(0, 1.5, 1), seed(0, 0.5, 0)))]
    found = frontier_report(runs, FrontierPlan(kls=(2.0, 4.0)))
    assert [r["pareto"] for r in found["runs"]] == [True, False]  # the ends: (4, 2.5) and (4, 0.5)
    (summary,) = found["algorithms"]
    assert summary["gold_at_kl"]["2"]["mean"] == pytest.approx((1.5 + 2.0) / 2)
    assert summary["gold_at_kl"]["4"]["mean"] == pytest.approx((2.0 + 3.0) / 2)
    assert summary["mean_gold"]["mean"] == pytest.approx((2 * 0 + 2 * 1.5 + 2 * 0 + 2 * 2) / 2 / 4)
    assert "| rloo | 0.1 | 4.0 ± 0.0 | 2.50 ± 0.50 | 2.50 ± 0.50 | yes |" in markdown(found)


def test_strengths_are_settings_of_the_algorithms() -> None:
    assert settings("grpo", 0.1) == {"name": "grpo", "kl": {"coef": 0.1}}
    assert settings("simpo", 2.0) == {"name": "simpo", "beta": 2.0}
    assert all(len(strengths(name)) >= 3 for name in ALGORITHMS)
