"""Adapters, saving, reloading in plain transformers and PEFT, heads."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from peft.tuners.lora import LoraLayer

from keel.core.errors import ModelError
from keel.kernels.attention import PackedPlan
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models import lora
from keel.models.config import LoraConfig
from keel.models.model import Model
from keel.types import Branch, Encoded, Layout, Unit

TOKENS = torch.tensor([[2, 40, 41, 300, 17, 9, 88, 3]])


def logits(model: Model) -> torch.Tensor:
    n = TOKENS.shape[1]
    with torch.no_grad():
        return model.logits(model.run(TOKENS, torch.arange(n)[None], PackedPlan([Layout(n)]))[0])


def perturb(model: Model) -> None:
    """As if trained: every trained parameter moves."""
    with torch.no_grad():
        for i, (_, p) in enumerate(model.trainable()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2", "qwen3_moe", "granite", "cohere", "gpt_neox", "llava", "idefics3"])
def test_saved_model_equals_in_plain_transformers(load, tmp_path, arch: str) -> None:
    loaded = load(arch)
    perturb(loaded.model)
    loaded.model.save(tmp_path, loaded.tokenizer, loaded.processor)
    auto = transformers.AutoModelForImageTextToText if loaded.processor else transformers.AutoModelForCausalLM
    again = auto.from_pretrained(tmp_path, attn_implementation="eager")  # others leave out soft caps in some versions
    own = again(input_ids=TOKENS).logits[0]
    mine = logits(loaded.model)
    kept = torch.isfinite(mine[0])
    assert ((mine - own)[:, kept].norm() / own.norm()).item() < 5e-6
    config = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in config
    assert next(again.parameters()).dtype == torch.float32
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == loaded.tokenizer.chat_template
    reloaded = load(str(tmp_path))
    assert (reloaded.processor is not None) == (loaded.processor is not None)
    torch.testing.assert_close(logits(reloaded.model), mine, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 4), (True, 8 / 4**0.5)])
def test_adapters_count_alpha_over_the_rank_or_its_root(load, rslora: bool, scale: float) -> None:
    """The change of a weight is ``scale * B A`` (Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732)."""
    model = load("llama", lora=LoraConfig(r=4, alpha=8, rslora=rslora)).model
    perturb(model)
    layer = next(m for m in model.module.modules() if isinstance(m, LoraLayer) and m.lora_A)
    expected = scale * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer.get_delta_weight("default"), expected)


def test_each_merged_weight_is_rounded_by_draws_of_its_own(load, monkeypatch) -> None:
    model, seeds = load("llama", lora=LoraConfig(r=4)).model, []
    monkeypatch.setattr(lora, "round_unbiased", lambda value, seed: seeds.append(seed) or value)
    lora.merged_state(model.module, torch.bfloat16)
    assert len(seeds) == len(set(seeds)) > 7
    lora.merged_state(model.module)
    assert len(seeds) == len(set(seeds)), "what is saved in float32 is not rounded"


@pytest.mark.parametrize("arch", ["llama", "qwen3_moe", "llava"])
def test_lora_off_is_the_base_and_merged_is_the_adapted(load, tmp_path, arch: str) -> None:
    base = logits(load(arch).model)
    loaded = load(arch, lora=LoraConfig(r=4, alpha=8))
    assert {n.rsplit(".", 3)[1] for n, _ in loaded.model.trainable()} == {"lora_A", "lora_B"}
    perturb(loaded.model)
    adapted = logits(loaded.model)
    with loaded.model.as_reference() as reference:
        assert torch.equal(logits(reference), base)
    kept = torch.isfinite(base[0])
    assert ((adapted - base)[:, kept].norm() / base[:, kept].norm()).item() > 0.1
    loaded.model.save(tmp_path / "merged", loaded.tokenizer, loaded.processor)
    merged = logits(load(str(tmp_path / "merged")).model)
    assert ((merged - adapted)[:, kept].norm() / adapted[:, kept].norm()).item() < 5e-6


def test_adapter_loads_in_peft(load, tmp_path) -> None:
    loaded = load("llama", lora=LoraConfig(r=4, rslora=True))
    perturb(loaded.model)
    loaded.model.save_adapter(tmp_path)
    base = load("llama").model
    with base.own_attention() as module:
        again = peft.PeftModel.from_pretrained(module, str(tmp_path))
        own = again(input_ids=TOKENS).logits[0]
    torch.testing.assert_close(logits(loaded.model), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), Exception("No space left on device (os error 28)")])
@pytest.mark.parametrize("into", ["model", "adapter"])
def test_a_full_disk_while_saving_is_one_clear_error(load, tmp_path, monkeypatch, raised: Exception, into: str) -> None:
    """The tokenizers library raises Exception itself."""
    loaded = load("llama", lora=LoraConfig(r=2))

    def full(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(type(loaded.tokenizer), "save_pretrained", full)
    monkeypatch.setattr(peft.PeftModel, "save_pretrained", full)
    with pytest.raises(ModelError, match=r"cannot be written.*No space left") as error:
        loaded.model.save(tmp_path, loaded.tokenizer, None) if into == "model" else loaded.model.save_adapter(tmp_path)
    assert str(tmp_path) in error.value.message


def test_adapters_of_gpt2(load, tmp_path) -> None:
    """Its layers are no nn.Linear, and their weights are transposed."""
    tokenizer = load("llama").tokenizer
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.2}
    config = transformers.GPT2Config(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=3, **sizes)
    base = transformers.GPT2LMHeadModel(config).eval()
    for part in (base, tokenizer):
        part.save_pretrained(tmp_path / "base")
    loaded = load(str(tmp_path / "base"), lora=LoraConfig(r=4))
    assert len(loaded.model.trainable()) == 2 * 2 * 4  # A and B, 2 layers, attention in and out, mlp in and out
    perturb(loaded.model)
    mine = logits(loaded.model)
    assert (mine - base(input_ids=TOKENS).logits[0]).norm() > 0.1 * mine.norm()
    loaded.model.save(tmp_path / "merged", loaded.tokenizer, None)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(mine, merged(input_ids=TOKENS).logits[0], rtol=1e-4, atol=1e-5)
    loaded.model.save_adapter(tmp_path / "adapter")
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(mine, adapted(input_ids=TOKENS).logits[0], rtol=1e-4, atol=1e-5)


def test_lora_targets(load) -> None:
    names = [n for n, _ in load("llama", lora=LoraConfig(r=2)).model.trainable()]
    assert len(names) == 2 * 2 * 7  # A and B, 2 layers, q k v o gate up down
    last = [n for n, _ in load("llama", lora=LoraConfig(r=2, layers=1, targets=("q_proj", "v_proj"))).model.trainable()]
    assert len(last) == 4
    assert all(".layers.1." in n for n in last)
    by_pattern = load("llama", lora=LoraConfig(r=2, targets=r".*layers\.0\.mlp\..*")).model.trainable()
    assert len(by_pattern) == 6
    vision = [n for n, _ in load("llava", lora=LoraConfig(r=2)).model.trainable()]
    assert not any("vision" in n or "lm_head" in n for n in vision)


def test_lora_refusals(load) -> None:
    with pytest.raises(ModelError, match="matches no linear"):
        load("llama", lora=LoraConfig(targets=("nothing",)))
    with pytest.raises(ModelError, match="tied"):
        load("qwen2", lora=LoraConfig(targets=("lm_head",)))
    assert load("llama", lora=LoraConfig(targets=("lm_head",))).model.trainable()  # untied: fine
    with (
        pytest.raises(ModelError, match="without LoRA"),
        load("llama").model.as_reference(),
    ):
        pass
    with pytest.raises(ModelError, match="no adapter"):
        load("llama").model.save_adapter("nowhere")


def test_frozen_copy_stays_while_the_model_moves(load) -> None:
    model = load("qwen2").model
    copy = model.frozen_copy()
    before = logits(copy)
    assert torch.equal(before, logits(model))
    assert copy.trainable() == []
    perturb(model)
    assert torch.equal(before, logits(copy))
    assert copy.media is model.media


def test_frozen_copy_in_bf16_changes_no_result(load) -> None:
    model = load("llama").model
    model.compute_dtype = torch.bfloat16
    copy = model.frozen_copy()
    assert copy.module.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(logits(copy), logits(model))


def test_a_frozen_model_keeps_its_linear_weights_in_bf16_and_gives_the_same_results(load) -> None:
    model = load("llama").model
    model.compute_dtype = torch.bfloat16
    model.members = (load("llama").model,)
    model.members[0].compute_dtype = torch.bfloat16
    before = logits(model)
    assert model.freeze() is model
    assert torch.equal(logits(model), before)
    for each in (model, *model.members):
        assert each.trainable() == []
        assert each.module.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_digest_changes_with_the_weights(load) -> None:
    model = load("llama").model
    before = model.digest()
    assert before == load("llama").model.digest()
    with torch.no_grad():
        model.trainable()[-1][1].view(-1)[0].add_(1e-3)
    assert model.digest() != before


def test_state_tensors_round_trip(load) -> None:
    model, other = load("llama").model, load("llama", query="std=0.15&seed=8").model
    other.load_state_tensors(model.state_tensors())
    assert other.digest() == model.digest()
    with pytest.raises(ModelError, match="do not fit"):
        load("llama", query="hidden=32").model.load_state_tensors(model.state_tensors())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma3"])
def test_score_head_reloads_as_sequence_classifier(load, tmp_path, arch: str) -> None:
    loaded = load(arch, heads=frozenset({"score"}))
    loaded.tokenizer.pad_token = loaded.tokenizer.eos_token  # as SmolLM2 has it: the last token would be taken for padding
    perturb(loaded.model)
    rows = [torch.tensor([2, 40, 41, 300, 3]), torch.tensor([2, 9, 3])]
    with torch.no_grad():
        plan = PackedPlan([Layout(5), Layout(3)])
        hidden = loaded.model.run(torch.cat(rows)[None], torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]]), plan)[0]
        scores = hidden[[4, 7]] @ loaded.model.score_head.weight[0]
    loaded.model.save(tmp_path, loaded.tokenizer)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    pad = transformers.AutoTokenizer.from_pretrained(tmp_path).pad_token_id
    assert pad == plain.config.pad_token_id != 3
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    with torch.no_grad():
        own = plain(input_ids=padded, attention_mask=(padded != pad).long()).logits[:, 0]
    torch.testing.assert_close(scores, own, rtol=1e-5, atol=1e-5)
    again = load(str(tmp_path), heads=frozenset({"score"}))
    assert torch.equal(again.model.score_head.weight, loaded.model.score_head.weight)


@pytest.mark.parametrize(("arch", "head"), [("llama", "value"), ("llava", "score")])
def test_other_heads_are_saved_beside_the_model(load, tmp_path, arch: str, head: str) -> None:
    loaded = load(arch, heads=frozenset({head}))
    perturb(loaded.model)
    loaded.model.save(tmp_path, loaded.tokenizer, loaded.processor)
    again = load(str(tmp_path), heads=frozenset({head}))
    for key, value in loaded.model.heads[head].state_dict().items():
        assert torch.equal(again.model.heads[head].state_dict()[key], value)


def test_added_tokens_get_the_mean_and_are_trained_with_lora(load, tmp_path) -> None:
    loaded = load("llama")
    loaded.tokenizer.add_tokens(["<new>"])
    loaded.model.save(tmp_path, loaded.tokenizer)
    grown = load(str(tmp_path)).model
    table = grown.module.get_input_embeddings().weight
    assert table.shape[0] == len(loaded.tokenizer) == loaded.model.head_weight_VH.shape[0] + 1
    torch.testing.assert_close(table[-1], table[:-1].mean(0))
    torch.testing.assert_close(grown.head_weight_VH[-1], grown.head_weight_VH[:-1].mean(0))
    adapted = load(str(tmp_path), lora=LoraConfig(r=2))
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= {n for n, _ in adapted.model.trainable()}
    n = len(loaded.tokenizer) - 1
    tokens, plan = torch.tensor([[2, n, 40, n]]), PackedPlan([Layout(4)])

    def out(model: Model) -> torch.Tensor:
        with torch.no_grad():
            return model.logits(model.run(tokens, torch.arange(4)[None], plan)[0])

    old = out(adapted.model)
    hidden = adapted.model.run(tokens, torch.arange(4)[None], plan)[0]
    adapted.model.logits(hidden).square().sum().backward()
    tables = {n: p for n, p in adapted.model.trainable() if "lora" not in n}
    for p in tables.values():
        assert p.grad[:-1].abs().sum() == 0 < p.grad[-1].abs().sum()
    perturb(adapted.model)
    assert not torch.allclose(out(adapted.model), old)
    adapted.model.save(tmp_path / "merged", adapted.tokenizer)
    torch.testing.assert_close(out(load(str(tmp_path / "merged")).model), out(adapted.model), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "qwen2"])  # head of its own, tied head
def test_the_reference_has_the_rows_that_training_started_from(load, tmp_path, arch: str) -> None:
    """Rows of added tokens are trained beside the adapters; the reference is the start all the same, bit for bit."""
    loaded = load(arch)
    loaded.tokenizer.add_tokens(["<new>", "<newer>"])
    loaded.model.save(tmp_path, loaded.tokenizer)
    model = load(str(tmp_path), lora=LoraConfig(r=2)).model
    n = len(loaded.tokenizer)
    unit = Unit("u", Encoded(torch.tensor([2, n - 1, 40])), (Branch(torch.tensor([n - 2, 50, n - 1]), torch.ones(3, dtype=torch.bool)),))
    learner = LocalLearner(model, OptimConfig(lr=1e-2, warmup_steps=0), BatchConfig(), 10, 0)
    start = learner.logprobs([unit])[0][0]
    for _ in range(3):
        learner.forward_backward([unit], SupervisedObjective())
        learner.step()
    trained, digest = learner.logprobs([unit])[0][0], model.digest()
    assert not torch.allclose(trained, start, atol=0.05)
    with model.as_reference():
        assert torch.equal(learner.logprobs([unit])[0][0], start)
    assert model.digest() == digest
    assert torch.equal(learner.logprobs([unit])[0][0], trained)
