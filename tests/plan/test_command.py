"""The command: exit codes, tables, the recipe read right, and one probe beside its formulas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keel.cli import main
from keel.core.errors import ConfigError, UserError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.plan.memory import frozen_model, memory
from keel.plan.probe import probe
from keel.plan.read import amount_of, read, recipe_of, work_of
from keel.plan.shape import read_shape
from keel.plan.size import size_of
from keel.plan.words import WORDS

FP32 = "model_options.precision=fp32"


def test_recipe_of_rl() -> None:
    asked = read(Path("recipes/tiny_grpo.yaml"), [FP32], "", None)
    work = work_of(asked)
    assert asked.verb == "rl"
    assert (work.rows, work.prompts, work.answer) == (32, 4, 12)
    longest = sorted(asked.lengths.distinct, reverse=True)[:4]
    assert work.microbatch == pytest.approx(sum(longest) + 4 * 8 * 12)
    assert work.scored == pytest.approx(4 * 8 * 12)
    assert work.reference == (work.inference > 0)
    assert amount_of(asked, work).steps == 20
    lora = work_of(read(Path("recipes/tiny_grpo.yaml"), [FP32, "lora.r=4"], "", None))
    assert (lora.reference, lora.trained) == (False, 4 * asked.size.ports)
    assert work_of(read(Path("recipes/tiny_ppo.yaml"), [FP32], "", None)).critic


def test_recipe_of_pairs() -> None:
    asked = read(Path("recipes/tiny_dpo.yaml"), [FP32], "prefer", None)
    work = work_of(asked)
    units = sorted(asked.lengths.units, reverse=True)
    assert work.microbatch == pytest.approx(sum(units[:4]))
    assert work.inference == pytest.approx(sum(units))  # of the reference, all units once
    assert (work.rows, work.reference) == (0, False)


def test_shape_is_the_models() -> None:
    """A model of the table's own architecture, described by numbers: the same counts as its config."""
    spec = "tiny:llama?seed=1&hidden=64&layers=3"
    true = size_of(spec, ModelOptions())
    told = read_shape(f"hidden=64,layers=3,heads=4,kv_heads=2,intermediate=128,vocab={true.vocab}")
    for name in ("parameters", "body", "head", "ports", "cache", "linear", "largest", "sides"):
        assert getattr(told, name) == getattr(true, name), name


@pytest.mark.parametrize("spec", ["tiny:qwen3_moe?seed=1", "tiny:llava?seed=1"])
def test_frozen_bytes_are_those_of_the_model(spec: str, proofs: None) -> None:
    """Matrices in bfloat16, the rest in float32: what a frozen copy really has."""
    size = size_of(spec, ModelOptions())
    model = load_model(spec, ModelOptions(precision="bf16")).model
    assert size.parameters == sum(p.numel() for p in model.module.parameters())
    real = sum(p.numel() * p.element_size() for p in model.frozen_copy().module.parameters())
    assert real == frozen_model(size, 2)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", "recipes/tiny_grpo.yaml", FP32]
    out = tmp_path / "plan.json"
    assert main([*plan, "--json", str(out), "--memory", "8GB"]) == 0
    said = json.loads(out.read_text())
    assert said["fits"]
    assert said["memory"]["phases"][said["memory"]["worst"]] == said["memory"]["peak"]
    assert main([*plan, "--memory", "much"]) == 2
    assert main([*plan, "--shape", "hidden=8"]) == 2
    assert main([*plan, "--measure", "--ranks", "2"]) == 2
    assert main(["plan", "no-such.yaml"]) == 2
    capsys.readouterr()
    big = "hidden=8192,layers=80,heads=64,kv_heads=8,intermediate=28672,vocab=128256"
    assert main([*plan, "--shape", big, "--memory", "80GB", "--lang", "zh", "--json", str(out)]) == 1
    assert WORDS["zh"]["changes"] in capsys.readouterr().out
    assert json.loads(out.read_text())["memory"]["phases"]["training"] > 1120e9


def test_pipelines_and_strangers_are_refused() -> None:
    with pytest.raises(ConfigError, match="pipeline"):
        recipe_of(Path("recipes/quickstart.yaml"), [], "")
    with pytest.raises(UserError):
        recipe_of(Path("recipes/tiny_eval.yaml"), [], "")


def test_words_are_there_in_both_languages() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()


@pytest.mark.stages
@pytest.mark.parametrize(("recipe", "verb"), [("recipes/tiny_grpo.yaml", "rl"), ("recipes/tiny_reward.yaml", "reward")])
def test_probe_counts_what_the_formulas_count(recipe: str, verb: str, tmp_path: Path, proofs: None) -> None:
    """Shapes and parameters, which do not hang on the process that the tests run in."""
    asked = read(Path(recipe), [FP32], verb, None)
    found = probe(verb, asked.recipe, tmp_path)
    work = work_of(asked)
    heads = asked.size.hidden - asked.size.head if verb == "reward" else 0  # a score head in place of the other one
    assert found.trained == asked.size.parameters + heads
    assert found.microbatch == pytest.approx(work.microbatch, rel=0.5)  # lengths are told from bytes
    assert found.scored == (4 * 8 * 12 if verb == "rl" else found.scored)
    assert found.rows == work.rows
    assert min(found.loading, found.scoring, found.training) > 0
    assert memory(replace(work, microbatch=2 * work.microbatch)).of("training") > memory(work).of("training")


def test_the_recipes_own_ranks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a plan is made for GPUs that are not here."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file = tmp_path / "plan.json"
    shape = "hidden=8192,layers=80,heads=64,kv_heads=8,intermediate=28672,vocab=128256"
    asked = ["plan", "recipes/tiny_sft.yaml", "--verb", "sft", "--shape", shape, "--memory", "80GB", "--json", str(file)]
    cluster = ["cluster.ranks=64", "cluster.gather=bf16", "cluster.offload=true"]
    assert main([*asked, "model_options.device=cuda", *cluster]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))["work"]
    assert found["ranks"] == 64
    assert found["beside_the_gpu"] == pytest.approx(16 * 70_553_706_496 / 64)
    assert main([*asked, "model_options.device=cuda", "--ranks", "8", *cluster[:1]]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["work"]["ranks"] == 8
    assert found["fit"]["settings"] == cluster[1:], "what it takes on so few"
