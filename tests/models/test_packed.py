"""Packed rows with shared prompts = padded rows = each sequence by itself in plain transformers: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from keel.kernels import attention as packed_module
from keel.kernels.attention import AttentionOptions, PackedPlan, attention, keel_attention
from keel.kernels.logprobs import token_logprobs
from keel.kernels.tiles import Head
from keel.learner.packing import pack
from keel.models import prove
from keel.models.config import LoraConfig
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.types import Branch, Encoded, Layout, MediaRef, Unit

ARCHS = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "granite", "cohere", "qwen3_moe", "gpt_neox", "llava", "idefics3"]
LENGTHS = ((21, (5, 18, 3)), (7, (24,)), (9, (6, 6)), (4, ()))  # beyond the window of 16; one branch, equal branches, none


def random_tokens(n: int, seed: int) -> torch.Tensor:
    return torch.randint(10, 500, (n,), generator=torch.Generator().manual_seed(seed))


def make_units(loaded) -> list[Unit]:
    units = []
    for u, (prompt, branches) in enumerate(LENGTHS):
        media: tuple[MediaRef, ...] = ()
        tokens = random_tokens(prompt, u)
        if loaded.processor is not None and u < 2:
            tokens, media = with_image(loaded, tokens, u)
        parts = []
        for b, length in enumerate(branches):
            trained = torch.ones(length, dtype=torch.bool)
            trained[1::3] = False
            weight = torch.randn(length, generator=torch.Generator().manual_seed(100 * u + b))
            parts.append(Branch(random_tokens(length, 10 * u + b + 50), trained, {"weight": weight}))
        units.append(Unit(f"u{u}", Encoded(tokens, media), tuple(parts)))
    return units


def with_image(loaded, tokens: torch.Tensor, seed: int) -> tuple[torch.Tensor, tuple[MediaRef, ...]]:
    pixels = np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    features = loaded.processor.image_processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    loaded.model.media.put(f"image{seed}", {k: v for k, v in features.items() if isinstance(v, torch.Tensor)})
    placeholder = torch.full((4,), loaded.model.config.image_token_id)
    return torch.cat([tokens[:2], placeholder, tokens[2:]]), (MediaRef(f"image{seed}", 4),)


def gradient(model: Model) -> torch.Tensor:
    grads = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for _, p in model.trainable()]
    model.module.zero_grad()
    return torch.cat(grads)


def by_batch(model: Model, units: list[Unit]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = pack(units)
    hidden = model.hidden(batch)[batch.source_S]
    logp, _ = token_logprobs(hidden, Head(model.head_weight_VH, model.head_bias_V, model.transform), batch.target_S)
    (logp * batch.signals["weight"]).sum().backward()
    return logp.detach(), gradient(model)


def by_transformers(model: Model, units: list[Unit]) -> tuple[torch.Tensor, torch.Tensor]:
    """One row for each branch through the module itself."""
    out = []
    for unit in units:
        prompt = unit.prompt.tokens_T
        for branch in unit.branches:
            found = [model.media.get(ref.digest) for ref in unit.prompt.media]  # one image at most
            pixels = found[0] if found else {}
            with model.own_attention() as module:
                logits = module(input_ids=torch.cat([prompt, branch.tokens_T])[None], use_cache=False, **pixels).logits[0]
            banned = torch.tensor(model.transform.banned, dtype=torch.long)
            logp = logits.index_fill(1, banned, float("-inf")).log_softmax(-1)[len(prompt) - 1 : -1]
            chosen = logp.gather(1, branch.tokens_T[:, None])[:, 0][branch.trained_T]
            (chosen * branch.signals["weight"][branch.trained_T]).sum().backward()
            out.append(chosen.detach())
    return torch.cat(out), gradient(model)


@pytest.mark.parametrize("arch", ARCHS)
def test_packed_equals_padded_equals_separate(load, arch: str) -> None:
    loaded = load(arch)
    model, units = loaded.model, make_units(loaded)
    expected, expected_grad = by_transformers(model, units)
    for fast in (True, False):
        model.packed = fast
        values, grad = by_batch(model, units)
        assert prove.relative_error(values, expected) < 5e-6
        assert prove.relative_error(grad, expected_grad) < 5e-6


@pytest.mark.parametrize("arch", ["llama", "gemma3", "llava"])
def test_gradient_checkpointing_changes_nothing(load, arch: str) -> None:
    plain, checkpointed = load(arch), load(arch, gradient_checkpointing=True)
    (a, grad_a), (b, grad_b) = (by_batch(x.model, make_units(x)) for x in (plain, checkpointed))
    assert torch.equal(a, b)
    assert prove.relative_error(grad_b, grad_a) < 1e-6
    assert any(getattr(m, "gradient_checkpointing", False) and m.training for m in checkpointed.model.module.modules())


def test_long_prompts_are_attended_in_parts(load, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("llama")
    units = make_units(loaded)
    whole, grad = by_batch(loaded.model, units)
    monkeypatch.setattr(packed_module, "_PADDED_KEYS", 1)  # one branch a call
    parts, grad_parts = by_batch(loaded.model, units)
    assert prove.relative_error(parts, whole) < 1e-6
    assert prove.relative_error(grad_parts, grad) < 1e-6


def test_bf16_stays_near(load) -> None:
    model = load("llama").model
    units = make_units(load("llama"))
    exact, exact_grad = by_batch(model, units)
    model.compute_dtype = torch.bfloat16
    rounded, grad = by_batch(model, units)
    assert 1e-4 < prove.relative_error(rounded, exact) < 3e-2
    assert prove.relative_error(grad, exact_grad) < 5e-2
    assert grad.dtype == torch.float32


def test_attention_by_hand() -> None:
    """Two queries, scores 1*x; soft cap, window and a sink, written out."""
    q = torch.tensor([[[[1.0], [2.0]]]])
    k, v = torch.tensor([[[[1.0], [3.0]]]]), torch.tensor([[[[10.0], [20.0]]]])
    causal = torch.ones(2, 2, dtype=torch.bool).tril()
    e = np.exp
    plain = attention(q, k, v, causal, AttentionOptions(1.0))[0, 0, :, 0]
    assert plain.tolist() == pytest.approx([10.0, (10 * e(2) + 20 * e(6)) / (e(2) + e(6))])
    a, b = 2 * np.tanh(1.0), 2 * np.tanh(3.0)
    capped = attention(q, k, v, causal, AttentionOptions(1.0, softcap=2.0))[0, 0, 1, 0]
    assert capped.item() == pytest.approx((10 * e(a) + 20 * e(b)) / (e(a) + e(b)))
    sink = attention(q, k, v, causal, AttentionOptions(1.0, sinks_H=torch.tensor([0.5])))[0, 0, :, 0]
    assert sink.tolist() == pytest.approx([10 * e(1) / (e(1) + e(0.5)), (10 * e(2) + 20 * e(6)) / (e(2) + e(6) + e(0.5))])
    plan = PackedPlan([Layout(2)])
    windowed = plan.attend(0, q, k, v, AttentionOptions(1.0, sliding_window=1))[0, :, 0, 0]
    assert windowed.tolist() == [10.0, 20.0]


def seen(plan: PackedPlan, window: int | None = None) -> list[float]:
    """What tokens of the values 1, 2, 4, 8 ... get when every key weighs the same: a mean of what they see."""
    n = sum(sum(group.lengths) for group in plan.groups)
    value = (2.0 ** torch.arange(n)).view(1, 1, n, 1)
    zero = torch.zeros(1, 1, n, 1)
    return plan.attend(0, zero, zero, value, AttentionOptions(1.0, sliding_window=window))[0, :, 0, 0].tolist()


def test_spans_see_each_other_by_hand() -> None:
    """Prompt 1 2 4 8 whose tokens 1 and 2 are an image; branches behind it see all of it as before."""
    prompt = [1.0, 7 / 3, 7 / 3, 15 / 4]
    one, two = (Layout(4, branches, ((1, 3),)) for branches in ((1,), (1, 1)))
    assert seen(PackedPlan([one])) == pytest.approx([*prompt, 31 / 5])
    assert seen(PackedPlan([two])) == pytest.approx([*prompt, 31 / 5, (15 + 32) / 5])
    assert seen(PackedPlan([Layout(4, (), ((0, 4),))])) == pytest.approx([15 / 4] * 4)
    assert seen(PackedPlan([Layout(4, (1,))])) == pytest.approx([1.0, 3 / 2, 7 / 3, 15 / 4, 31 / 5])


def test_spans_reach_over_windows() -> None:
    """A window of one shows each token itself; the image's tokens see each other all the same."""
    assert seen(PackedPlan([Layout(4, (1,), ((1, 3),))]), window=1) == pytest.approx([1.0, 3.0, 3.0, 8.0, 16.0])


def test_units_with_and_without_spans_lie_in_one_row() -> None:
    row = seen(PackedPlan([Layout(2, (), ((0, 2),)), Layout(2)]))
    assert row == pytest.approx([3 / 2, 3 / 2, 4.0, 6.0])


def test_unknown_keywords_are_refused() -> None:
    q = torch.zeros(1, 1, 2, 4)
    module = torch.nn.Module()
    module.layer_idx = 0
    with pytest.raises(NotImplementedError, match="position_bias"):
        keel_attention(module, q, q, q, None, keel_plan=PackedPlan([Layout(2)]), position_bias=q)
    with pytest.raises(NotImplementedError):
        keel_attention(module, q, q, q, None)


# ------------------------------------------------------------------------------------------------------------------ proofs


@pytest.mark.parametrize(
    ("arch", "field", "query"),
    [
        ("gemma2", "softcap", "std=0.6"),
        ("mistral", "sliding_window", "std=0.6"),
        ("gemma3", "sliding_window", "std=0.6&window=300"),  # wider than the proof's sequences
    ],
)
def test_proof_sees_an_ignored_option_and_the_plain_path_takes_over(load, monkeypatch, caplog, arch: str, field: str, query: str) -> None:
    exact = load(arch, query)
    units = make_units(exact)
    expected, _ = by_transformers(exact.model, units)
    original = PackedPlan.attend

    def careless(self, layer, q, k, v, options):
        return original(
            self,
            layer,
            q,
            k,
            v,
            AttentionOptions(options.scaling, **{n: getattr(options, n) for n in ("softcap", "sliding_window") if n != field}),
        )

    monkeypatch.setattr(PackedPlan, "attend", careless)
    monkeypatch.setattr(prove, "_memory", {})
    prove._file().unlink()
    model = load(arch, query).model
    assert not model.packed
    assert "plain path" in caplog.text
    assert prove.relative_error(by_batch(model, units)[0], expected) < 5e-6


def test_proof_sees_an_ignored_logit_transform(load, monkeypatch) -> None:
    from keel.core.errors import ModelError
    from keel.kernels.logit_transform import LogitTransform
    from keel.models import loading

    monkeypatch.setattr(loading, "discover", lambda *_: LogitTransform())
    for arch in ("granite", "cohere", "gemma2"):
        with pytest.raises(ModelError, match="does more to its logits"):
            load(arch, "std=0.6")


def test_verdict_is_kept_in_the_cache_and_an_unwritable_one_does_no_harm(load, monkeypatch, tmp_path) -> None:
    load("llama")
    calls = []
    monkeypatch.setattr(prove, "_memory", {})
    monkeypatch.setattr(prove, "_measure", lambda *_: calls.append(1) or 0.0)
    load("llama")
    assert calls == []  # from the file
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(prove, "_memory", {})
    assert load("llama").model.packed
    assert len(calls) == 2


def test_verdicts_belong_to_the_weights(load, monkeypatch) -> None:
    """A feature whose parameters are zero in one model may be at work in another of the same config. Training asks for no new proof."""
    first = load("llama").model
    measured: list[str] = []
    monkeypatch.setattr(prove, "_measure", lambda model, name, check: measured.append(name) or 0.0)
    load("llama")
    load("llama", lora=LoraConfig(r=2))
    with torch.no_grad():
        for _, p in first.trainable():
            p.add_(0.1)
    assert prove.packed_path(first)
    assert measured == []
    load("llama", "std=0.15&seed=9")
    assert measured == ["logits", "packed rows with shared prompts"]


def test_fast_path_can_be_switched_off(load) -> None:
    assert not load("llama", fast_path="off").model.packed


# ------------------------------------------------------------------------------------------------------------------- media


def test_media_store() -> None:
    made: list[str] = []

    def maker(name: str):
        def make() -> dict[str, torch.Tensor]:
            made.append(name)
            return {"pixel_values": torch.full((1, 3, 2, 2), float(ord(name)))}

        return make

    store = MediaStore(max_bytes=2 * 48)
    for name in "abc":
        store.put(name, maker(name)(), maker(name))
        if name == "b":
            store.get("a")
    assert (len(store), store.held) == (2, 96), "b, the least recently used, is gone"
    made.clear()
    for name in "ba":
        assert name in store
        assert store.get(name)["pixel_values"][0, 0, 0, 0] == ord(name)
    assert made == ["b", "a"], "a went for b"
    assert store.remade == 2
    store.put("kept", {"pixel_values": torch.ones(1, 3, 2, 2)})  # cannot be made again
    for name in "abcabc":
        store.get(name)
        assert store.held <= 96
    assert store.get("kept")["pixel_values"][0, 0, 0, 0] == 1
    store.drop("a")
    assert "a" not in store
    with pytest.raises(ValueError, match="not in the media store"):
        store.get("a")


def test_images_reach_the_answer(load) -> None:
    loaded = load("llava")
    unit = make_units(loaded)[0]
    before = by_batch(loaded.model, [unit])[0]
    features = loaded.model.media.get("image0")
    loaded.model.media.put("image0", {k: -v for k, v in features.items()})
    assert not torch.allclose(before, by_batch(loaded.model, [unit])[0])
