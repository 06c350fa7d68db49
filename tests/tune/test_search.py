"""The search itself, on trainings whose outcome is a formula; and on real ones, killed and started again."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from keel.cli import main
from keel.core.errors import ConfigError, RunError
from keel.tune import run as tune_run
from keel.tune.compare import Outcome
from keel.tune.recipe import measure_of, read_search
from keel.tune.run import run_tune
from keel.tune.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "tune_tiny.yaml"


class Formula:
    """What a run is worth: best at lr 0.01, less than a fifth of it before step 5; lr above 0.02 breaks off."""

    trained: list[tuple[int, int, int]] = []  # noqa: RUF012
    dies_after = math.inf

    def __init__(self, verb: str, recipe: Path, overrides: Any, folder: Path, measure: str) -> None:
        self.measure = measure

    def advance(self, trial: Trial, steps: int, whole: int) -> dict[str, Any]:
        if len(Formula.trained) >= Formula.dies_after:
            raise KeyboardInterrupt
        Formula.trained.append((trial.number, trial.seed, steps))
        lr = float(trial.point.get("optim.lr", 0.003))
        value = steps * math.exp(-abs(math.log(lr / 0.01))) + 0.01 * trial.seed
        ended = "diverged" if lr > 0.02 else ""
        row = {"trial": trial.number, "seed": trial.seed, "steps": steps, "run": trial.name, "ended": ended, "at": steps}
        return {**row, "value": None if ended else value, "beside": {"kl": lr}, "alarms": []}

    def outcome(self, row: Mapping[str, Any]) -> Outcome:
        return Outcome(math.nan if row["value"] is None else row["value"], {}, row["ended"])


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> type[Formula]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tune_run, "Trainer", Formula)
    Formula.trained, Formula.dies_after = [], math.inf
    return Formula


def searched(folder: Path, *overrides: str) -> dict[str, Any]:
    return run_tune(RECIPE, [f"run_dir={folder}", "tune.budget=200", *overrides])


def test_the_best_is_found_compared_and_written(formula: type[Formula], tmp_path: Path) -> None:
    found = searched(tmp_path)
    assert 0.006 < found["best"]["settings"]["optim.lr"] < 0.02
    assert found["verdict"] == "better"
    assert found["difference"]["low"] > 0
    counts = {steps: sum(1 for _, seed, s in formula.trained if s == steps and seed == 0) for steps in (3, 9)}
    assert [[3, counts[3]], [9, counts[9]]] == found["plan"]["halts"]
    assert {seed for n, seed, _ in formula.trained if n == 0} == {0, 1, 2, 3}, "the recipe's own settings run on the new seeds too"
    spent = found["plan"]["cost"]
    assert spent["search"] + spent["compare"] <= 200
    best = (tmp_path / "best.yaml").read_text()
    assert f"lr: {found['best']['settings']['optim.lr']}" in best
    assert "tune:" not in best
    for name, said in (("tune.html", "The best is better than the recipe"), ("tune.zh.html", "最佳设置优于配方原有设置")):
        page = (tmp_path / name).read_text()
        assert said in page
        assert "<script" not in page
    assert "diverged" in page


def test_a_run_that_broke_off_goes_no_further(formula: type[Formula], tmp_path: Path) -> None:
    found = searched(tmp_path)
    broken = {row["trial"] for row in found["trials"] if row["ended"]}
    assert broken, "none broke off: the test shows nothing"
    assert not [t for t in formula.trained if t[0] in broken and t[2] > 3]


def test_a_search_that_was_cut_off_goes_on_and_finds_the_same(formula: type[Formula], tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole")
    everything = list(formula.trained)
    for cut in (0, 1, 4, len(everything) - 1):
        folder = tmp_path / str(cut)
        formula.trained, formula.dies_after = [], cut
        with pytest.raises(KeyboardInterrupt):
            searched(folder)
        formula.dies_after = math.inf
        again = searched(folder)
        assert formula.trained == everything, "nothing twice, nothing left out"
        assert {k: v for k, v in again.items() if k not in ("run_dir", "command")} == {
            k: v for k, v in whole.items() if k not in ("run_dir", "command")
        }


def test_half_a_line_of_the_journal_is_done_again(formula: type[Formula], tmp_path: Path) -> None:
    searched(tmp_path)
    journal = tmp_path / "trials.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    formula.trained = []
    searched(tmp_path)
    assert len(formula.trained) == 1


def test_another_search_in_the_same_folder_is_refused(formula: type[Formula], tmp_path: Path) -> None:
    searched(tmp_path)
    with pytest.raises(RunError, match="another search: recipe differ"):
        searched(tmp_path, "samples=6")
    with pytest.raises(RunError, match="another search: plan differ"):
        searched(tmp_path, "tune.budget=150")


def test_where_nothing_beats_the_recipe_that_is_said(formula: type[Formula], tmp_path: Path) -> None:
    found = searched(tmp_path, "tune.search={optim.lr: [1e-5, 1e-4]}")
    assert (found["verdict"], found["best"]["trial"]) == ("own", 0)
    assert {seed for _, seed, _ in formula.trained} == {0}


def test_a_dry_run_says_the_plan_and_writes_nothing(formula: type[Formula], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "none"
    assert main(["tune", str(RECIPE), f"run_dir={folder}", "--dry-run"]) == 0
    told = capfd.readouterr().err
    assert "searched: optim.lr 0.0003 to 0.03 (log) (the recipe's: 0.003); algorithm.kl.coef 0.001 to 1 (log)" in told
    assert "measure: eval/rewards/varied/mean, higher is better" in told
    assert "of 90 steps in all" in told
    assert not folder.exists()


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["tune.search.optim.lrr=[1,2]"], r"optim\.lrr: unknown key"),
        (["tune.search={algorithm.kl.coef: {low: -1, high: 2, scale: linear}}"], r"algorithm\.kl\.coef"),
        (["tune.verb=eval"], "no stage that trains"),
        (["tune.mesure=eval/loss"], r"Did you mean tune\.measure"),
        (["held_out=0"], "set held_out"),
        (["loop.steps=null"], r"set loop\.steps"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    overrides: list[str], why: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import re

    monkeypatch.chdir(ROOT)
    if "lrr" in overrides[0]:
        overrides = ["tune.search={optim.lrr: [1, 2]}"]
    assert main(["tune", str(RECIPE), *overrides, f"run_dir={tmp_path}"]) == 2
    assert re.search(why, capfd.readouterr().err)
    assert not (tmp_path / "runs").exists()


def test_what_trains_is_no_measure_where_something_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    search = read_search(RECIPE)
    assert (search.measure, search.gamed, search.higher) == ("eval/rewards/varied/mean", False, True)
    plain = read_search(ROOT / "recipes" / "tiny_grpo.yaml")
    assert (plain.measure, plain.gamed) == ("eval/reward", True), "held-out prompts, the training's reward: told with a warning"
    assert {key: where.ends for key, where in plain.ranges.items()} == {"optim.lr": (3e-4, 3e-2), "algorithm.kl.coef": (0.004, 0.4)}
    dpo = read_search(ROOT / "recipes" / "tiny_dpo.yaml", ["tune.verb=prefer"])
    assert (dpo.measure, dpo.higher, list(dpo.ranges)) == ("eval/rewards/accuracies", True, ["optim.lr"])
    with pytest.raises(ConfigError):
        read_search(RECIPE, ["tune.measure=reward"])
    assert measure_of(search.recipe, search.config.model_copy(update={"measure": "eval/rewards/share_of_e/mean"}))[1]


SHORT = ("loop.steps=2", "tune.first=1", "tune.budget=12", "tune.seeds=2", "tune.search={optim.lr: [1e-3, 1e-2]}", "sampling.max_tokens=4")


@pytest.mark.stages
@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_end(proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real runs. SIGKILL once two halts are known, then the same command again: result and weights are those of a search that was left in
    peace."""
    monkeypatch.chdir(ROOT)
    command = [sys.executable, "-m", "keel.cli", "tune", str(RECIPE), *SHORT, "settings.threads=1", f"run_dir={tmp_path / 'cut'}"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    journal = tmp_path / "cut" / "trials.jsonl"
    for _ in range(6000):
        if (journal.is_file() and journal.read_bytes().count(b"\n") >= 2) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.read_bytes().count(b"\n") >= 2
    assert not (tmp_path / "cut" / "tune.json").exists(), "it was over before it was killed"
    cut, whole = (run_tune(RECIPE, [*SHORT, "settings.threads=1", f"run_dir={tmp_path / name}"]) for name in ("cut", "whole"))
    for found in (cut, whole):
        del found["run_dir"], found["command"]
    assert json.dumps(cut, sort_keys=True) == json.dumps(whole, sort_keys=True)
    for run in (tmp_path / "whole" / "runs").iterdir():
        for file in run.glob("checkpoints/*/*.safetensors"):
            other = load_file(tmp_path / "cut" / file.relative_to(tmp_path / "whole"))
            assert all(torch.equal(tensor, other[name]) for name, tensor in load_file(file).items()), file


@pytest.mark.stages
def test_a_run_that_halts_is_step_by_step_the_run_that_does_not(proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keel.runs import evaluations
    from keel.verbs.run import run_verb

    monkeypatch.chdir(ROOT)
    plain = ROOT / "recipes" / "tiny_grpo.yaml"
    short = ["loop={steps: 3, batch_size: 4, eval_at_start: false}", "samples=4", "sampling.max_tokens=4", "settings.threads=1"]
    halted = run_verb("rl", plain, [*short, f"run_dir={tmp_path / 'halted'}", "loop.pause_at=2"])
    assert (halted["interrupted"], halted["paused"], halted["step"]) == (True, "loop.pause_at=2", 2)
    assert run_verb("rl", plain, [*short, f"run_dir={tmp_path / 'halted'}", "loop.pause_at=2"])["step"] == 2, "again: nothing is trained"
    summaries = [run_verb("rl", plain, [*short, f"run_dir={tmp_path / name}"]) for name in ("halted", "plain")]
    assert summaries[0]["last_eval"]["eval/reward"] == summaries[1]["last_eval"]["eval/reward"]
    weights = [next((tmp_path / name / "final").glob("*.safetensors")).read_bytes() for name in ("halted", "plain")]
    assert weights[0] == weights[1]
    by_prompt = evaluations.read(tmp_path / "halted", "eval", 3)
    mean = sum(row["reward"] for row in by_prompt.values()) / len(by_prompt)
    assert mean == pytest.approx(summaries[0]["last_eval"]["eval/reward"], rel=1e-6)
    assert len(evaluations.read(tmp_path / "halted", "eval", 2)) == len(by_prompt)
