"""`keel ab plan|check|assign` as people use it, on the example data."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from keel.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The example data, where the recipes look for it."""
    runpy.run_path(str(ROOT / "examples" / "ab" / "make_data.py"))["main"](tmp_path / "runs" / "ab")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return tmp_path


def test_plan_then_verdict(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ab", "plan", "recipes/ab/replay.yaml", "--json", "plan.json"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    assert plan["looks"] == [163, 326, 489, 651]
    assert plan["bounds"] == pytest.approx([4.049, 2.863, 2.337, 2.024], abs=6e-4)
    assert "651 prompts" in capsys.readouterr().out
    assert main(["ab", "check", "recipes/ab/replay.yaml", "--json", "out.json", "--html", "out.html"]) == 0
    found = json.loads(Path("out.json").read_text())
    assert found["answer"] == "better"
    assert found["guards"][0]["state"] == "held"
    assert capsys.readouterr().out.splitlines()[1].startswith("BETTER")
    assert Path("out.zh.html").is_file()


def test_online_with_and_without_a_plan(data: Path):
    for name in ("online", "unplanned"):
        assert main(["ab", "check", f"recipes/ab/{name}.yaml", "--json", f"{name}.json"]) == 0
        found = json.loads(Path(f"{name}.json").read_text())
        assert found["answer"] == "better"
        assert found["counts"]["rows"] == 15_008
    assert main(["ab", "plan", "recipes/ab/online.yaml", "plan.pilot=runs/ab/online.jsonl", "plan.deviation=null", "--json", "p.json"]) == 0
    assert json.loads(Path("p.json").read_text())["deviation"] == pytest.approx(2 * 0.37, abs=0.05)  # of users' means, both arms


def test_rows_of_an_evaluation(data: Path):
    """What keel eval leaves is read as it is."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": "?",
            "before": [{"text": "a", "gold": 0.1, "tokens": 5}],
            "after": [{"text": "b", "gold": (i % 5) / 5}],
        }
        for i in range(60)
    ]
    Path("evaluation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["ab", "check", "evaluation.jsonl", "scorer=gold", "--json", "out.json"]) == 0
    found = json.loads(Path("out.json").read_text())
    assert (found["answer"], found["effect"]["effect"]) == ("better", pytest.approx(0.3))
    assert main(["ab", "check", "evaluation.jsonl", "scorer=form"]) == 2


def test_assignment_is_the_same_for_ever(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ab", "assign", "recipes/ab/online.yaml", "user-0", "user-1", "user-2", "user-3"]) == 0
    rows = [json.loads(line) for line in Path("runs/ab/online.jsonl").read_text().splitlines()]
    arms = {row["user"]: row["arm"] for row in rows}
    assert capsys.readouterr().out.split() == [word for k in range(4) for word in (f"user-{k}", arms[f"user-{k}"])]


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "runs/ab/replay.jsonl"],
        ["check", "recipes/ab/replay.yaml", "data=gone.jsonl"],
        ["check", "recipes/ab/replay.yaml", "plna={}"],
        ["check", "runs/ab/replay.jsonl"],
        ["check", "recipes/ab/replay.yaml", "more"],
        ["plan", "recipes/ab/replay.yaml", "--html", "x.html"],
        ["assign", "recipes/ab/online.yaml"],
    ],
)
def test_mistakes_end_with_two(data: Path, words: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["ab", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")
