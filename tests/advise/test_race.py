"""Races on tiny models, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from advice_rows import answer, pair, question

from keel.advise.learned import recall, with_experience
from keel.advise.measure import measure
from keel.advise.race import entrants, interval
from keel.advise.race_score import pairs_right, wanted_over_unwanted
from keel.advise.rank import Ranked, Reason, ranked
from keel.advise.ways import BY_NAME
from keel.core.errors import UserError
from keel.data.dataset import read
from keel.types import Branch, Edge, Encoded, PairTarget, Unit, UnpairedTarget

pytestmark = pytest.mark.stages

Advise = Callable[..., dict[str, Any]]
SHORT = ("race.batch_size=4", "race.lr_factor=1000", "model_options.precision=fp32")


def entry(name: str, points: float, fits: bool | None = True) -> Ranked:
    return Ranked(BY_NAME[name], (Reason(points, "because", "a source"),), None, fits, None)


def test_a_race_of_preferences(advise: Advise, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [pair(i) for i in range(24)]
    found = advise(rows, "--race", "race.steps=2", "race.ways=3", *SHORT)
    race = found["race"]
    assert [len(r) for r in race["rounds"]] == [3, 2]
    assert [r[0]["steps"] for r in race["rounds"]] == [2, 4]
    assert {r["name"] for r in race["rounds"][0]} == {"ipo", "dpo", "simpo"}
    assert race["held_out_prompts"] == 5
    for entrant in race["ways"]:
        assert 0 <= entrant["low"] <= entrant["mean"] <= entrant["high"] <= 1
    survivor = tmp_path / race["folder"] / race["rounds"][1][0]["name"]
    assert json.loads((survivor / "summary.json").read_text())["steps"] == 4, "the second round went on from the first"
    train, held_out = (
        {json.loads(line)["prompt_id"] for line in (tmp_path / race["folder"] / f"{side}.jsonl").read_text().splitlines()}
        for side in ("train", "held_out")
    )
    assert not train & held_out
    assert "race: held-out preference accuracy on 5 prompts" in capsys.readouterr().out
    again = advise(rows)
    assert again["race"] is None
    assert again["learned"][0]["winner"] == race["winner"]
    won = next(w for w in again["ranking"] if w["name"] == race["winner"])
    assert "it won a race on these data" in won["reasons"][-1]["why"]
    assert f"earlier race: {race['winner']} won" in capsys.readouterr().out


def test_a_race_of_single_answers(advise: Advise) -> None:
    rows = [{"prompt": question(i), "completion": "Yes." if i % 2 else answer(i, 4), "label": bool(i % 2)} for i in range(24)]
    race = advise(rows, "--race", "race.steps=3", "race.ways=2", *SHORT)["race"]
    assert {r["name"] for r in race["ways"]} == {"kto", "bco"}
    assert race["ways"][0]["mean"] > 0.6, "the same answer to every prompt is soon preferred"


def test_a_race_with_a_verifier(advise: Advise) -> None:
    rows = [{"prompt": question(i), "ground_truth": str(i % 3)} for i in range(10)]
    race = advise(rows, "--race", "race.steps=1", "race.samples=2", "race.max_tokens=4", *SHORT)["race"]
    assert {r["name"] for r in race["ways"]} == {"grpo_verifier", "rloo_verifier"}
    assert race["measure"] == "held-out reward"
    assert race["held_out_prompts"] == 2


def test_entrants_are_of_one_family_and_fit() -> None:
    some = [
        entry("ppo", 9),
        entry("dpo", 5),
        entry("ipo", 4, fits=False),
        entry("grpo_verifier", 3),
        entry("best_of_n", 2),
        entry("sft", 1),
    ]
    assert [w.name for w in entrants(some, 3)] == ["dpo", "best_of_n", "sft"]
    assert [w.name for w in entrants(some, 2)] == ["dpo", "best_of_n"]
    with pytest.raises(UserError, match="two ways"):
        entrants([entry("sft", 1)], 4)


def test_what_does_not_fit_comes_last() -> None:
    assert [r.way.name for r in ranked([entry("dpo", 9, False), entry("ipo", 1), entry("sft", 2, None)])] == ["sft", "ipo", "dpo"]


def unit(target: Any, n: int) -> Unit:
    branch = Branch(torch.tensor([1]), torch.tensor([True]))
    return Unit("u", Encoded(torch.tensor([1])), (branch,) * n, target)


def test_scores_of_pairs() -> None:
    units = [unit(PairTarget((Edge(0, 1), Edge(1, 2), Edge(0, 2, label=0.5))), 3), unit(PairTarget((Edge(0, 1, label=0.2),)), 2)]
    assert pairs_right(units, [[2.0, 1.0, 1.0], [0.0, 3.0]]) == {"0": [1.0, 0.5], "1": [1.0]}


def test_scores_of_single_answers_are_the_area_under_the_curve() -> None:
    units = [unit(UnpairedTarget((good,)), 1) for good in (True, True, False, False)]
    found = wanted_over_unwanted(units, [3.0, 1.0, 2.0, 1.0])
    assert sorted(v for row in found.values() for v in row) == [0.25, 1.0]
    assert interval(found).mean == pytest.approx(0.625)


def test_experience(write: Callable[..., str], tmp_path: Path) -> None:
    m = measure(read(write([pair(i) for i in range(4)])))
    ways = [{"name": "dpo", "mean": 0.8, "low": 0.7, "high": 0.9}]
    row = {"data": "d", "model": "t", "at": "then", "winner": "dpo", "clear": True, "measure": "accuracy", "ways": ways}
    entries = [
        {**row, "fingerprint": "other", "kinds": ["pair"]},
        {**row, "fingerprint": "other", "kinds": ["rating"]},
        {**row, "fingerprint": m.fingerprint, "kinds": ["pair"], "clear": False},
    ]
    ranking = [entry("ipo", 5), entry("dpo", 4)]
    points = []
    for n in (1, 2, 3):
        (tmp_path / "learned.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries[:n]))
        found = with_experience(ranking, recall(tmp_path, m), m)
        assert found[0].score == 5
        points.append(found[1].score - 4)
    assert points == [0.75, 0.75, 1.5], "alike data; ratings are not alike; the same data, whose winner was not clear"
    assert with_experience(ranking, [], m) == ranking
