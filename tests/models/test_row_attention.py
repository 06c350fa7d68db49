"""A packed row in one call: what each token sees is what the loop over units lets it see, and flex attention computes it, as far as a CPU
can (it has no backward there)."""

from __future__ import annotations

import logging

import pytest
import torch

from keel.kernels import row_attention
from keel.kernels.attention import AttentionOptions, PackedPlan, attention
from keel.kernels.row_attention import RowAttention, RowRule, usable, worst_error
from keel.types.units import Layout

LAYOUTS = [
    (Layout(5),),
    (Layout(4, (3,)), Layout(1, (2, 6, 2))),
    (Layout(9, (2, 5), ((1, 4), (6, 8))), Layout(3, (1,)), Layout(6, (), ((0, 6),))),
    (Layout(2, (4, 4, 1)), Layout(7, (3,), ((2, 5),))),
]
OPTIONS = {
    "plain": {},
    "window": {"sliding_window": 3},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks_H": torch.tensor([0.3, -1.0, 2.0, 0.0])},
    "all": {"sliding_window": 4, "softcap": 2.0, "sinks_H": torch.tensor([0.3, -1.0, 2.0, 0.0])},
}


def inputs(n: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    return [torch.randn(1, heads, n, 8, generator=g) for heads in (4, 2, 2)]


@pytest.mark.parametrize("groups", LAYOUTS)
@pytest.mark.parametrize("name", OPTIONS)
def test_one_call_equals_the_loop_over_units(groups: tuple[Layout, ...], name: str) -> None:
    """Values and gradients, the rule as a mask; values, the rule as a block mask."""
    options = AttentionOptions(0.4, **OPTIONS[name])
    rule = RowRule.of(groups)
    tensors = inputs(len(rule.unit_N))
    leaves = [x.clone().requires_grad_() for x in tensors]
    loop = PackedPlan(groups).attend(0, *leaves, options)
    again = [x.clone().requires_grad_() for x in tensors]
    dense = attention(*again, rule.dense(options.sliding_window), options).transpose(1, 2)
    torch.testing.assert_close(dense, loop, rtol=1e-4, atol=1e-5)
    weights = torch.linspace(-1, 1, loop.numel()).view(loop.shape)
    for found, expected in zip(torch.autograd.grad((dense * weights).sum(), again), torch.autograd.grad((loop * weights).sum(), leaves)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        flex = RowAttention(rule)(*tensors, options.scaling, options.sliding_window, options.softcap, options.sinks_H)
    torch.testing.assert_close(flex.transpose(1, 2), loop, rtol=1e-4, atol=1e-5)


def test_what_is_seen_by_hand() -> None:
    rule = RowRule.of((Layout(2, (1, 2)), Layout(1, (1,))))
    seen = ["".join("x" if s else "." for s in row) for row in rule.dense(None).tolist()]
    assert seen == ["x......", "xx.....", "xxx....", "xx.x...", "xx.xx..", ".....x.", ".....xx"]
    window = ["".join("x" if s else "." for s in row) for row in rule.dense(2).tolist()]
    assert window == ["x......", "xx.....", ".xx....", ".x.x...", "...xx..", ".....x.", ".....xx"]


@pytest.mark.filterwarnings("ignore")
def test_the_check_of_a_device_passes_here_without_gradients_and_finds_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst_error("cpu", gradients=False) < 1e-5
    sees = RowRule.sees
    monkeypatch.setattr(RowRule, "dense", lambda self, window: _table(sees(self, window), len(self.unit_N)))
    monkeypatch.setattr(RowRule, "sees", lambda self, window: sees(self, None))  # flex attention alone forgets the window
    assert worst_error("cpu", gradients=False) > 1e-2


def _table(sees, n: int) -> torch.Tensor:
    at_N = torch.arange(n)
    return sees(0, 0, at_N[:, None], at_N[None])


def test_a_device_that_fails_falls_back_with_a_word(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert not usable("cpu")
    usable.cache_clear()

    def broken(device: str) -> float:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(row_attention, "worst_error", broken)
    with caplog.at_level(logging.WARNING):
        assert not usable("cuda:0")
    assert "no compiler" in caplog.text
    usable.cache_clear()
    monkeypatch.setattr(row_attention, "worst_error", lambda device: 0.5)
    assert not usable("cuda:0")
    usable.cache_clear()
    monkeypatch.setattr(row_attention, "worst_error", lambda device: 1e-3)
    assert usable("cuda:0")
    usable.cache_clear()


@pytest.mark.gpu
def test_one_call_on_a_gpu() -> None:
    assert worst_error("cuda") < 2e-2
