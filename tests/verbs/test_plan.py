"""What a training is told to do: refused where it cannot be, said before it begins; and what ends one in which no reward works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError, DivergedError
from keel.pipeline import PipelineRecipe, resolve_references
from keel.verbs.preferences.recipe import PreferencesRecipe
from keel.verbs.rl.recipe import RLRecipe

Stage = Callable[..., dict[str, Any]]
Rows = Callable[[Path], list[dict[str, Any]]]
Finished = Callable[[str], Path]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sft", "4 of 38 units a step, micro-batches of up to 2048 tokens; 4 updates in 4 steps, 1 of them warm-up"),
        ("ppo", "4 of 32 prompts x 4 samples a step, micro-batches of up to 2048 tokens; 8 updates in 4 steps, 1 of them warm-up"),
    ],
)
def test_the_batch_is_said_before_training(name: str, line: str, finished: Finished, rows: Rows) -> None:
    events = [row for row in rows(finished(name) / "events.jsonl") if row["kind"] in ("stage_started", "run_started")]
    assert [row["kind"] for row in events] == ["stage_started", "run_started"]
    assert events[0]["message"] == line


def test_balancing_by_a_column_that_is_not_there(stage: Stage, tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yes."}]}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "topic": i % 2, "language": "en"}) + "\n" for i in range(6)))
    common = (f"data.path={file}", "held_out=0", "loop.steps=1")
    with pytest.raises(ConfigError, match=r"no row has the column 'topics'; the extra columns are: .*language.*topic") as caught:
        stage("sft", tmp_path / "wrong", *common, "loop.balance_by=topics")
    assert "balance_by" in caught.value.hint
    stage("sft", tmp_path / "right", *common, "loop.balance_by=topic")


def test_settings_that_nothing_reads_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    grpo, ppo = Path("recipes/tiny_grpo.yaml"), Path("recipes/tiny_ppo.yaml")
    for setting in ("critic_model=tiny:llama", "critic_optim.lr=1e-4"):
        with pytest.raises(ConfigError, match=rf"{setting.partition('=')[0].partition('.')[0]} would have no effect.*has no critic"):
            load(RLRecipe, grpo, [setting])
        load(RLRecipe, ppo, [setting])
    start = ["model=tiny:llama", "data.path=x.jsonl", "preferences.samples=4"]
    with pytest.raises(ConfigError, match=r"sampling\.temperature would have no effect.*preferences\.temperatures"):
        load(PreferencesRecipe, None, [*start, "sampling.temperature=0.5"])
    load(PreferencesRecipe, None, [*start, "sampling.max_tokens=5", "preferences.temperatures=[0.5]"])


def test_references_are_resolved_without_setting_what_was_not_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    recipe = load(PipelineRecipe, Path("recipes/quickstart.yaml"), [])
    outputs = {"model": "m", "sft": "s", "preferences": "p", "reward": "r", "rl": "l"}
    for name, stage in recipe.stages.items():
        resolved = resolve_references(stage, outputs)
        assert resolved.model_fields_set == stage.model_fields_set
        same = {key: value for key, value in stage if key not in ("model", "baseline", "data", "rewards")}
        assert {key: value for key, value in resolved if key in same} == same, name


def test_more_minibatches_than_prompts_are_refused(stage: Stage, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.minibatches is 9, loop\.batch_size 8"):
        load(RLRecipe, root / "recipes/tiny_grpo.yaml", ["algorithm.minibatches=9", "loop.batch_size=8"])
    load(RLRecipe, root / "recipes/tiny_grpo.yaml", ["algorithm.minibatches=8", "loop.batch_size=8"])
    with pytest.raises(ConfigError, match=r"algorithm\.minibatches is 4, there are 3 prompts"):
        stage("grpo", tmp_path / "run", "algorithm.minibatches=4", "data.limit=3", "held_out=0")


@pytest.mark.parametrize(("steps", "message"), [(5, "stopped at step 3: completions/failed_ratio = 1"), (2, "nothing was trained")])
def test_a_reward_that_always_fails_stops_the_run(steps: int, message: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """With held-out prompts, whose evaluation has no reward either."""
    (tmp_path / "mine.py").write_text("def fn(prompt, completion):\n    raise KeyError('price of ' + 'tents')\n")
    rewards = "rewards=[{type: python, name: mine, function: '" + f"{tmp_path / 'mine.py'}:fn" + "'}]"
    run = tmp_path / "run"
    with pytest.raises(DivergedError, match=message) as caught:
        stage("grpo", run, rewards, f"loop.steps={steps}", "loop.eval_every=1", "loop.best.patience=9")
    assert "KeyError: 'price of tents'" in caught.value.message
    assert not (run / "summary.json").exists()
    assert not (run / "final").exists()
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == list(range(min(steps, 3) + 1))
