"""Log-probabilities over supports: by hand, against a dense masked log_softmax in float64, its finite differences, and the uncut ones."""

from __future__ import annotations

import math

import pytest
import torch

from keel.kernels import tiles
from keel.kernels.logit_transform import LogitTransform
from keel.kernels.logprobs import fused_token_loss, token_logprobs
from keel.kernels.tiles import Head
from keel.types.support import Support

CASES = {
    "plain": (LogitTransform(), 1.0),
    "temperature": (LogitTransform(), 0.7),
    "softcap": (LogitTransform(softcap=2.0), 0.9),
    "banned": (LogitTransform(scale=0.5, softcap=3.0, banned=(4, 7)), 0.8),
}
ROWS, HIDDEN, VOCAB = 150, 6, 41  # a mask has two words: single tokens are listed, larger supports are masks


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, the last one short."""
    monkeypatch.setattr(tiles, "_TILE_CPU", 1)


def data() -> tuple[torch.Tensor, ...]:
    """Hidden states, weight, bias, targets, and a table of what is in each target's support: one token, some, or all."""
    g = torch.Generator().manual_seed(0)
    h, w, b = torch.randn(ROWS, HIDDEN, generator=g), torch.randn(VOCAB, HIDDEN, generator=g), torch.randn(VOCAB, generator=g)
    target = torch.randint(8, VOCAB, (ROWS,), generator=g)
    inside = torch.rand(ROWS, VOCAB, generator=g) < torch.rand(ROWS, 1, generator=g)
    inside[::10] = False
    inside[5::10] = True
    inside[torch.arange(ROWS), target] = True
    return h.requires_grad_(), w.requires_grad_(), b.requires_grad_(), target, inside


def dense(leaves: list[torch.Tensor], target: torch.Tensor, inside: torch.Tensor, case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Written out, apart from the implementation."""
    transform, temperature = CASES[case]
    h, w, b = leaves
    y = (h @ w.T + b) * transform.scale
    if transform.softcap:
        y = transform.softcap * torch.tanh(y / transform.softcap)
    keep = inside.clone()
    keep[:, list(transform.banned)] = False
    logp = torch.log_softmax((y / temperature).masked_fill(~keep, -math.inf), 1)
    entropy = -torch.where(keep, logp.exp() * logp.masked_fill(~keep, 0.0), 0.0).sum(1)
    return logp.gather(1, target[:, None])[:, 0], entropy


def mixed(logp: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    c1, c2 = torch.randn(2, ROWS, generator=torch.Generator().manual_seed(1)).to(logp.dtype)
    return (c1 * logp + c2 * entropy).sum()


def test_by_hand() -> None:
    """Logits ln 1 ... ln 5, support {1, 3, 4} (weights 2, 4, 5 of 11), then {2} alone."""
    hidden = torch.ones(2, 1, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).log()[:, None].requires_grad_()
    inside = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 1, 0, 0]], dtype=torch.bool)
    support = Support.of(inside, torch.zeros(2, dtype=torch.bool))
    head = Head(weight, None, LogitTransform())
    logp, entropy = token_logprobs(hidden, head, torch.tensor([3, 2]), True, support)
    assert logp.tolist() == pytest.approx([math.log(4 / 11), 0.0], abs=1e-6)
    parts = [n / 11 for n in (2, 4, 5)]
    assert entropy.tolist() == pytest.approx([-sum(p * math.log(p) for p in parts), 0.0], abs=1e-6)
    logp.sum().backward()
    assert weight.grad[:, 0].tolist() == pytest.approx([0.0, -2 / 11, 0.0, 7 / 11, -5 / 11], abs=1e-6)
    assert weight.grad[0, 0] == weight.grad[2, 0] == 0.0  # exactly: nothing flows to what could not be drawn


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_a_dense_masked_log_softmax(case: str) -> None:
    transform, temperature = CASES[case]
    h, w, b, target, inside = data()
    support, head = Support.of(inside, inside.all(1)), Head(w, b, transform, temperature)
    logp, entropy = token_logprobs(h, head, target, True, support)
    grads = torch.autograd.grad(mixed(logp, entropy), (h, w, b))
    exact = [x.detach().double().requires_grad_() for x in (h, w, b)]
    logp64, entropy64 = dense(exact, target, inside, case)
    expected = torch.autograd.grad(mixed(logp64, entropy64), exact)
    torch.testing.assert_close(logp.double(), logp64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), entropy64, rtol=1e-5, atol=1e-5)
    alone, _ = token_logprobs(h, head, target, False, support)  # another way through the tiles
    torch.testing.assert_close(alone.double(), logp64, rtol=1e-5, atol=1e-5)
    for got, want in zip(grads, expected, strict=True):
        assert ((got.double() - want).norm() / want.norm()).item() < 3e-6


@pytest.mark.parametrize("want_entropy", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_fused_loss_equals_two_passes(case: str, want_entropy: bool) -> None:
    transform, temperature = CASES[case]
    h, w, b, target, inside = data()
    support, head = Support.of(inside, inside.all(1)), Head(w, b, transform, temperature)

    def loss_fn(part: slice, logp: torch.Tensor, entropy: torch.Tensor | None, _: torch.Tensor | None) -> torch.Tensor:
        return torch.exp(logp / 10).sum() + (0.0 if entropy is None else (entropy**2).sum())

    fused = fused_token_loss(h, head, target, loss_fn, want_entropy, None, support)
    plain = loss_fn(slice(None), *token_logprobs(h, head, target, want_entropy, support), None)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    for got, want in zip(torch.autograd.grad(fused, (h, w, b)), torch.autograd.grad(plain, (h, w, b)), strict=True):
        assert torch.isfinite(got).all()
        assert ((got - want).norm() / want.norm()).item() < 3e-6


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_finite_differences_in_float64(case: str) -> None:
    """Central differences of the dense function in float64, in a few directions."""
    transform, temperature = CASES[case]
    h, w, b, target, inside = data()
    logp, entropy = token_logprobs(h, Head(w, b, transform, temperature), target, True, Support.of(inside, inside.all(1)))
    grads = torch.autograd.grad(mixed(logp, entropy), (h, w, b))
    at = [x.detach().double() for x in (h, w, b)]
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        step = [torch.randn(x.shape, generator=g, dtype=torch.float64) for x in at]
        there, back = (mixed(*dense([x + s * 1e-5 * d for x, d in zip(at, step)], target, inside, case)) for s in (1, -1))
        slope = sum((x.double() * d).sum() for x, d in zip(grads, step))
        assert ((there - back) / 2e-5).item() == pytest.approx(float(slope), rel=1e-4, abs=1e-3)


def test_a_support_that_is_never_cut_changes_no_bit() -> None:
    h, w, b, target, _ = data()
    head, everything = Head(w, b, LogitTransform(softcap=2.0), 0.9), torch.ones(ROWS, VOCAB, dtype=torch.bool)
    found = []
    for support in (None, Support.of(everything, everything.all(1)), Support.of(everything, ~everything.all(1))):
        logp, entropy = token_logprobs(h, head, target, True, support)
        found.append([logp, entropy, *torch.autograd.grad(mixed(logp, entropy), (h, w, b))])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_supports_of_other_tokens_are_refused() -> None:
    h, w, b, target, inside = data()
    head = Head(w, b, LogitTransform())
    with pytest.raises(ValueError, match="149 supports over 41 tokens for 150 targets over 41"):
        token_logprobs(h, head, target, False, Support.of(inside[1:], inside[1:].all(1)))
    with pytest.raises(ValueError, match="150 supports over 40 tokens"):
        fused_token_loss(h, head, target, lambda _p, lp, _e, _v: lp.sum(), support=Support.of(inside[:, 1:], inside.all(1)))
