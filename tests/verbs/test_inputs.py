"""A run that goes on must find what it began with: the base model, reward functions, rule files, reward models, text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import RunError
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.shared.inputs import inputs_of
from keel.verbs.shared.session import starting_weights

Stage = Callable[..., dict[str, Any]]
FP32 = ModelOptions(precision="fp32")


def save(folder: Path, spec: str) -> Path:
    loaded = load_model(spec, FP32)
    loaded.model.save(folder, loaded.tokenizer)
    return folder


def test_everything_that_a_recipe_names_is_fingerprinted(tmp_path: Path) -> None:
    for name in ("rules.yaml", "mine.py", "text.jsonl", "loss.py"):
        (tmp_path / name).write_text(f"# {name}")
    (tmp_path / "loss.py").write_text("def fn(tokens):\n    return tokens.logprobs_S\n")
    for name in ("policy", "judge", "critic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    rewards = [
        {"type": "rules", "name": "a", "path": str(tmp_path / "rules.yaml")},
        {"type": "python", "name": "b", "function": f"{tmp_path}/mine.py:fn"},
        {"type": "model", "name": "c", "path": str(tmp_path / "judge")},
        {"type": "contains", "name": "d", "words": ["x"]},
    ]
    rl = RLRecipe.model_validate(
        {
            "model": str(tmp_path / "policy"),
            "critic_model": str(tmp_path / "critic"),
            "algorithm": {"name": "ppo", "objective": f"{tmp_path}/loss.py:fn"},
            "data": {"path": "x.jsonl"},
            "rewards": rewards,
        }
    )
    found = inputs_of(rl)
    others = ["rewards.0.path", "rewards.1.function", "rewards.2.path"]
    assert [key.split(" ")[0] for key in found] == ["model", "critic_model", "algorithm.objective", *others]
    assert len(set(found.values())) == 6
    text = str(tmp_path / "text.jsonl")
    evaluation = {"model": "tiny:llama", "baseline": str(tmp_path / "policy"), "evaluate": {"retention_text": text}, "rewards": rewards[:1]}
    assert [key.split(" ")[0] for key in inputs_of(EvalRecipe.model_validate(evaluation))] == [
        "baseline",
        "evaluate.retention_text",
        "rewards.0.path",
    ]


def test_the_digest_is_of_the_base_not_of_the_adapters() -> None:
    def weights(spec: str, seed: int) -> list[tuple[str, bytes]]:
        loaded = load_model(spec, FP32, LoraConfig(r=2), seed=seed)
        return [(name, p.detach().numpy().tobytes()) for name, p in starting_weights(loaded.model)]

    assert weights("tiny:llama?seed=1", 0) == weights("tiny:llama?seed=1", 5), "adapters are drawn from the seed"
    assert weights("tiny:llama?seed=1", 0) != weights("tiny:llama?seed=2", 0)
    full = load_model("tiny:llama?seed=1", FP32).model
    assert {name for name, _ in starting_weights(full)} == {name for name, _ in full.module.named_parameters()}


def test_another_base_model_is_refused(stage: Stage, tmp_path: Path) -> None:
    """Same settings, same folder, LoRA: only the frozen weights differ. Also when the files cannot tell (a model of the Hub)."""
    model, run = save(tmp_path / "model", "tiny:llama?seed=1"), tmp_path / "run"
    settings = (f"model={model}", "lora.r=2", "loop.steps=1")
    stage("sft", run, *settings)
    shutil.rmtree(model)
    save(model, "tiny:llama?seed=2")
    with pytest.raises(RunError, match=rf"not what the run began with: model \({model}\)"):
        stage("sft", run, *settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keel.verbs.shared.session.inputs_of", lambda *_: {})
        (run / "summary.json").unlink()
        with pytest.raises(RunError, match=r"not what the run began with: the model's weights \(float32\)"):
            stage("sft", run, *settings)
    shutil.rmtree(model)
    save(model, "tiny:llama?seed=1")
    stage("sft", run, *settings)


def test_another_chat_template_is_refused(stage: Stage, tmp_path: Path) -> None:
    model, run = save(tmp_path / "model", "tiny:llama?seed=1"), tmp_path / "run"
    settings = (f"model={model}", "loop.steps=1")
    stage("sft", run, *settings)
    (run / "summary.json").unlink()
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + "{# changed #}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keel.verbs.shared.session.inputs_of", lambda *_: {})
        with pytest.raises(RunError, match="not what the run began with: the chat template"):
            stage("sft", run, *settings)


def test_another_reward_function_is_refused(stage: Stage, tmp_path: Path) -> None:
    function = tmp_path / "mine.py"
    function.write_text("def fn(prompt, completion):\n    return float(len(completion))\n")
    rewards = "rewards=[{type: python, name: mine, function: '" + f"{function}:fn" + "'}]"
    stage("grpo", tmp_path / "run", "loop.steps=1", rewards)
    function.write_text("def fn(prompt, completion):\n    return -float(len(completion))\n")
    with pytest.raises(RunError, match=r"not what the run began with: rewards.0.function"):
        stage("grpo", tmp_path / "run", "loop.steps=1", rewards)


def test_another_critic_is_refused(stage: Stage, tmp_path: Path) -> None:
    critic, run = save(tmp_path / "critic", "tiny:llama?seed=1"), tmp_path / "run"
    settings = (f"critic_model={critic}", "loop.steps=1", "loop.eval_every=0")
    stage("ppo", run, *settings)
    (run / "summary.json").unlink()
    shutil.rmtree(critic)
    save(critic, "tiny:llama?seed=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keel.verbs.shared.session.inputs_of", lambda *_: {})
        with pytest.raises(RunError, match=r"not what the run began with: the critic's weights \(float32\)"):
            stage("ppo", run, *settings)
