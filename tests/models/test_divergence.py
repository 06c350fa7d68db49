"""Log-probabilities with a divergence of whole distributions from a reference's: against plain float64, in value and gradient."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from keel.kernels import tiles
from keel.kernels.logit_transform import LogitTransform
from keel.kernels.logprobs import Compared, token_logprobs_and_divergence
from keel.kernels.tiles import Head
from keel.types import Divergence
from keel.types.support import Support

ROWS, H, V = 150, 12, 33
REF_H = 7  # a teacher is of another width
CASES = {
    "plain": (LogitTransform(), 1.0),
    "temperature": (LogitTransform(scale=0.25), 1.3),
    "softcap": (LogitTransform(softcap=2.0), 0.9),
    "banned": (LogitTransform(scale=0.5, softcap=3.0, banned=(4, 7)), 0.8),
}
DIVERGENCES = {
    "forward": Divergence("forward_kl"),
    "reverse": Divergence("reverse_kl"),
    "jsd": Divergence("jsd", 0.5),
    "jsd near forward": Divergence("jsd", 0.05),
    "jsd near reverse": Divergence("jsd", 0.9),
}
WEIGHTS = torch.randn(3, ROWS, generator=torch.Generator().manual_seed(6))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, the last one short."""
    monkeypatch.setattr(tiles, "_TILE_CPU", 1)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def data() -> tuple[list[Tensor], tuple[Tensor, Tensor], Tensor, Tensor]:
    """The policy's leaves, the reference's hidden states and weight, targets, and what is in their supports: one token, some, or all."""
    leaves = [x.requires_grad_() for x in (draw(ROWS, H, seed=3), draw(V, H, seed=4), draw(V, seed=5))]
    target, g = torch.arange(ROWS) % 3, torch.Generator().manual_seed(8)  # below the banned tokens
    inside = torch.rand(ROWS, V, generator=g) < torch.rand(ROWS, 1, generator=g)
    inside[::10], inside[5::10] = False, True
    inside[torch.arange(ROWS), target] = True
    return leaves, (draw(ROWS, REF_H, seed=1), draw(V, REF_H, seed=2)), target, inside


def log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | float, case: str, inside: Tensor | None) -> tuple[Tensor, Tensor]:
    """log p [S, V] in float64, 0 in place of minus infinity, and where it stands: written out, apart from the implementation."""
    transform, temperature = CASES[case]
    y = (hidden @ weight.T + bias) * transform.scale
    y = transform.softcap * torch.tanh(y / transform.softcap) if transform.softcap else y
    keep = torch.ones(ROWS, V, dtype=torch.bool) if inside is None else inside.clone()
    keep[:, list(transform.banned)] = False
    return (y / temperature).masked_fill(~keep, -math.inf).log_softmax(1).masked_fill(~keep, 0.0), keep


def by_the_book(leaves: list[Tensor], ref: tuple[Tensor, Tensor], target: Tensor, inside: Tensor | None, case: str, name: str) -> Compared:
    """Everything in float64 from dense distributions."""
    by = DIVERGENCES[name]
    (log_p, keep), (log_q, _) = log_probs(*leaves, case, inside), log_probs(*ref, 0.0, case, inside)
    p, q = log_p.exp() * keep, log_q.exp() * keep

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(a > 0, a * (a.clamp(min=1e-300).log() - b.clamp(min=1e-300).log()), 0.0).sum(1)

    mixed = by.beta * q + (1 - by.beta) * p
    apart = {"forward_kl": kl(q, p), "reverse_kl": kl(p, q), "jsd": by.beta * kl(q, mixed) + (1 - by.beta) * kl(p, mixed)}[by.kind]
    entropy = -(p * log_p).sum(1)
    return Compared(*(x.gather(1, target[:, None])[:, 0] if i in (0, 3) else x for i, x in enumerate((log_p, entropy, apart, log_q))))


def found(
    leaves: list[Tensor], ref: tuple[Tensor, Tensor], target: Tensor, inside: Tensor | None, case: str, name: str, want_entropy: bool = True
) -> Compared:
    support = None if inside is None else Support.of(inside, inside.all(1))
    own, other = Head(leaves[1], leaves[2], *CASES[case]), Head(ref[1], None, *CASES[case])
    return token_logprobs_and_divergence(leaves[0], own, target, ref[0], other, DIVERGENCES[name], want_entropy, support)


def mixed(of: Compared) -> Tensor:
    """A scalar that everything with a gradient has a part in."""
    terms = [of.logprobs_S, of.divergence_S, *([] if of.entropy_S is None else [of.entropy_S])]
    return sum(((w * x).sum() for w, x in zip(WEIGHTS.to(terms[0].dtype), terms)), torch.zeros((), dtype=terms[0].dtype))


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, name: str, cut: bool) -> None:
    leaves, ref, target, inside = data()
    exact, exact_ref = [x.detach().double().requires_grad_() for x in leaves], (ref[0].double(), ref[1].double())
    for want_entropy in (True, False):
        got = found(leaves, ref, target, inside if cut else None, case, name, want_entropy)
        expected = by_the_book(exact, exact_ref, target, inside if cut else None, case, name)
        for a, b in zip(got, expected if want_entropy else expected._replace(entropy_S=None), strict=True):
            if a is not None or b is not None:
                torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
        wanted = torch.autograd.grad(mixed(expected if want_entropy else expected._replace(entropy_S=None)), exact)
        for a, b in zip(torch.autograd.grad(mixed(got), leaves), wanted, strict=True):
            assert ((a.double() - b).norm() / b.norm()).item() < 4e-6
        assert not got.ref_logprobs_S.requires_grad


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_equal_finite_differences(name: str) -> None:
    """Central differences of the dense function in float64, in a few directions."""
    leaves, ref, target, inside = data()
    grads = torch.autograd.grad(mixed(found(leaves, ref, target, inside, "banned", name)), leaves)
    at, exact_ref = [x.detach().double() for x in leaves], (ref[0].double(), ref[1].double())
    for seed in range(3):
        step = [draw(*x.shape, seed=20 + seed).double() for x in at]
        there, back = (
            mixed(by_the_book([x + s * 1e-5 * d for x, d in zip(at, step)], exact_ref, target, inside, "banned", name)) for s in (1, -1)
        )
        slope = sum((x.double() * d).sum() for x, d in zip(grads, step))
        assert ((there - back) / 2e-5).item() == pytest.approx(float(slope), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_by_hand_on_three_tokens(name: str) -> None:
    """The policy is 1/2, 1/4, 1/4, the teacher 1/8, 1/4, 5/8: one hidden unit of 1, the logits are the weights."""
    p, q, by = (1 / 2, 1 / 4, 1 / 4), (1 / 8, 1 / 4, 5 / 8), DIVERGENCES[name]
    weight, ref_weight = torch.tensor(p).log()[:, None].requires_grad_(), torch.tensor(q).log()[:, None] + 5.0
    hidden, head, ref_head = torch.ones(1, 1), Head(weight, None, LogitTransform()), Head(ref_weight, None, LogitTransform())
    apart = token_logprobs_and_divergence(hidden, head, torch.tensor([2]), hidden, ref_head, by)
    m = [by.beta * b + (1 - by.beta) * a for a, b in zip(p, q)]
    terms = {
        "forward_kl": [b * math.log(b / a) for a, b in zip(p, q)],
        "reverse_kl": [a * math.log(a / b) for a, b in zip(p, q)],
        "jsd": [by.beta * b * math.log(b / c) + (1 - by.beta) * a * math.log(a / c) for a, b, c in zip(p, q, m)],
    }
    assert apart.divergence_S.item() == pytest.approx(sum(terms[by.kind]), abs=1e-6)
    assert (apart.logprobs_S.item(), apart.ref_logprobs_S.item()) == pytest.approx((math.log(1 / 4), math.log(5 / 8)), abs=1e-6)
    apart.divergence_S.sum().backward()
    assert weight.grad is not None
    slope = [math.log(a / b) if by.kind == "reverse_kl" else (1 - by.beta) * math.log(a / c) for a, b, c in zip(p, q, m)]
    mean = sum(a * g for a, g in zip(p, slope))
    expected = [a - b for a, b in zip(p, q)] if by.kind == "forward_kl" else [a * (g - mean) for a, g in zip(p, slope)]
    assert weight.grad[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_distance_to_itself_and_no_pull(name: str) -> None:
    weight, hidden, target = draw(V, H, seed=1).requires_grad_(), draw(ROWS, H, seed=2), torch.zeros(ROWS, dtype=torch.long)
    head = Head(weight, None, LogitTransform())
    apart = token_logprobs_and_divergence(hidden, head, target, hidden, head, DIVERGENCES[name])
    assert apart.divergence_S.abs().max() < 1e-5
    (grad,) = torch.autograd.grad(apart.divergence_S.sum(), weight)
    assert grad.abs().max() < 1e-5


def apart_by(kind: Literal["forward_kl", "reverse_kl", "jsd"], beta: float = 0.5, *, swapped: bool = False) -> tuple[Tensor, Tensor]:
    """The divergence at each row and its gradient by the policy's hidden states; ``swapped``: policy and reference change places."""
    sides = [(draw(ROWS, H, seed=1), draw(V, H, seed=2) / 8), (draw(ROWS, H, seed=3), draw(V, H, seed=4) / 8)]
    (hidden, weight), (ref_hidden, ref_weight) = sides[::-1] if swapped else sides
    heads = [Head(w, None, LogitTransform()) for w in (weight, ref_weight)]
    hidden.requires_grad_()
    target = torch.zeros(ROWS, dtype=torch.long)
    apart_S = token_logprobs_and_divergence(hidden, heads[0], target, ref_hidden, heads[1], Divergence(kind, beta)).divergence_S
    return apart_S.detach(), torch.autograd.grad(apart_S.sum(), hidden)[0]


def test_the_middle_is_symmetric_and_bounded() -> None:
    there, back = apart_by("jsd")[0], apart_by("jsd", swapped=True)[0]
    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-6)
    assert there.max() <= math.log(2.0)
    torch.testing.assert_close(apart_by("jsd", 0.2)[0], apart_by("jsd", 0.8, swapped=True)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(apart_by("forward_kl")[0], apart_by("reverse_kl", swapped=True)[0], rtol=1e-5, atol=1e-6)


def test_the_ends_are_the_two_kls() -> None:
    """JSD / beta and JSD / (1 - beta), in value and gradient. Nearer to the ends the rounding of float32 is divided by as much."""
    for kind, beta in (("forward_kl", 1e-3), ("reverse_kl", 1 - 1e-3)):
        limit, slope = apart_by(kind)  # type: ignore[arg-type]
        near, near_slope = (x / min(beta, 1 - beta) for x in apart_by("jsd", beta))
        assert ((near - limit).norm() / limit.norm()).item() < 0.02
        assert ((near_slope - slope).norm() / slope.norm()).item() < 0.02


@pytest.mark.parametrize("name", DIVERGENCES)
def test_nothing_overflows_between_certain_distributions(name: str) -> None:
    """Logits thousands apart: every probability but one is 0 in float32."""
    weight, ref_weight = (torch.zeros(3, 1).index_fill(0, torch.tensor([i]), 4000.0) for i in (0, 2))
    weight.requires_grad_()
    heads, hidden = [Head(w, None, LogitTransform()) for w in (weight, ref_weight)], torch.ones(1, 1)
    apart = token_logprobs_and_divergence(hidden, heads[0], torch.tensor([1]), hidden, heads[1], DIVERGENCES[name], True)
    beta = DIVERGENCES[name].beta
    expected = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) if name.startswith("jsd") else 4000.0
    assert apart.divergence_S.item() == pytest.approx(expected, rel=1e-5)
    mixed_grad = torch.autograd.grad(apart.divergence_S.sum() + apart.logprobs_S.sum() + apart.entropy_S.sum(), weight)[0]
    assert torch.isfinite(mixed_grad).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_products_in_bfloat16_and_the_rest_in_float32(name: str) -> None:
    """What is left is the rounding of the logits: the same function of logits that were rounded beforehand."""
    leaves, ref, target, _ = data()
    low = [x.detach().bfloat16() for x in (leaves[0], leaves[1], *ref)]
    head, ref_head = Head(low[1].requires_grad_(), None, LogitTransform()), Head(low[3], None, LogitTransform())
    got = token_logprobs_and_divergence(low[0], head, target, low[2], ref_head, DIVERGENCES[name])
    logits, ref_logits = ((low[i] @ low[i + 1].T).detach().float() for i in (0, 2))
    one = torch.eye(V)  # the logits as hidden states before a head that changes nothing
    plain = Head(one, None, LogitTransform())
    wanted = token_logprobs_and_divergence(logits, plain, target, ref_logits, plain, DIVERGENCES[name])
    assert got.divergence_S.dtype == torch.float32
    assert ((got.divergence_S - wanted.divergence_S).norm() / wanted.divergence_S.norm()).item() < 0.02
    (grad,) = torch.autograd.grad(got.divergence_S.sum(), head.weight_VH)
    assert grad.dtype == torch.bfloat16
    assert torch.isfinite(grad).all()


def test_the_tokens_must_be_the_same() -> None:
    heads = [Head(draw(v, H, seed=1), None, LogitTransform(banned=banned)) for v, banned in ((V, ()), (V + 1, ()), (V, (3,)))]
    hidden, target = draw(ROWS, H, seed=2), torch.zeros(ROWS, dtype=torch.long)
    with pytest.raises(ValueError, match="vocabularies differ: 33 and 34"):
        token_logprobs_and_divergence(hidden, heads[0], target, hidden, heads[1])
    with pytest.raises(ValueError, match="banned tokens differ"):
        token_logprobs_and_divergence(hidden, heads[0], target, hidden, heads[2])
