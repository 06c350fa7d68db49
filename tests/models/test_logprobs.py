"""Log-probabilities in tiles: against log_softmax in float64, gradients against autograd, memory against [S, V]."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keel.kernels import tiles
from keel.kernels.logit_transform import LogitTransform
from keel.kernels.logprobs import fused_token_loss, token_logprobs
from keel.kernels.tiles import Head

CASES = {
    "plain": (LogitTransform(), 1.0),
    "temperature": (LogitTransform(), 0.7),
    "scale": (LogitTransform(scale=0.25), 1.3),
    "softcap": (LogitTransform(softcap=2.0), 0.9),
    "banned": (LogitTransform(scale=0.5, softcap=3.0, banned=(4, 7)), 0.8),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, the last one short."""
    monkeypatch.setattr(tiles, "_TILE_CPU", 1)


def data(rows: int = 150, hidden: int = 12, vocab: int = 33, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    h, w = torch.randn(rows, hidden, generator=g), torch.randn(vocab, hidden, generator=g)
    bias, target = torch.randn(vocab, generator=g), torch.randint(8, vocab, (rows,), generator=g)
    return h.to(dtype).requires_grad_(), w.to(dtype).requires_grad_(), bias.to(dtype).requires_grad_(), target


def reference(h, w, b, target, transform: LogitTransform, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Written out in float64, apart from the implementation."""
    y = (h @ w.T + b) * transform.scale
    if transform.softcap:
        y = transform.softcap * torch.tanh(y / transform.softcap)
    keep = [i for i in range(len(w)) if i not in transform.banned]
    logp = torch.log_softmax((y / temperature)[:, keep], dim=1)
    column = torch.tensor([keep.index(int(t)) for t in target])
    return logp.gather(1, column[:, None])[:, 0], -(logp.exp() * logp).sum(1)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_log_softmax(case: str) -> None:
    transform, temperature = CASES[case]
    h, w, b, target = data()
    c1, c2 = torch.randn(2, len(target), generator=torch.Generator().manual_seed(1))
    logp, entropy = token_logprobs(h, Head(w, b, transform, temperature), target, True)
    grads = torch.autograd.grad((c1 * logp + c2 * entropy).sum(), (h, w, b))
    h64, w64, b64 = (x.detach().double().requires_grad_() for x in (h, w, b))
    logp64, entropy64 = reference(h64, w64, b64, target, transform, temperature)
    expected = torch.autograd.grad((c1 * logp64 + c2 * entropy64).sum(), (h64, w64, b64))
    torch.testing.assert_close(logp.double(), logp64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), entropy64, rtol=1e-5, atol=1e-5)
    for got, want in zip(grads, expected, strict=True):
        assert ((got.double() - want).norm() / want.norm()).item() < 2e-6


@pytest.mark.parametrize("case", CASES)
def test_fused_loss_equals_two_passes(case: str) -> None:
    transform, temperature = CASES[case]
    h, w, b, target = data()
    values = torch.randn(len(target), generator=torch.Generator().manual_seed(3)).requires_grad_()
    weights = torch.randn(len(target), generator=torch.Generator().manual_seed(2))

    def loss_fn(part: slice, logp: torch.Tensor, entropy: torch.Tensor | None, value: torch.Tensor | None) -> torch.Tensor:
        assert entropy is not None
        assert value is not None
        return (weights[part] * torch.exp(logp / 10) + entropy**2 + value**2 * weights[part]).sum()

    leaves = (h, w, b, values)
    fused = fused_token_loss(h, Head(w, b, transform, temperature), target, loss_fn, True, values)
    got = torch.autograd.grad(3 * fused, leaves)
    logp, entropy = token_logprobs(h, Head(w, b, transform, temperature), target, True)
    plain = loss_fn(slice(None), logp, entropy, values)
    expected = torch.autograd.grad(3 * plain, leaves)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    for a, e in zip(got, expected, strict=True):
        assert ((a - e).norm() / e.norm()).item() < 2e-6


def test_finite_differences() -> None:
    """Central differences of the float32 function in a few directions, hidden states and weight."""
    h, w, b, target = data(rows=5, hidden=4, vocab=11)
    transform = LogitTransform(softcap=4.0)

    def total(h_: torch.Tensor, w_: torch.Tensor) -> torch.Tensor:
        logp, entropy = token_logprobs(h_, Head(w_, b, transform, 0.9), target, True)
        return (logp + 0.3 * entropy).sum()

    grads = torch.autograd.grad(total(h, w), (h, w))
    for seed in range(4):
        d_h, d_w = (torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) for x in (h, w))
        eps = 1e-2
        with torch.no_grad():
            slope = (total(h + eps * d_h, w + eps * d_w) - total(h - eps * d_h, w - eps * d_w)) / (2 * eps)
        assert slope.item() == pytest.approx(((grads[0] * d_h).sum() + (grads[1] * d_w).sum()).item(), rel=2e-3, abs=2e-3)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_never_all_rows_times_vocabulary() -> None:
    h, w, b, target = data(rows=1000, hidden=4, vocab=40)
    with Largest() as seen:
        logp, entropy = token_logprobs(h, Head(w, b, LogitTransform()), target, True)
        (logp.sum() + entropy.sum()).backward()
        fused_token_loss(h, Head(w, b, LogitTransform()), target, lambda _p, lp, _e, _v: lp.sum()).backward()
    assert seen.numel <= 4000 < 1000 * 40  # the hidden states are the largest


def test_frozen_head_gets_no_gradient() -> None:
    h, w, b, target = data()
    w.requires_grad_(False)
    b.requires_grad_(False)
    with Largest() as seen:
        fused_token_loss(h, Head(w, None, LogitTransform()), target, lambda _p, lp, _e, _v: lp.sum()).backward()
    assert h.grad is not None
    assert w.grad is None
    assert b.grad is None
    assert seen.numel <= 64 * 33


def test_bf16_products_under_autocast_accumulate_in_float32() -> None:
    h, w, _, target = data(rows=300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp, _ = token_logprobs(h, Head(w, None, LogitTransform()), target)
    logp.sum().backward()
    assert logp.dtype == torch.float32
    assert w.grad is not None
    assert w.grad.dtype == torch.float32
    expected, _ = reference(h.double(), w.double(), 0.0, target, LogitTransform(), 1.0)
    error = (logp - expected).norm() / expected.norm()
    assert 1e-5 < error < 3e-2  # rounded to bf16 indeed, and no worse


def test_no_rows() -> None:
    h, w, b, target = data()
    logp, entropy = token_logprobs(h[:0], Head(w, b, LogitTransform()), target[:0], True)
    assert logp.shape == entropy.shape == (0,)


def test_bad_input() -> None:
    h, w, b, target = data()
    with pytest.raises(ValueError, match="do not fit"):
        token_logprobs(h, Head(w, b, LogitTransform()), target[:3])
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(h, Head(w, b, LogitTransform(), 0.0), target)


@pytest.mark.parametrize("want_entropy", [False, True])
def test_sharp_distributions_are_exact_though_exponentials_are_cut_off(want_entropy: bool) -> None:
    """Logits hundreds apart: values and gradients are those of float64, and nothing is lost by the floor under log-probabilities."""
    torch.manual_seed(0)
    hidden_SH, weight_VH = torch.randn(12, 8, dtype=torch.float64), 40 * torch.randn(50, 8, dtype=torch.float64)
    target_S, adv_S = (hidden_SH @ weight_VH.T).argmax(1), torch.randn(12, dtype=torch.float64)
    target_S[0] = (hidden_SH[0] @ weight_VH.T).argmin()  # the log-probability itself has no floor

    exact = hidden_SH.clone().requires_grad_()
    logp_SV = (exact @ weight_VH.T).log_softmax(1)
    assert logp_SV.min() < -200
    entropy_S = -(logp_SV.exp() * logp_SV).sum(1)
    chosen_S = logp_SV.gather(1, target_S[:, None])[:, 0]
    ((adv_S * chosen_S).sum() + (0.1 * entropy_S.sum() if want_entropy else 0.0)).backward()

    fast = hidden_SH.float().requires_grad_()
    seen: list[torch.Tensor] = []

    def loss_of(part: slice, logprobs_n: torch.Tensor, entropy_n: torch.Tensor | None, _: torch.Tensor | None) -> torch.Tensor:
        seen.append(logprobs_n.detach())
        loss = (adv_S[part].float() * logprobs_n).sum()
        return loss if entropy_n is None else loss + 0.1 * entropy_n.sum()

    head = Head(weight_VH.float(), None, LogitTransform())
    fused_token_loss(fast, head, target_S, loss_of, want_entropy=want_entropy).backward()
    torch.testing.assert_close(torch.cat(seen).double(), chosen_S.detach(), rtol=1e-5, atol=1e-4)
    assert fast.grad is not None
    torch.testing.assert_close(fast.grad.double(), exact.grad, rtol=1e-4, atol=2e-3)


def test_a_loss_with_its_gradient_sees_the_log_probabilities_of_a_plain_pass_in_bf16() -> None:
    """Bit for bit: a ratio of the two must be 1 while the weights are the same."""
    h, w, b, target = data(rows=200, hidden=64, vocab=300)
    head = Head(w, b, LogitTransform())
    seen: list[torch.Tensor] = []

    def loss(part: slice, logprobs_n: torch.Tensor, entropy_n: torch.Tensor | None, values_n: torch.Tensor | None) -> torch.Tensor:
        seen.append(logprobs_n.detach().clone())
        return logprobs_n.sum()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain_S = token_logprobs(h, head, target)[0]
        fused_token_loss(h, head, target, loss)
    assert torch.equal(torch.cat(seen), plain_S)
    assert (plain_S - token_logprobs(h, head, target)[0]).abs().max() > 1e-4  # autocast made a difference at all


@pytest.mark.parametrize("fused", [False, True])
def test_large_logits_are_not_rounded_to_bf16(fused: bool) -> None:
    """Logits around 30, which bfloat16 knows to 0.06 only: likely tokens, their entropies and gradients are those of the same numbers in
    float64, as far as rounding inputs to bfloat16 allows."""
    g = torch.Generator().manual_seed(0)
    h, w = torch.randn(120, 64, generator=g), torch.randn(300, 64, generator=g)
    w[:, 0] = 3.0
    h[:, 0] = 10.0  # a common 30 on every logit
    h, w = (0.25 * h).bfloat16().float(), w.bfloat16().float()
    h[:, 0] = 10.0
    hidden, weight = h.clone().requires_grad_(), w.clone().requires_grad_()
    logp = torch.log_softmax(h.double() @ w.double().T, 1)
    target = logp.topk(3, 1).indices[:, 1]
    head = Head(weight, None, LogitTransform())
    seen: list[torch.Tensor] = []

    def loss(part, logprobs_n, entropy_n, values_n):
        seen.append(logprobs_n.detach())
        return logprobs_n.sum()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        if fused:
            fused_token_loss(hidden, head, target, loss).backward()
            found = torch.cat(seen)
        else:
            found, entropy = token_logprobs(hidden, head, target, want_entropy=True)
            assert entropy is not None
            assert (entropy.double() + (logp.exp() * logp).sum(1)).abs().max() < 2e-2
            found.sum().backward()
    expected = logp.gather(1, target[:, None])[:, 0]
    assert (found.double() - expected).abs().mean() < 2e-3  # ten times that by a product that is rounded as it stands
    grad = (torch.nn.functional.one_hot(target, 300).double() - logp.exp()) @ w.double()
    assert (hidden.grad.double() - grad).norm() < 1e-2 * grad.norm()  # type: ignore[union-attr]
