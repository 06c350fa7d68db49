"""`keel improve` on tiny models: two rounds stopped after every file that they write take the same course; the gate keeps the last good
round; people as the measure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError, DataError, RunError
from keel.evaluate.statistics import Interval
from keel.feedback.db import Store
from keel.runs.logs import read as read_rows
from keel.verbs.improve import course, judging, measuring, rounds, run
from keel.verbs.improve.recipe import ImproveRecipe
from keel.verbs.improve.run import run_improve

pytestmark = pytest.mark.stages

TINY = (
    "model=tiny:llama?seed=1",
    "model_options.precision=fp32",
    "data={path: recipes/tiny/letters.jsonl, limit: 40}",
    "judge={judges: recipes/tiny/judges.yaml, judge: honest, override: honest}",
    "rounds=2",
    "patience=0",
    "gate=false",
    "samples=3",
    "sampling.max_tokens=8",
    "select.cut=true",
    "difficulty={prompts: 12, above: 0}",
    "train={by: sft, optim: {lr: 1e-3}, loop: {steps: 4, batch_size: 4, probes: 0}}",
    "held_out={prompts: 0.3, sampling: {samples: 2}, draws: 500}",
    "held_out.rewards=[{type: python, name: useful, function: 'recipes/tiny/useful.py:useful'}]",
    "settings={threads: 1, checkpoint: {every: 1, keep: 1}}",
)


@pytest.fixture(autouse=True)
def in_the_repository(root: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def recipe(*more: str) -> ImproveRecipe:
    return load(ImproveRecipe, None, [*TINY, *more])


def done(path: Path) -> dict[str, Any]:
    """What must not hang on how often a run was stopped: rounds, lessons, weights, metrics without times."""
    files = [f for pattern in ("round.json", "answers.jsonl", "judged.jsonl", "train.jsonl", "held_out.jsonl") for f in path.rglob(pattern)]
    weights = path / "final" / "model.safetensors"
    metrics = [{k: v for k, v in row.items() if k.startswith(("improve/", "step"))} for row in read_rows(path / "metrics.jsonl")]
    events = {r["judgement"]["event_id"] for f in path.rglob("*judgements.jsonl") for r in read_rows(f) if "judgement" in r}
    texts = {str(f.relative_to(path)): f.read_bytes() for f in sorted(files)}
    return {"texts": texts, "weights": weights.read_bytes(), "metrics": metrics, "events": events}


class Stopped(BaseException):
    """As a kill: nothing catches it."""


def stopping(whole: Callable[..., Any], place: int, stopped: set[str]) -> Callable[..., Any]:
    """The function, which stops the process when it has done its work on a path (its argument at ``place``) for the first time: of the
    start, of round 2, and of the end."""

    def then_stop(*args: Any, **kwargs: Any) -> Any:
        found = whole(*args, **kwargs)
        path = str(args[place])
        if "/01/" not in path and path not in stopped:
            stopped.add(path)
            raise Stopped
        return found

    return then_stop


@pytest.mark.slow
def test_a_run_that_is_stopped_after_each_of_its_files_takes_the_same_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_improve(recipe(f"store=sqlite:///{tmp_path / 'whole.db'}"), tmp_path / "whole")
    assert whole["rounds"] == 2
    assert whole["kept"] == 2  # without a gate the last
    stopped: set[str] = set()
    for module, name, place in (
        (course, "write_atomic", 0),
        (judging, "write_atomic", 0),
        (rounds, "run_parts", 3),
        (run, "publish_folder", 0),
    ):
        monkeypatch.setattr(module, name, stopping(getattr(module, name), place, stopped))
    given = recipe(f"store=sqlite:///{tmp_path / 'parts.db'}")
    for _ in range(30):
        try:
            found = run_improve(given, tmp_path / "parts")
            break
        except Stopped:
            continue
    else:
        raise AssertionError("it never came to its end")
    assert len(stopped) == 13  # three files of the start, eight and a training of round 2, the end
    assert found["improvement"] == whole["improvement"]
    parts, one = done(tmp_path / "parts"), done(tmp_path / "whole")
    assert parts["texts"].keys() == one["texts"].keys()
    for name in one:
        assert parts[name] == one[name], name
    assert [row["step"] for row in one["metrics"]] == [0, 1, 2]
    with Store(f"sqlite:///{tmp_path / 'parts.db'}") as store:
        assert {j.event_id for j in store.judgements("self-improvement")} == one["events"]  # each once, none lost


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_training_leaves_no_trace(root: Path, tmp_path: Path) -> None:
    run_improve(recipe(), tmp_path / "whole")
    recipe_file = tmp_path / "improve.yaml"
    recipe_file.write_text("{}\n", encoding="utf-8")
    command = [sys.executable, "-m", "keel.cli", "improve", str(recipe_file), *TINY, f"run_dir={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    for place in ("rounds/01/train/checkpoints/latest", "rounds/02/train/checkpoints/latest", "summary.json"):
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and not (tmp_path / "run" / place).exists():
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        if place != "summary.json":
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        assert place != "summary.json" or code == 0, (tmp_path / "log").read_text(errors="replace")
    one, killed = done(tmp_path / "whole"), done(tmp_path / "run")
    for name in one:
        assert killed[name] == one[name], name


def test_a_refused_round_leaves_the_weights_and_the_page_of_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = iter([Interval(0.3, 0.1, 0.5, 12), Interval(-0.3, -0.5, -0.1, 12)])
    monkeypatch.setattr(run, "change", lambda *_: next(moved))
    found = run_improve(recipe("gate=true", "rounds=5"), tmp_path / "run")
    assert (found["kept"], found["refused"], found["rounds"]) == (1, [2], 2)
    assert found["stopped"].startswith("round 2 is worse than round 1 on held-out prompts")
    first = tmp_path / "run" / "rounds" / "01" / "train" / "final" / "model.safetensors"
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == first.read_bytes()
    assert not (tmp_path / "run" / "rounds" / "02" / "train" / "final").exists()  # nothing reads it again
    rows = {row["round"]: row for row in found["improvement"]}
    assert rows[2]["harder"] == pytest.approx(0.6)  # difficulty.above=0: round 1 was a success
    assert rows[2]["replayed"] > 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "refused: worse" in page
    assert "1 (kept)" in page
    assert "The judge&#39;s share over the start" in page or "The judge's share over the start" in page
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["judges"][0]["override"]  # a judge without a report, let through by name


def test_where_only_the_judge_measures_summary_and_page_say_so(tmp_path: Path) -> None:
    found = run_improve(recipe("held_out.rewards=[]", "unguarded=honest", "rounds=1"), tmp_path / "run")
    assert found["unguarded"]
    assert found["score_start"]["mean"] == 0.5
    assert found["improvement"][1]["score"]["mean"] == pytest.approx(found["improvement"][1]["judge"]["mean"])
    assert "a rise proves nothing" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    told = [r for r in read_rows(tmp_path / "run" / "events.jsonl") if r.get("kind") == "warning"]
    assert any("what it is wrong about rises unseen" in r["message"] for r in told)


def test_pairs_and_another_judge_as_the_measure(tmp_path: Path) -> None:
    other = "held_out.judge={judges: recipes/tiny/judges.yaml, judge: long_winded, override: long_winded}"
    train = "train={by: prefer, optim: {lr: 1e-3}, loop: {steps: 2, batch_size: 4, probes: 0}}"
    found = run_improve(recipe("held_out.rewards=[]", other, train, "rounds=1", "select.margin=0.1", "keep=all"), tmp_path / "run")
    assert found["measured_by"] == "judge"
    row = found["improvement"][1]
    assert row["change"]["mean"] == pytest.approx(row["score"]["mean"] - 0.5)
    assert (tmp_path / "run" / "rounds" / "01" / "measured_judgements.jsonl").is_file()


def test_people_measure_blind_through_the_server(tmp_path: Path) -> None:
    people = "held_out.people={people: {count: 3, both_bad: 0.2}, per_item: 1}"  # random texts: many are called bad both
    found = run_improve(recipe("held_out.rewards=[]", people, "rounds=1"), tmp_path / "run")
    assert found["measured_by"] == "people"
    change = found["improvement"][1]["change"]
    assert -0.5 <= change["low"] <= change["mean"] <= change["high"] <= 0.5
    assert change["n"] == 12
    assert found["improvement"][1]["score"] is None  # people compare, they give no score
    tasks = read_rows(tmp_path / "run" / "rounds" / "01" / "tasks.jsonl")
    assert all(set(c) == {"candidate_id", "text", "origin"} and not c["origin"] for t in tasks for c in t["candidates"])


def test_a_measure_and_a_judge_that_failed_are_asked_again_once_they_are_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not measured is not kept: neither does the gate stand on one prompt, nor does the same command fail for ever."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("judges:\n  honest: {type: scripted, fails: 1.0}\n", encoding="utf-8")
    measure, judge = measuring.apply_rewards, run.judge_named
    given = recipe("rounds=1")
    out = tmp_path / "run"

    def nothing(groups: Any, rewards: Any) -> Any:
        return [replace(g, valid_G=g.valid_G & (i == 0)) for i, g in enumerate(measure(groups, rewards))]

    monkeypatch.setattr(measuring, "apply_rewards", nothing)
    with pytest.raises(RunError, match="22 of 24 held-out answers have no measure"):
        run_improve(given, out)
    monkeypatch.setattr(measuring, "apply_rewards", measure)
    monkeypatch.setattr(run, "judge_named", lambda file, name: judge(str(broken), name))
    with pytest.raises(RunError, match=r"round 1: .* comparisons have no verdict of judge honest"):
        run_improve(given, out)
    monkeypatch.setattr(run, "judge_named", judge)
    summary = run_improve(given, out)
    first = summary["improvement"][1]
    assert first["held_out_asked"]["calls"] > 0
    assert summary["cost"] == 0.0
    assert run_improve(given, tmp_path / "whole")["score_kept"] == summary["score_kept"]


def test_too_few_held_out_prompts_and_a_choice_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 prompts cannot tell one round from another"):
        run_improve(recipe("held_out.prompts=0.1"), tmp_path / "few")
    with pytest.raises(ConfigError, match=r"difficulty\.prompts is 100 of 28 prompts: nothing would be chosen"):
        run_improve(recipe("difficulty.prompts=100"), tmp_path / "all")
    with pytest.raises(DataError, match="round 1 has no lesson: 12 prompts"):
        run_improve(recipe("select.least=1.0", "judge={judges: recipes/judges.yaml, judge: lazy, override: lazy}"), tmp_path / "none")
