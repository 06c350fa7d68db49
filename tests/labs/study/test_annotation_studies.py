"""The studies of annotation on few people and few worlds, with fixed seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from keel.cli import main
from keel.core.errors import DataError
from keel.simulate.crowds import crowd
from labs.study import annotators, crowds, labelling


def test_planted_faults_are_found_and_honest_people_left_alone() -> None:
    found = annotators.study(annotators.Plan(honest=1000, faulty=100, others=(4,), spreads=(0.3, 0.4)))
    false = [r["false"]["rate"] for r in found["rows"] if "false" in r]
    share = {r["fault"]: r["found"] for r in found["rows"] if "fault" in r}
    assert max(false) <= 0.015  # at most 0.01 are expected
    for fault, within_60, within_100 in FOUND:
        assert share[fault]["60"]["rate"] >= within_60, fault
        assert share[fault]["100"]["rate"] >= within_100, fault
    agree = [r["agreement"] for r in found["rows"] if "false" in r]
    assert all(0.5 < a < 0.57 for a in agree)
    assert annotators.table(found).count("\n") == 12


FOUND = (
    ("always left", 0.98, 0.98),
    ("fast", 0.98, 0.98),
    ("sold, fast", 0.95, 0.95),
    ("random", 0.7, 0.92),
    ("sold", 0.55, 0.88),
    ("drifting", 0.32, 0.77),
)


def test_more_votes_of_others_show_more() -> None:
    plan = annotators.Plan(honest=1, faulty=150, votes=60, spreads=(0.4,), others=(1, 8))
    rows = [r for r in annotators.study(plan)["rows"] if r.get("fault") == "random"]
    assert rows[1]["found"]["60"]["rate"] > rows[0]["found"]["60"]["rate"] + 0.1


def test_choosing_saves_labels_in_the_simulation() -> None:
    found = labelling.study(labelling.Plan(worlds=8, sharpness=(10.0,)))
    (row,) = found["rows"]
    assert row["saved"]["better"]
    assert row["saved"]["share"] > 0.3
    assert row["chosen"][0] == row["random"][0]  # both arms start from the same labels


def test_newton_ends_where_the_gradient_is_zero() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 2, 60)
    w = labelling.fit(x, y, ridge=0.7)
    assert x.T @ (1 / (1 + np.exp(-x @ w)) - y) + 0.7 * w == pytest.approx(np.zeros(4), abs=1e-8)


def test_crowds_reads_folders_and_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    votes, truth = crowd(1)
    folder = tmp_path / "sets" / "mine"
    folder.mkdir(parents=True)
    rows = zip(votes.task_V, votes.annotator_V, votes.label_V)
    (folder / "label.csv").write_text("item,worker,label\n" + "".join(f"{t + 5},{a},{k * 2}\n" for t, a, k in rows))
    (folder / "truth.csv").write_text("item,truth\n" + "".join(f"{t + 5},{k * 2}\n" for t, k in enumerate(truth)))
    assert main(["study", "crowds", "--data", str(tmp_path / "sets"), "--json", str(tmp_path / "out.json")]) == 0
    assert "| mine | 1000 | 20 | 3 |" in capsys.readouterr().out
    scores = json.loads((tmp_path / "out.json").read_text())["rows"][0]["scores"]
    assert scores["dawid_skene"]["accuracy"] == pytest.approx(0.855, abs=0.02)  # on the splits' rests
    with pytest.raises(DataError, match="no folder"):
        crowds.crowds(tmp_path / "out.json")


@pytest.mark.parametrize("arguments", [["annotators", "--honest", "0"], ["labelling", "--worlds", "2"]])
def test_studies_that_cannot_be_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", *arguments]) == 2
    assert "at least" in capsys.readouterr().err
