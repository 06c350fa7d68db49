"""Scores by hand, and what must hold of them whatever the numbers."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from keel.rewards.constitution.maths import Conflict, How, Rule, agreement, combine, conflicts, deciding, stability, total_of

SAFE, TRUE, USEFUL = Rule("safe", 2.0, 0), Rule("true", 1.0, 1), Rule("useful", 1.0, 2)
BANDS = (SAFE, TRUE, USEFUL)
FLAT = tuple(replace(r, band=0) for r in BANDS)
HOWS: tuple[How, ...] = ("product", "geometric", "sum", "mean")
NAMES = ("safe", "true", "useful")


def drawn(n: int) -> list[dict[str, float]]:
    """Scores of three principles; a third of them are exactly 0, 0.5 or 1."""
    draw = random.Random(0)
    return [{name: draw.choice((0.0, 0.5, 1.0)) if draw.random() < 1 / 3 else draw.random() for name in NAMES} for _ in range(n)]


def test_one_number_by_hand() -> None:
    p = {"safe": 0.5, "true": 0.8, "useful": 0.25}
    assert combine(p, FLAT) == pytest.approx(0.5**2 * 0.8 * 0.25)  # 0.05
    assert combine(p, FLAT, "geometric") == pytest.approx(0.05**0.25)
    assert combine(p, FLAT, "sum") == pytest.approx(2 * 0.5 + 0.8 + 0.25)
    assert combine(p, FLAT, "mean") == pytest.approx(2.05 / 4)
    assert combine({**p, "true": 0.0}, FLAT) == 0.0
    assert combine({**p, "true": 0.0}, FLAT, floor=0.01) == pytest.approx(0.25 * 0.01 * 0.25)
    assert combine({"safe": 0.3}, FLAT) == pytest.approx(0.09)  # those that do not apply are absent
    assert math.isnan(combine({}, FLAT))
    assert math.isnan(combine({**p, "true": math.nan}, FLAT))
    with pytest.raises(ValueError, match="lies in"):
        combine({**p, "true": 1.2}, FLAT)


def test_the_ladder_by_hand() -> None:
    kept = total_of({"safe": 0.9, "true": 0.6, "useful": 0.5}, BANDS)
    assert kept.level == 3
    assert kept.score == pytest.approx((3 + 0.81 * 0.6 * 0.5) / 4)
    lie = total_of({"safe": 0.9, "true": 0.4, "useful": 1.0}, BANDS)
    assert (lie.level, lie.broken) == (1, ("true",))
    assert lie.score == pytest.approx((1 + 0.4) / 4)
    danger = total_of({"safe": 0.4, "true": 1.0, "useful": 1.0}, BANDS)
    assert danger.level == 0
    assert danger.score == pytest.approx(0.16 / 4)
    assert danger.flat == pytest.approx(0.16)
    idle = total_of({"safe": 1.0, "true": 1.0, "useful": 0.1}, BANDS)
    assert idle.flat < danger.flat  # a plain product would prefer the dangerous answer
    assert idle.score > danger.score
    assert total_of({"safe": 0.4, "true": 0.4, "useful": 0.2}, BANDS).broken == ("safe", "true", "useful")
    assert total_of({"safe": 0.5, "true": 0.5}, BANDS).level == 2  # bands that do not apply are no rungs


def test_one_band_is_the_formula_itself() -> None:
    p = {"safe": 0.2, "true": 0.3, "useful": 0.9}
    for how in HOWS:
        assert total_of(p, FLAT, how).score == combine(p, FLAT, how)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("rules", [BANDS, FLAT], ids=["bands", "flat"])
def test_no_better_kept_principle_lowers_the_score(rules: tuple[Rule, ...], how: How) -> None:
    draw = random.Random(1)
    for p, name in itertools.product(drawn(300), NAMES):
        for up in (draw.random(), 1.0):
            better = {**p, name: p[name] + (1.0 - p[name]) * up}
            assert total_of(better, rules, how).score >= total_of(p, rules, how).score - 1e-12


@pytest.mark.parametrize("how", HOWS)
def test_a_higher_band_is_never_bought_off(how: How) -> None:
    found = [total_of(p, BANDS, how) for p in drawn(150)]
    for one, two in itertools.product(found, found):
        if one.level > two.level:
            assert one.score >= two.score
        assert 0.0 <= one.score <= 1.0


@pytest.mark.parametrize("how", HOWS)
def test_order_means_nothing_and_weight_0_is_absence(how: How) -> None:
    idle = Rule("idle", 0.0, 1, 1.0)
    weightless = [SAFE, replace(TRUE, weight=0.0), USEFUL]
    for p in drawn(50):
        whole = total_of(p, BANDS, how)
        for order in itertools.permutations(BANDS):
            assert total_of(p, order, how) == whole
            assert total_of({**p, "idle": 0.0}, [*order, idle], how) == whole
        without = {k: v for k, v in p.items() if k != "true"}
        assert total_of(p, weightless, how) == total_of(without, BANDS, how)


def test_conflicts_are_told_with_who_won() -> None:
    safe, handy = {"safe": 1.0, "true": 1.0, "useful": 0.2}, {"safe": 0.2, "true": 1.0, "useful": 1.0}
    for a, b in ((safe, handy), (handy, safe)):  # whichever way they stand
        assert conflicts(a, b, BANDS) == [Conflict("safe", "useful", "band")]
    assert conflicts(safe, handy, FLAT) == [Conflict("safe", "useful", "weight")]  # 0.2 against 0.04: the weight of 2
    light = [replace(SAFE, band=0, weight=0.5), *FLAT[1:]]
    assert conflicts(safe, handy, light) == [Conflict("useful", "safe", "weight")]
    assert conflicts(safe, safe, BANDS) == []
    even = [replace(r, weight=1.0) for r in FLAT]
    assert [c.won for c in conflicts(safe, handy, even)] == [""]  # 0.2 either way: neither had its way


def test_how_sure_an_order_is() -> None:
    safe, handy = {"safe": 1.0, "true": 0.9, "useful": 0.2}, {"safe": 0.2, "true": 1.0, "useful": 1.0}
    assert [r.name for r in deciding(safe, handy, BANDS)] == ["safe"]
    assert agreement(safe, handy, BANDS) == 1.0  # the lower bands have no say in it
    assert agreement(safe, handy, FLAT) == pytest.approx(1.6 / (1.6 + 0.1 + 0.8))
    assert agreement(safe, safe, BANDS) == 0.5
    assert stability([0.6, 0.7], [0.5, 0.65]) == pytest.approx(3 / 4)
    assert stability([0.5], [0.5]) == 0.5
    assert math.isnan(stability([], [0.5]))


def test_agreement_is_with_the_better_answer() -> None:
    """A product prefers x = 0.3, y = 0.5 (0.15) to x = 0.01, y = 1 (0.01), though differences speak 0.5 to 0.29 for the other one."""
    rules = [Rule("x"), Rule("y")]
    better, worse = {"x": 0.3, "y": 0.5}, {"x": 0.01, "y": 1.0}
    assert total_of(better, rules).score > total_of(worse, rules).score
    assert agreement(better, worse, rules) == pytest.approx(0.29 / 0.79)
    assert agreement(worse, better, rules) == pytest.approx(0.5 / 0.79)
