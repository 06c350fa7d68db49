"""A GGUF file holds the model that it was written from: weights, ids, template; and what it cannot hold is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from keel.core.errors import ModelError
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.release.config import ExportConfig
from keel.release.export import export
from keel.release.gguf.architectures import architecture_of
from keel.release.gguf.vocabulary import vocabulary_of
from keel.release.gguf.write import write_gguf
from keel.release.source import find_source

Load = Callable[..., Any]
TEXTS = ["Hello 12345, don't", "您好，感谢 2024年", "a\n\n  b\t<|im_start|>user\nHi<|im_end|>\n"]


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_read_again_it_is_the_same_model(arch: str, load: Load, tmp_path: Path) -> None:
    own = load(arch)
    own.model.stop_tokens = (3, 4)
    own.model.save(tmp_path / "final", own.tokenizer)
    write_gguf(tmp_path / "final", tmp_path / "m.gguf", facts={"source_fingerprint": "abc"})
    again = load_model(str(tmp_path / "m.gguf"), ModelOptions(precision="fp32", device="cpu"))
    before, after = own.model.weights(), again.model.weights()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert [again.tokenizer(t)["input_ids"] for t in TEXTS] == [own.tokenizer(t)["input_ids"] for t in TEXTS]
    assert again.tokenizer.chat_template == own.tokenizer.chat_template
    fields = {name: f.contents() for name, f in gguf.GGUFReader(str(tmp_path / "m.gguf")).fields.items()}
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (3, 4)
    assert fields["tokenizer.ggml.add_bos_token"] is False, "this tokenizer puts nothing in front: a beginning would stand there twice"
    assert fields["keel.source_fingerprint"] == "abc"


@pytest.mark.parametrize(("quant", "size"), [("f16", 2), ("q8_0", 34 / 32)])
def test_fewer_bits(quant: Any, size: float, load: Load, tmp_path: Path) -> None:
    own = load("llama")
    own.model.save(tmp_path / "final", own.tokenizer)
    write_gguf(tmp_path / "final", tmp_path / "m.gguf", quant)
    tensors = gguf.GGUFReader(str(tmp_path / "m.gguf")).tensors
    assert {t.name: t.n_bytes for t in tensors}["token_embd.weight"] == 510 * 64 * size
    assert all(t.tensor_type.name == "F32" for t in tensors if "norm" in t.name)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (MistralConfig(sliding_window=16, max_position_embeddings=4096), "window of 16"),
        (Qwen2Config(use_sliding_window=True), "sliding window"),
        (Qwen3Config(head_dim=16), "heads have 16"),
        (LlamaConfig(attention_bias=True), "biases"),
        (LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "scaled .linear"),
    ],
)
def test_what_a_file_would_not_say_is_refused(config: Any, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        architecture_of(config)


def test_other_architectures_are_refused_before_anything_is_written(load: Load, tmp_path: Path) -> None:
    own = load("gemma2")
    own.model.save(tmp_path / "final", own.tokenizer)
    with pytest.raises(ModelError, match="'gemma2' is not among"):
        write_gguf(tmp_path / "final", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_they_are_refused_before_the_model_is_even_opened(load: Load, tmp_path: Path) -> None:
    own = load("gemma2")
    own.model.save(tmp_path / "final", own.tokenizer)

    def never(spec: str) -> Any:
        raise AssertionError(f"{spec} is opened")

    with pytest.raises(ModelError, match="'gemma2' is not among"):
        export(find_source(str(tmp_path / "final")), tmp_path / "out", ExportConfig(to="gguf"), never, never, ())
    assert not (tmp_path / "out").exists()


def wrapped(model: Any, pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    raw = Tokenizer(model)
    raw.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="b")


def test_tokenizers_of_other_kinds_are_refused() -> None:
    vocab = {"a": 0, "b": 1}
    bpe, bytes_ = tokenizer_models.BPE(vocab, []), pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert vocabulary_of(wrapped(bpe, bytes_), 4, ()).tokens == ("a", "b", "[PAD2]", "[PAD3]")
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
    assert vocabulary_of(wrapped(bpe, digits), 2, ()).split == "smollm"
    for model, split, told in [
        (tokenizer_models.BPE(vocab, [], byte_fallback=True), bytes_, "SentencePiece"),
        (tokenizer_models.WordLevel(vocab, unk_token="a"), bytes_, "WordLevel"),
        (bpe, pre_tokenizers.Whitespace(), "no name there: Whitespace"),
        (bpe, pre_tokenizers.ByteLevel(add_prefix_space=True), "no name there"),
    ]:
        with pytest.raises(ModelError, match=told):
            vocabulary_of(wrapped(model, split), 2, ())


def test_more_tokens_than_rows_are_refused() -> None:
    tokenizer = wrapped(tokenizer_models.BPE({"a": 0, "b": 1}, []), pre_tokenizers.ByteLevel(add_prefix_space=False))
    with pytest.raises(ModelError, match="2 tokens and the model 1 rows"):
        vocabulary_of(tokenizer, 1, ())


def test_a_reward_model_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "keel_heads.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="reward model or a critic"):
        write_gguf(tmp_path, tmp_path / "m.gguf")
