"""Log-probabilities with the KL of whole distributions to a reference: against plain float64, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from keel.kernels import logprobs as module
from keel.kernels.logit_transform import LogitTransform
from keel.kernels.logprobs import Head, token_logprobs_and_kl

ROWS, H, V = 150, 12, 33
CASES = {
    "plain": (LogitTransform(), 1.0),
    "temperature": (LogitTransform(scale=0.25), 1.3),
    "softcap": (LogitTransform(softcap=2.0), 0.9),
    "banned": (LogitTransform(scale=0.5, softcap=3.0, banned=(4, 7)), 0.8),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, the last one short."""
    monkeypatch.setattr(module, "_TILE_CPU", 1)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_the_book(hidden: Tensor, weight: Tensor, bias: Tensor | float, transform: LogitTransform, temperature: float) -> Tensor:
    """log p [S, allowed tokens] in float64."""
    keep = [v for v in range(V) if v not in transform.banned]
    y = (hidden @ weight.T + bias) * transform.scale
    y = transform.softcap * torch.tanh(y / transform.softcap) if transform.softcap else y
    return (y / temperature)[:, keep].log_softmax(1)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str) -> None:
    transform, temperature = CASES[case]
    ref_hidden, ref_weight, target = draw(ROWS, H, seed=1), draw(V, H, seed=2), torch.arange(ROWS) % 3
    leaves = [x.requires_grad_() for x in (draw(ROWS, H, seed=3), draw(V, H, seed=4), draw(V, seed=5))]
    ref_head = Head(ref_weight, None, transform, temperature)
    found = token_logprobs_and_kl(leaves[0], Head(leaves[1], leaves[2], transform, temperature), target, ref_hidden, ref_head)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    log_p = by_the_book(exact[0], exact[1], exact[2], transform, temperature)
    log_q = by_the_book(ref_hidden.double(), ref_weight.double(), 0.0, transform, temperature)
    expected = log_p.gather(1, target[:, None])[:, 0], (log_q.exp() * (log_q - log_p)).sum(1)  # targets lie below the banned tokens
    weights = draw(ROWS, seed=6), draw(ROWS, seed=7)
    got = torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, found, strict=True)), leaves)
    wanted = torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, expected, strict=True)), exact)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    for a, b in zip(got, wanted, strict=True):
        assert ((a.double() - b).norm() / b.norm()).item() < 2e-6


def test_no_distance_to_itself() -> None:
    head, hidden = Head(draw(V, H, seed=1), None, LogitTransform()), draw(ROWS, H, seed=2)
    _, kl_S = token_logprobs_and_kl(hidden, head, torch.zeros(ROWS, dtype=torch.long), hidden, head)
    assert kl_S.abs().max() < 1e-5


def test_vocabularies_must_agree() -> None:
    heads = [Head(draw(v, H, seed=1), None, LogitTransform()) for v in (V, V + 1)]
    hidden = draw(ROWS, H, seed=2)
    with pytest.raises(ValueError, match="vocabularies differ: 33 and 34"):
        token_logprobs_and_kl(hidden, heads[0], torch.zeros(ROWS, dtype=torch.long), hidden, heads[1])
