"""`keel export` and `keel release`: what goes out is what was trained, one goes out, one is kept in, and another model's numbers count for
nothing."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from keel.cli import main
from keel.core.errors import ModelError, UserError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.release.source import find_source
from keel.runs.fingerprints import model_fingerprint
from keel.verbs.export.run import run_export
from keel.verbs.release.run import run_release

Finished = Callable[[str], Path]
TEXTS = "recipes/quickstart/unrelated_text.jsonl"
QUANTISED: dict[str, Any] = {"kind": "quantisation", "way": "int8", "texts": TEXTS, "limit": 12, "at_most": 0.02}


@pytest.fixture(autouse=True)
def _in_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture
def gates(tmp_path: Path) -> Callable[..., str]:
    """``gates(gate, ..., export={})``: a file of gates."""

    def write(*rows: dict[str, Any], **more: Any) -> str:
        path = tmp_path / "gates.yaml"
        path.write_text(yaml.safe_dump({"gates": list(rows), **more}), encoding="utf-8")
        return str(path)

    return write


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------------------- export


def test_all_bits_are_the_files_themselves(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m"
    assert main(["export", str(finished("sft")), "--to", "merged", "--out", str(out)]) == 0
    assert "KL to the original 0 nats" in capsys.readouterr().out
    assert (
        model_fingerprint(out)
        == model_fingerprint(finished("sft") / "final")
        == yaml.safe_load((out / "export.yaml").read_text())["fingerprint"]
    )
    assert "tiny:llama?seed=1" in (out / "README.md").read_text(encoding="utf-8")


def test_sixteen_bits_cost_what_is_printed(finished: Finished, tmp_path: Path) -> None:
    found = run_export(str(finished("sft")), str(tmp_path / "m"), overrides=["to=merged", "dtype=bf16"])
    assert 0 < found["kl"] < 1e-3
    assert found["fingerprint"] != found["source_fingerprint"]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert theirs.dtype == torch.bfloat16
    own = load_model(str(finished("sft") / "final"), ModelOptions(precision="fp32")).model.weights()
    assert all(torch.equal(p, own[name].bfloat16()) for name, p in theirs.named_parameters())
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template
    assert (tmp_path / "m" / "generation_config.json").is_file()


def test_a_gguf_file_is_the_model(finished: Finished, tmp_path: Path) -> None:
    found = run_export(str(finished("sft")), str(tmp_path / "g"), overrides=["to=gguf"])
    assert (found["kl"], found["logprob_difference"], found["same_ids"]) == (0.0, 0.0, True)
    small = run_export(str(finished("sft")), str(tmp_path / "q"), overrides=["to=gguf", "quant=q8_0"])
    assert 0 < small["kl"] < 1e-3
    assert (tmp_path / "q/model.gguf").stat().st_size < 0.4 * (tmp_path / "g/model.gguf").stat().st_size


def test_an_adapter_is_put_on_its_base_again(stage: Callable[..., Any], tmp_path: Path) -> None:
    stage("sft", tmp_path / "lora", "lora={r: 4}")
    found = run_export(str(tmp_path / "lora"), str(tmp_path / "a"), overrides=["to=adapter"])
    assert found["logprob_difference"] < 1e-2
    assert found["base"] == "tiny:llama?seed=1"
    manifest = read(tmp_path / "lora/manifest.json")
    manifest["model"]["spec"] = "tiny:llama?seed=2&std=0.2"
    (tmp_path / "lora/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="nats from"):
        run_export(str(tmp_path / "lora"), str(tmp_path / "b"), overrides=["to=adapter"])
    assert not (tmp_path / "b").exists()


def test_a_reward_model_goes_out_merged_alone(finished: Finished, tmp_path: Path) -> None:
    found = run_export(str(finished("reward")), str(tmp_path / "r"), overrides=["to=merged", "dtype=bf16"])
    assert 0 < found["score_difference"] < 0.2
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "r").config.num_labels == 1
    with pytest.raises(ModelError, match="reward model: its head has no place in gguf"):
        run_export(str(finished("reward")), str(tmp_path / "g"), overrides=["to=gguf"])


def test_what_cannot_be_exported_is_told(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for given, told in (
        ([str(tmp_path / "no"), "--to", "merged"], "is no folder"),
        ([str(tmp_path), "--to", "merged"], "neither a run nor a model"),
        ([str(finished("sft")), "--to", "adapter"], "its training changed all weights"),
        ([str(finished("sft")), "--to", "gguf", "--dtype", "bf16"], "dtype would have no effect"),
        ([str(finished("sft")), "--to", "merged", "--out", str(tmp_path / "full")], "holds something already"),
    ):
        assert main(["export", *given]) == 2
        assert told in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == ["mine.txt"]
    assert not list((finished("sft") / "export").glob("*adapter*"))


def test_an_unfinished_run_is_refused(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished("sft"), tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        find_source(str(tmp_path / "run"))


# ------------------------------------------------------------------------------------------------------------------------ release


def test_one_goes_out(finished: Finished, tmp_path: Path, gates: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    refusal = {"kind": "refusal", "prompts": "recipes/gates/harmless.jsonl", "max_tokens": 4, "at_most": 0.3}
    length = {"kind": "length", "prompts": "recipes/gates/harmless.jsonl", "limit": 12, "max_tokens": 4, "at_least": 1}
    file = gates(QUANTISED, {"kind": "retention", "texts": TEXTS, "at_most": 0.5}, refusal, length)
    assert main(["release", str(finished("sft")), "--gates", file, "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["released"] is True
    assert model_fingerprint(out / "model") == summary["fingerprint"] == model_fingerprint(finished("sft") / "final")
    record = read(out / "gates.json")
    assert {name: g["state"] for name, g in record["gates"].items()} == dict.fromkeys(
        ("quantisation", "retention", "refusal", "length"), "pass"
    )
    quantised = record["gates"]["quantisation"]
    assert quantised["value"]["low"] <= quantised["value"]["mean"] <= quantised["value"]["high"] <= 0.02
    assert quantised["facts"]["nll_after"] / quantised["facts"]["nll_before"] - 1 == pytest.approx(quantised["value"]["mean"])
    assert record["gates"]["retention"]["facts"]["baseline"] == "tiny:llama?seed=1"
    assert "Every gate passed" in (out / "release.html").read_text(encoding="utf-8")
    assert "所有关卡都已通过" in (out / "release.zh.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "gates.json", "model", "release.html", "release.zh.html"]
    assert main(["release", str(finished("sft")), "--gates", file, "--out", str(out)]) == 2
    assert "holds a released model already" in capsys.readouterr().err


def test_one_is_kept_in_until_somebody_signs(finished: Finished, tmp_path: Path, gates: Callable[..., str]) -> None:
    out, sign = tmp_path / "out", tmp_path / "sign.yaml"
    signed = {"kind": "sign_off", "path": str(sign)}
    forgot = {"kind": "quantisation", "name": "too strict", "way": "int4", "texts": TEXTS, "limit": 12, "at_most": -0.5}
    first = run_release(str(finished("sft")), gates(signed, forgot), str(out))
    assert (first["released"], first["verdict"], first["gates"]) == (False, "fail", {"sign_off": "cannot_tell", "too strict": "fail"})
    assert not (out / "model").exists()
    assert not list(out.glob(".*")), "nothing that was tried is left"
    second = run_release(str(finished("sft")), gates(signed), str(out))
    assert (second["released"], second["verdict"]) == (False, "cannot_tell")
    sign.write_text(f"{{name: A. Reader, date: 2026-11-30, model: '{second['fingerprint']}', decision: approve}}", encoding="utf-8")
    third = run_release(str(finished("sft")), gates(signed), str(out))
    assert third["released"]
    assert [row["verdict"] for row in read(out / "gates.json")["before"]] == ["fail", "cannot_tell"]


def test_what_goes_out_is_held_against_what_it_was_made_from(finished: Finished, tmp_path: Path, gates: Callable[..., str]) -> None:
    """A file of fewer bits, measured against itself, would have lost nothing."""
    said: dict[str, Any] = {}
    for export in ({"to": "merged"}, {"to": "gguf", "quant": "q8_0"}):
        out = tmp_path / export["to"]
        assert run_release(str(finished("sft")), gates({**QUANTISED, "way": "released"}, export=export), str(out))["released"]
        said[export["to"]] = read(out / "gates.json")["gates"]["quantisation"]["value"]
    assert (said["merged"]["low"], said["merged"]["high"]) == (0.0, 0.0)
    assert said["gguf"]["mean"] != 0.0


def test_a_refused_release_ends_with_1(
    finished: Finished, tmp_path: Path, gates: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    few = {**QUANTISED, "limit": 4}
    assert main(["release", str(finished("sft")), "--gates", gates(few), "--out", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "Cannot tell yet" in out
    assert "about 6 more texts would decide" in out


def test_another_model_s_evaluation_counts_for_nothing(finished: Finished, tmp_path: Path, gates: Callable[..., str]) -> None:
    """The evaluation measured the model that the recipe names; a run that was trained anew is another model."""
    recipe = tmp_path / "eval.yaml"
    final = finished("sft") / "final"
    recipe.write_text(
        yaml.safe_dump(
            {
                "model": str(final),
                "baseline": "tiny:llama?seed=1",
                "model_options": {"precision": "fp32"},
                "rewards": [{"type": "finished", "name": "finished"}],
                "evaluate": {
                    "prompts": ["recipes/tiny/prompts.jsonl"],
                    "limit": 12,
                    "samples": 1,
                    "max_tokens": 4,
                    "draws": 200,
                },
            }
        )
    )
    assert main(["eval", str(recipe), f"run_dir={tmp_path / 'eval'}"]) == 0
    gate = {"kind": "number", "path": str(tmp_path / "eval"), "field": "win_rate_rules.finished", "at_least": 0.1}
    assert run_release(str(finished("sft")), gates(gate), str(tmp_path / "own"))["released"]
    other = run_release(str(finished("dpo")), gates(gate), str(tmp_path / "other"))
    assert other["gates"] == {"number": "cannot_tell"}
    assert "measured another model" in (tmp_path / "other/release.html").read_text(encoding="utf-8")


def test_a_reward_model_in_8_bits(finished: Finished, tmp_path: Path, gates: Callable[..., str]) -> None:
    gate = {"kind": "reward_quantisation", "pairs": "recipes/tiny/pairs.jsonl", "at_most": 0.2}
    assert run_release(str(finished("reward")), gates(gate), str(tmp_path / "out"))["released"]
    facts = read(tmp_path / "out/gates.json")["gates"]["reward_quantisation"]["facts"]
    assert facts["pairs"] == 40
    assert run_release(str(finished("sft")), gates(gate), str(tmp_path / "no"))["gates"] == {"reward_quantisation": "cannot_tell"}


@pytest.mark.slow
def test_speed_and_memory_are_of_this_machine(finished: Finished, tmp_path: Path, gates: Callable[..., str]) -> None:
    rows = {"kind": "speed", "at_least": 1e-3, "repeats": 6, "tokens": 4}, {"kind": "memory", "at_most": 1.0, "tokens": 4}
    found = run_release(str(finished("sft")), gates(*rows), str(tmp_path / "out"))
    assert found["gates"] == {"speed": "pass", "memory": "fail"}
    record = read(tmp_path / "out/gates.json")["gates"]
    assert record["speed"]["value"]["n"] == 6
    assert record["speed"]["facts"]["machine"]["model"]
    assert record["memory"]["value"]["mean"] > 50


def test_a_pipeline_s_last_policy_goes_out(finished: Finished, tmp_path: Path) -> None:
    for name in ("sft", "reward"):
        shutil.copytree(finished(name), tmp_path / "stages" / name, ignore=shutil.ignore_patterns("checkpoints"))
    assert find_source(str(tmp_path)).name == "sft"
    assert find_source(str(tmp_path / "stages/sft/final")).run == tmp_path / "stages/sft"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "query"), [("llama", "std=0.15"), ("qwen2", "std=0.15"), ("qwen3", "std=0.05&hidden=512"), ("mistral", "std=0.15&window=4096")]
)
def test_llama_cpp_reads_the_same_model(arch: str, query: str, load: Callable[..., Any], tmp_path: Path) -> None:
    """Ids, template, log-probabilities within 0.01 nats in float32; in 8 bits near."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the bindings of llama.cpp are not installed: pip install 'keel-align[llamacpp]'")
    own = load(arch, query)
    own.model.save(tmp_path / "model", own.tokenizer)
    for quant, most in (("f32", 0.01), ("q8_0", 0.3)):
        found = run_export(str(tmp_path / "model"), str(tmp_path / quant), overrides=["to=gguf", f"quant={quant}"])["llama_cpp"]
        assert found["same_ids"]
        assert found["same_template"]
        assert found["logprob_difference"] < most
        assert found["compared"] > 500
