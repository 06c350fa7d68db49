"""The recipes of reinforcement learning in `recipes/`: each holds as it is, and takes a step with a tiny model in place of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import dump, load
from keel.methods import resolve
from keel.pipeline import load_pipeline
from keel.verbs.run import RECIPES, run_verb

Rows = Callable[[Path], list[dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]
OF_GSM8K = ("grpo_gsm8k", "dapo", "gspo", "rloo")
TINY = (
    *("model=tiny:llama?seed=1", "model_options.precision=fp32", "lora=null", "held_out=0.2", "sampling.max_tokens=6", "samples=4"),
    *("loop={steps: 1, batch_size: 4, eval_every: 0, probes: 0, eval_at_start: false}", "settings={threads: 1}"),
)


@pytest.mark.parametrize("name", OF_GSM8K)
def test_recipes_of_gsm8k_take_a_step(name: str, rows: Rows, proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows as GSM8K has them. A tiny model solves nothing, and groups of equal rewards teach nothing: a second reward makes them differ."""
    monkeypatch.chdir(ROOT)
    data = [{"question": f"{i} + {i}?", "answer": f"Twice {i} is {2 * i}.\n#### {2 * i}"} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    more = '{type: python, name: e, function: "recipes/tiny/rewards.py:share_of_e"}'
    rewards = f"rewards=[{{type: gsm8k, name: right}}, {more}]"
    run = tmp_path / "run"
    overlong = ["algorithm.credit.overlong.buffer=0.5"] if name == "dapo" else []
    path = Path(f"recipes/{name}.yaml")
    run_verb("rl", path, [*TINY, f"data={{path: {tmp_path / 'rows.jsonl'}}}", rewards, f"run_dir={run}", *overlong])
    (row,) = (r for r in rows(run / "metrics.jsonl") if r["step"] == 1)
    assert row["rewards/right/mean"] == 0.0
    assert row["grad_norm"] > 0
    assert row["policy/updates"] == resolve(load(RECIPES["rl"], path, []).algorithm).minibatches  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["dapo", "gspo"])
def test_where_the_clip_is_the_point_there_is_more_than_one_update(name: str) -> None:
    recipe: Any = load(RECIPES["rl"], ROOT / f"recipes/{name}.yaml", [])
    algorithm = resolve(recipe.algorithm, recipe.samples)
    assert algorithm.needs_old_logprobs
    assert recipe.loop.batch_size % algorithm.minibatches == 0
    assert algorithm.kl is None


def test_the_recipe_of_reasoning_gym_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Any = load(RECIPES["rl"], ROOT / "recipes/grpo_reasoning_gym.yaml", [])
    row = json.loads((ROOT / recipe.data.path).read_text().splitlines()[0])
    assert row["metadata"]["source_dataset"] == "chain_sum"


def test_a_step_of_the_recipe_of_reasoning_gym(rows: Rows, proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("reasoning_gym")
    monkeypatch.chdir(ROOT)
    run_verb("rl", Path("recipes/grpo_reasoning_gym.yaml"), [*TINY, "data.limit=20", f"run_dir={tmp_path}"])
    (row,) = (r for r in rows(tmp_path / "metrics.jsonl") if r["step"] == 1)
    assert row["completions/failed_ratio"] == 0.0


def test_the_chain_of_ppo_holds() -> None:
    recipe: Any = load_pipeline(ROOT / "recipes/ppo_reward_model.yaml", [])
    assert [name for name, _ in recipe.stages.items()] == ["sft", "preferences", "reward", "rl", "evaluate"]
    rl = recipe.stages.rl
    assert (rl.algorithm.name, rl.critic_model) == ("ppo", "@reward")
    assert resolve(rl.algorithm, rl.samples).old_kl.stop == 0.5


def test_the_run_that_explodes_is_taken_back_and_without_the_guard_is_not(
    rows: Rows, proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    short = ("loop.steps=12", "samples=4", "sampling.max_tokens=6", "settings.threads=1")
    for name, more in {"guarded": (), "unguarded": ("settings.watch.rules=[]",)}.items():
        run_verb("rl", Path("recipes/tiny_explosion.yaml"), [*short, *more, f"run_dir={tmp_path / name}"])
    guarded, lost = (rows(tmp_path / name / "metrics.jsonl")[-1]["kl"] for name in ("guarded", "unguarded"))
    assert any(row["kind"] == "emergency" for row in rows(tmp_path / "guarded" / "events.jsonl"))
    assert guarded < 2.5 < lost


def verb_of(path: Path) -> str:
    last = path.stem.split("_")[-1]
    return "prefer" if last in ("dpo", "personal") or "online" in path.stem else last if last in RECIPES else "rl"


OTHERS = ("judges", "tune_tiny", "ablate_tiny")  # a file of judges, recipes of keel tune and keel ablate, which their own tests read
STAGES = sorted(p for p in (ROOT / "recipes").glob("*.yaml") if "stages:" not in p.read_text() and p.stem not in OTHERS)


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_what_a_run_keeps_of_a_recipe_is_a_recipe(path: Path, tmp_path: Path) -> None:
    """`--dry-run` and the manifest write every setting, defaults too: none of them may be refused for having been written."""
    kept = tmp_path / "kept.json"
    recipe = load(RECIPES[verb_of(path)], path, [])
    kept.write_text(json.dumps(dump(recipe)))
    assert load(RECIPES[verb_of(path)], kept, []) == recipe


@pytest.mark.parametrize("name", ["quickstart", "quickstart_dpo", "tiny_staged", "constitution"])
def test_what_a_run_keeps_of_a_pipeline_is_a_pipeline(name: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    recipe = load_pipeline(ROOT / f"recipes/{name}.yaml", [])
    kept.write_text(json.dumps(dump(recipe)))
    assert dump(load_pipeline(kept, [])) == dump(recipe)
