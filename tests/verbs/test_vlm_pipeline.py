"""A pipeline on pictures, whole: scenes, preferences by a function of the user's, a reward model, GRPO with a price on what is made up, and
an evaluation that marks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.cli import main
from keel.core.errors import ConfigError
from keel.pipeline import load_pipeline

RECIPE = """
model: tiny:llava?seed=1
model_options: {precision: fp32}
settings: {threads: 1, skip_self_test: [reward-reads-image, policy-reads-image]}  # four steps teach a random model nothing
stages:
  train: {verb: scenes, n: 12, seed: 3, chinese: 0.25, scenes: &scenes {pixels: 56}}
  heldout: {verb: scenes, n: 5, seed: 4, chinese: 0.25, scenes: *scenes}
  sft:
    model: "@model"
    data: {path: "@train/captions.jsonl"}
    optim: {lr: 3e-3}
    loop: {steps: 4, batch_size: 4}
  preferences:
    model: "@sft"
    data: {path: "@train/prompts.jsonl"}
    sampling: {max_tokens: 12}
    preferences: {samples: 2, temperatures: [1.0], keep: 2, annotators: {utility: "recipes/vlm/scenes.py:worth", tie_threshold: 0}}
  reward:
    model: "@sft"
    data: {path: "@preferences"}
    held_out: 0.2
    loop: {steps: 2, batch_size: 4}
  rl:
    model: "@sft"
    data: {path: "@train/prompts.jsonl"}
    algorithm: {name: grpo}
    rewards:
      - {type: model, name: reward_model, path: "@reward"}
      - {type: hallucination, name: made_up, detector: "recipes/vlm/scenes.py:made_up"}
    samples: 2
    sampling: {max_tokens: 12}
    loop: {steps: 2, batch_size: 2}
  evaluate:
    model: "@rl"
    baseline: "@sft"
    evaluate:
      prompts: ["@heldout/prompts.jsonl"]
      samples: 2
      max_tokens: 12
      draws: 100
      languages: []
      gold: "recipes/vlm/scenes.py:worth"
      detector: "recipes/vlm/scenes.py:made_up"
      kl_prompts: 2
    rewards:
      - {type: model, name: reward_model, path: "@reward"}
"""


@pytest.mark.stages
def test_pictures_go_through_every_stage_and_what_is_made_up_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run = tmp_path / "run"
    assert main(["run", str(tmp_path / "recipe.yaml"), f"run_dir={run}", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = summary["hallucination"]
    assert found["n_prompts"] == 5
    assert {"any", "weighted", "errors_per_answer"} <= found["rates"].keys()
    assert 0 <= found["coverage"]["after"]["mean"] <= 1
    assert "win_rate" in summary
    page = (run / "report.html").read_text()
    assert "What answers make up" in page
    assert "data:image/png;base64," in page
    rows = [json.loads(line) for line in (run / "stages/evaluate/samples/evaluation.jsonl").read_text().splitlines()]
    assert all(a["errors"] is not None and "coverage" in a for row in rows for a in (*row["before"], *row["after"]))
    metrics = [json.loads(line) for line in (run / "stages/rl/metrics.jsonl").read_text().splitlines()]
    assert any("errors/existence" in key for key in metrics[-1])

    scenes = run / "stages/train/scenes/captions.jsonl"
    before = scenes.stat().st_mtime_ns
    (run / "summary.json").unlink()
    assert main(["run", str(tmp_path / "recipe.yaml"), f"run_dir={run}"]) == 0
    assert scenes.stat().st_mtime_ns == before


def test_a_stage_that_makes_things_takes_what_it_knows_of_the_shared_settings(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("model: tiny:llava?seed=1", "model: tiny:llava?seed=1\nseed: 5"))
    recipe = load_pipeline(tmp_path / "recipe.yaml", [])
    assert [stage.seed for name, stage in recipe.stages.items() if name in ("train", "sft")] == [3, 5]  # type: ignore[attr-defined]
    (tmp_path / "bad.yaml").write_text(RECIPE.replace("n: 12", "n: 12, threads: 3"))
    with pytest.raises(ConfigError, match=r"stages\.train"):
        load_pipeline(tmp_path / "bad.yaml", [])
