"""The quickstart, shrunk to a tiny model and one RL step: every stage, the report, the summary, resuming, pooled seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.pipeline import STAGES, PipelineRecipe, load_pipeline, run_pipeline

pytestmark = pytest.mark.stages

LOOP = "{steps: 1, batch_size: 4, probes: 1, eval_every: 0}"
SMALL = (
    "model=tiny:llama?seed=1",
    "model_options.precision=fp32",
    "settings={threads: 1, checkpoint: {every: 1}}",
    "stages.sft.data.limit=24",
    f"stages.sft.loop={LOOP}",
    "stages.preferences.data.limit=12",
    "stages.preferences.sampling.max_tokens=8",
    f"stages.reward.loop={LOOP}",
    "stages.evaluate.evaluate.samples=1",
    "stages.evaluate.evaluate.max_tokens=8",
    "stages.evaluate.evaluate.draws=200",
    "stages.evaluate.evaluate.retention_tokens=64",
)
RL = (f"stages.rl.loop={LOOP}", "stages.rl.data.limit=24", "stages.rl.samples=4", "stages.rl.sampling.max_tokens=8")
DPO = (f"stages.prefer.loop={LOOP}",)
NUMBERS = {"win_rate", "reward_before", "reward_after", "kl", "retention", "wall_s", "peak_mb", "stages"}

Rows = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def in_the_repository(root: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture
def held_out(root: Path, tmp_path: Path) -> str:
    """Fourteen of the held-out prompts, as an override."""
    lines = (root / "recipes" / "quickstart" / "prompts_heldout.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "held_out.jsonl").write_text("\n".join([*lines[:12], *lines[-2:]]) + "\n", encoding="utf-8")
    return f"stages.evaluate.evaluate.prompts=[{tmp_path / 'held_out.jsonl'}]"


def test_the_quickstart_end_to_end(tmp_path: Path, held_out: str, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    command = (Path("recipes/quickstart.yaml"), [*SMALL, *RL, held_out, f"run_dir={run}"])
    with monkeypatch.context() as patch:  # killed between two stages
        patch.setitem(STAGES, "rl", (STAGES["rl"][0], stopped))
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(*command)
    first = {name: (run / "stages" / name / "summary.json").stat().st_mtime_ns for name in ("sft", "preferences", "reward")}
    assert not (run / "summary.json").exists()

    summary = run_pipeline(*command)
    assert {name: (run / "stages" / name / "summary.json").stat().st_mtime_ns for name in first} == first, "what was done stands"
    assert summary["stages"] == ["sft", "preferences", "reward", "rl", "evaluate"]
    assert set(summary) >= NUMBERS
    assert set(summary["win_rate"]) >= {"mean", "low", "high", "n"}
    assert set(summary["wall_s"]) == set(summary["stages"])
    assert json.loads((run / "summary.json").read_text())["win_rate"] == summary["win_rate"]
    assert len(rows(run / "stages" / "evaluate" / "samples" / "evaluation.jsonl")) == 14
    manifest = json.loads((run / "stages" / "rl" / "manifest.json").read_text())
    assert manifest["parent"] == str(run)
    assert manifest["config"]["model"] == str(run / "stages" / "sft" / "final")
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report or "data:image" in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert run_pipeline(*command) == json.loads((run / "summary.json").read_text()), "a finished pipeline is not run again"


def stopped(*_: Any) -> dict[str, Any]:
    raise KeyboardInterrupt


def test_direct_preference_optimisation_and_pooled_seeds(tmp_path: Path, held_out: str) -> None:
    run = tmp_path / "run"
    summary = run_pipeline(Path("recipes/quickstart_dpo.yaml"), [*SMALL, *DPO, held_out, "seeds=[0, 1]", f"run_dir={run}"])
    rates = [json.loads((run / f"seed-{seed}" / "summary.json").read_text())["win_rate"] for seed in (0, 1)]
    assert [summary["win_rate_by_seed"][str(seed)] for seed in (0, 1)] == rates
    assert summary["win_rate"]["mean"] == pytest.approx(sum(rate["mean"] for rate in rates) / 2)
    content = [json.loads((run / f"seed-{seed}" / "summary.json").read_text())["win_rate_gold_content"] for seed in (0, 1)]
    assert summary["win_rate_gold_content"]["mean"] == pytest.approx(sum(rate["mean"] for rate in content) / 2)
    assert json.loads((run / "seeds.json").read_text())["seeds"] == [0, 1]
    assert "prefer" in json.loads((run / "seed-1" / "summary.json").read_text())["stages"]


def test_a_reference_to_a_stage_that_comes_later(tmp_path: Path) -> None:
    """Found before anything is run."""
    for wrong in ("@rl", "@rewards"):
        with pytest.raises(ConfigError, match=f"stages.reward.*{wrong}"):
            run_pipeline(Path("recipes/quickstart.yaml"), [f"stages.reward.model='{wrong}'", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_seeds_are_pooled_from_evaluations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="evaluate"):
        run_pipeline(Path("recipes/quickstart.yaml"), ["seeds=[0, 1]", "stages.evaluate=null", f"run_dir={tmp_path / 'run'}"])


def test_what_stages_share_is_written_once() -> None:
    recipe = load(PipelineRecipe, Path("recipes/quickstart.yaml"), ["seed=7", "algorithm.name=rloo", "stages.reward.seed=3"])
    assert recipe.stages.sft is not None
    assert recipe.stages.rl is not None
    assert recipe.stages.reward is not None
    assert (recipe.stages.sft.seed, recipe.stages.rl.seed, recipe.stages.reward.seed) == (7, 7, 3)
    assert recipe.stages.rl.algorithm.name == "rloo"
    assert recipe.stages.sft.render == recipe.render


def test_a_stage_changes_only_the_keys_that_it_names() -> None:
    own = (
        "stages.sft.render.max_total=400",
        "stages.rl.settings.tracking.log_every=7",
        "stages.rl.algorithm.minibatches=3",
        "stages.reward.model_options.precision=fp32",
    )
    recipe = load(PipelineRecipe, Path("recipes/quickstart.yaml"), ["settings.threads=2", "model_options.revision=abc", *own])
    sft, rl, reward = recipe.stages.sft, recipe.stages.rl, recipe.stages.reward
    assert sft is not None
    assert rl is not None
    assert reward is not None
    assert sft.render == recipe.render.model_copy(update={"max_total": 400})
    assert sft.render.system == "You help customers of an outdoor shop."
    tracking = recipe.settings.tracking.model_copy(update={"log_every": 7})
    assert rl.settings == recipe.settings.model_copy(update={"tracking": tracking})
    assert (rl.settings.threads, rl.settings.checkpoint.every) == (2, 4)
    assert (rl.algorithm.minibatches, rl.algorithm.kl.coef) == (3, 0.1)
    assert (reward.model_options.precision, reward.model_options.revision) == ("fp32", "abc")


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_pipeline(Path("recipes/quickstart.yaml"), [f"run_dir={tmp_path / 'run'}"], dry_run=True)
    assert "stages:" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


STAGED = ("model_options.precision=fp32", "settings.threads=1", "stages.first_dpo.loop.probes=0")


def test_stages_of_any_name_run_in_the_order_written(tmp_path: Path, rows: Rows) -> None:
    recipe, run = Path("recipes/tiny_staged.yaml"), tmp_path / "run"
    short = ("stages.then_ppo.loop={steps: 2, batch_size: 4, probes: 0}", "stages.last_ipo.loop={steps: 1, batch_size: 4, probes: 0}")
    summary = run_pipeline(recipe, [*STAGED, *short, f"run_dir={run}"])
    assert summary["stages"] == ["first_dpo", "then_ppo", "last_ipo"]
    first, second, third = (json.loads((run / "stages" / name / "manifest.json").read_text()) for name in summary["stages"])
    assert (first["verb"], second["verb"], third["verb"]) == ("prefer", "rl", "prefer")
    assert second["config"]["model"] == str(run / "stages" / "first_dpo" / "final")
    assert third["config"]["model"] == str(run / "stages" / "then_ppo" / "final")
    ended = json.loads((run / "stages" / "first_dpo" / "summary.json").read_text())
    assert ended["stopped_early"], "every pair is told apart soon: the rule ends the stage"
    joined = rows(run / "stages.jsonl")
    last = {name: max(row["total_step"] for row in joined if row["stage"] == name) for name in summary["stages"]}
    assert last == {"first_dpo": ended["steps"], "then_ppo": ended["steps"] + 2, "last_ipo": ended["steps"] + 3}
    steps = [row["total_step"] for row in joined]
    assert steps == sorted(steps)


def test_a_stage_must_say_what_it_is(tmp_path: Path) -> None:
    def load_of(stages: str) -> PipelineRecipe:
        (tmp_path / "r.yaml").write_text(f"model: tiny:llama\nstages:\n  {stages}\n")
        return load_pipeline(tmp_path / "r.yaml", [])

    with pytest.raises(ConfigError, match=r"stages.evalute: a stage of this name needs the key `verb`; did you mean evaluate"):
        load_of("evalute: {model: '@model'}")
    with pytest.raises(ConfigError, match=r"stages.warm: its verb cannot be 'train'"):
        load_of("warm: {verb: train, model: '@model'}")
    with pytest.raises(ConfigError, match=r"stages.sft: its verb cannot be 'rl'"):
        load_of("sft: {verb: rl, model: '@model'}")
    with pytest.raises(ConfigError, match=r"stages.warm.lop: unknown key. Did you mean stages.warm.loop"):
        load_of("warm: {verb: sft, model: '@model', data: {path: x}, lop: {}}")
    made = load_of("b: {verb: sft, model: '@model', data: {path: x}}\n  a: {verb: sft, model: '@b', data: {path: x}, seed: 3}")
    assert [(name, stage.seed) for name, stage in made.stages.items()] == [("b", 0), ("a", 3)]
