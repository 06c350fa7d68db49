"""Three answers, from rows: what decides, what waits, what is refused."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keel.core.config import checked
from keel.core.errors import DataError
from keel.evaluate.ab.config import AbConfig
from keel.evaluate.ab.decide import Result, check
from keel.evaluate.ab.page import lines, write_verdict
from keel.evaluate.ab.units import Unit, Units, gather, read_units
from keel.evaluate.page_kit import LANGUAGES


def config(**values: Any) -> AbConfig:
    return checked(AbConfig, values)


def verdicts(n: int, win: float, tie: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        u = rng.random()
        verdict = "tie" if u < tie else "treatment" if u < tie + (1 - tie) * win else "control"
        rows.append({"prompt_id": f"p{i}", "verdict": verdict, "length": {"control": 100, "treatment": 100 + rng.gauss(2, 5)}})
    return rows


def log(n: int, now: float, new: float, share: float = 0.5, seed: int = 0, each: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        treated = rng.random() < share
        for _ in range(each):
            row = {"user": f"u{i}", "arm": "treatment" if treated else "control", "outcome": rng.random() < (new if treated else now)}
            rows.append(row | {"seconds": rng.gauss(2, 0.5)})
    return rows


def said(rows: list[dict[str, Any]], settings: AbConfig) -> Result:
    return check(gather([(f"row {i}", r) for i, r in enumerate(rows)], settings), settings)


PLAN = {"min_effect": 0.05, "looks": 4}


def test_a_plan_stops_at_the_look_that_decides_and_uses_no_more():
    found = said(verdicts(2_000, 0.62), config(plan=PLAN))
    assert (found.answer, found.reason) == ("better", "shown")
    assert found.design is not None
    assert found.decided_at in found.design.looks[:-1]
    again = said(verdicts(2_000, 0.62)[: found.decided_at], config(plan=PLAN))
    assert (again.answer, again.effect) == (found.answer, found.effect)  # what comes later changes nothing
    assert found.effect is not None
    assert 0 < found.effect.low < found.effect.effect


def test_a_plan_waits_for_its_looks():
    found = said(verdicts(100, 0.9), config(plan=PLAN))
    assert (found.answer, found.reason, found.more) == ("cannot_tell", "before_first_look", 101)
    found = said(verdicts(300, 0.52), config(plan=PLAN))
    assert (found.answer, found.reason, found.more) == ("cannot_tell", "between_looks", 102)


def test_no_difference_and_a_worse_one_are_not_better():
    assert said(verdicts(900, 0.5), config(plan=PLAN)).answer == "not_better"
    worse = said(verdicts(900, 0.35), config(plan=PLAN))
    assert (worse.answer, worse.reason) == ("not_better", "worse")
    assert said(verdicts(900, 0.35), config(plan=PLAN, better="lower")).answer == "better"  # of something bad


def test_guards_decide_too():
    rows = verdicts(900, 0.65)
    held = said(rows, config(plan=PLAN, guards=[{"name": "length", "margin": 5}]))
    assert (held.answer, held.guards[0].state) == ("better", "held")
    broken = said(rows, config(plan=PLAN, guards=[{"name": "length", "margin": 0.5}]))
    assert (broken.answer, broken.reason) == ("not_better", "guard_broken")
    openly = said(rows, config(plan=PLAN, guards=[{"name": "length", "margin": 2.0}]))
    assert (openly.answer, openly.guards[0].state) == ("cannot_tell", "open")


def test_without_a_plan_every_look_is_allowed():
    found = said(verdicts(900, 0.62), config())
    assert (found.answer, found.method) == ("better", "betting")
    assert found.decided_at is not None
    assert found.decided_at < 900
    early = said(verdicts(3, 1.0), config())
    assert early.answer == "cannot_tell"
    assert early.more is not None
    flat = said(verdicts(4_000, 0.5, tie=0.9), config(always_valid={"min_effect": 0.1}))
    assert (flat.answer, flat.reason) == ("not_better", "too_small")


def test_the_mixture_waits_for_its_burn_in():
    settings = config(always_valid={"method": "mixture"})
    found = said(verdicts(60, 0.95), settings)
    assert (found.answer, found.reason, found.more) == ("cannot_tell", "before_burn_in", 40)
    assert said(verdicts(600, 0.7), settings).answer == "better"


def test_users_in_two_arms():
    found = said(log(6_000, 0.5, 0.58), config())
    assert found.answer == "better"
    assert found.effect is not None
    assert found.effect.low < 0.08 < found.effect.high
    settings = config(plan=PLAN, guards=[{"name": "seconds", "margin": 0.2}])
    found = said(log(4_000, 0.5, 0.6, each=3), settings)
    assert (found.answer, found.n) == ("better", 4_000)  # users, not outcomes


def test_a_settled_user_does_not_change():
    """Without a plan a user's first outcome counts; later ones are counted, and change nothing."""
    rows = log(400, 0.5, 0.6)
    later = [{**row, "outcome": 1.0, "arm": row["arm"]} for row in rows if row["arm"] == "treatment"]
    found, grown = said(rows, config()), said([*rows, *later], config())
    assert found.effect == grown.effect
    assert grown.counts["later_outcomes"] == len(later)
    assert said(rows, config(settle=2)).counts["waiting"] == 400


def test_uneven_arms_stop_everything():
    found = said(log(3_000, 0.3, 0.6, share=0.6), config())
    assert (found.answer, found.reason, found.more) == ("cannot_tell", "uneven", None)
    assert said(log(3_000, 0.3, 0.6, share=0.6), config(share=0.6)).answer == "better"


def test_users_in_both_arms_are_left_out_and_counted():
    rows = log(300, 0.5, 0.5)
    rows.append({**rows[0], "arm": "treatment" if rows[0]["arm"] == "control" else "control"})
    found = said(rows, config())
    assert (found.n, found.counts["in_both_arms"]) == (299, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt_id": "p", "verdict": "maybe"}, "verdict is 'maybe'"),
        ({"verdict": "tie"}, "no prompt_id"),
        ({"user": "u", "arm": "third", "outcome": 1}, "arm is 'third'"),
        ({"user": "u", "arm": "control", "outcome": 7}, "outcome is 7"),
        ({"user": "u", "arm": "control", "outcome": math.nan}, "outcome is nan"),
        ({"arm": "control", "outcome": 1}, "no user"),
    ],
)
def test_rows_that_say_nothing_are_refused_by_their_line(tmp_path: Path, row: dict[str, Any], message: str):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"rows.jsonl:2: .*{message}"):
        read_units(file, config())


def test_an_id_that_stands_for_two_prompts_is_refused_by_both_lines(tmp_path: Path):
    """Verdicts of one prompt count as one: two prompts under one id would be taken for it."""
    file = tmp_path / "rows.jsonl"
    rows = [
        {"prompt_id": p, "verdict": "tie", **more} for p, more in (("p", {"prompt": "a"}), ("q", {}), ("p", {}), ("p", {"prompt": "a"}))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_units(file, config()).units) == 2
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "prompt": "b"}]))
    with pytest.raises(DataError, match=r"rows.jsonl:5: prompt_id 'p' stands for another prompt at .*rows.jsonl:1"):
        read_units(file, config())


def test_what_cannot_go_together_is_refused():
    for values in (
        {"control": "a", "treatment": "a"},
        {"always_valid": {"burn_in": 20}},
        {"plan": {"min_effect": 0.1, "looks": 0}},
        {"plan": {"min_effect": 0.1}, "always_valid": {"method": "mixture"}},
        {"guards": [{"name": "x", "margin": 0}]},
        {"paln": {}},
    ):
        with pytest.raises(ValueError):
            config(**values)


def test_the_page_says_the_verdict_in_both_languages(tmp_path: Path):
    """Every reason has a text; what comes from outside is escaped."""
    settings = config(plan=PLAN, treatment="<b>new</b>", guards=[{"name": "length", "margin": 5}])
    rows = [{**r, "verdict": r["verdict"].replace("treatment", "<b>new</b>")} for r in verdicts(900, 0.65)]
    rows = [{**r, "length": {"control": 1, "<b>new</b>": 1}} for r in rows]
    found = said(rows, settings)
    page = write_verdict(tmp_path / "verdict.html", found, settings, False)
    texts = {"en": page.read_text(encoding="utf-8"), "zh": (tmp_path / "verdict.zh.html").read_text(encoding="utf-8")}
    for language, word in zip(LANGUAGES, ("Better", "更好"), strict=True):
        assert word in texts[language]
        assert "<b>new</b>" not in texts[language]
    assert next(iter(lines(found, settings, False))).startswith("BETTER")


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["obrien_fleming", "pocock", "lan_demets_obrien_fleming", "lan_demets_pocock"])
def test_power_and_error_are_those_of_the_theory(boundary: str):
    """2,000 tests of coins: power 80 +- 3%, wrong claims at most 2.5% on each side; units as few as were told."""
    rng = np.random.default_rng(21)
    settings = config(plan={"min_effect": 0.08, "looks": [0.3, 0.6, 1], "boundary": boundary})
    for win, low, high in ((0.58, 0.77, 0.83), (0.5, 0.0, 0.033)):
        better, used = 0, 0.0
        for _ in range(2_000):
            units = [Unit(str(i), None, [float(w)]) for i, w in enumerate(rng.random(420) < win)]
            found = check(Units(tuple(units), False, len(units)), settings)
            better += found.answer == "better"
            used += found.decided_at or 0
        assert low <= better / 2_000 <= high
    assert found.design is not None
    assert used / 2_000 <= 1.01 * found.design.expected_null
