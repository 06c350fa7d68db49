"""Attention of a whole packed row in one call: for a GPU, where a loop over units would leave it waiting for Python.

What a token sees is a rule over four numbers of each token (``RowRule``). On a GPU it becomes a block mask of flex attention, which skips
the blocks that nobody sees; ``dense`` makes a plain mask of the same rule, for tests. Nothing here is taken on trust: ``usable`` compares
values and gradients with attention written out, on the device at hand, before the first use.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from keel.types.units import Layout

log = logging.getLogger("keel")
Asked = tuple[float, int | None, float | None, Tensor | None]  # scaling, window, soft cap, sinks
_TOLERANCE = 2e-2  # of the check on the device, relative: products there may be of 10 bits


@dataclass(frozen=True, slots=True)
class RowRule:
    """Which tokens see which, from four numbers of each token of a packed row, int64 [N] each."""

    unit_N: Tensor
    branch_N: Tensor  # 0 = the prompt, which every branch of its unit sees
    place_N: Tensor  # in its own sequence; a branch goes on from its prompt's end
    span_N: Tensor  # tokens of one span see each other; 0 = of none

    @classmethod
    def of(cls, groups: Sequence[Layout], device: torch.device | str = "cpu") -> RowRule:
        """The rule of this layout."""
        numbers: list[list[Tensor]] = [[], [], [], []]
        spans = 0
        for unit, group in enumerate(groups):
            span_P = torch.zeros(group.prompt, dtype=torch.int64)
            for start, end in group.spans:
                spans += 1
                span_P[start:end] = spans
            for branch, length in enumerate(group.lengths):
                start = group.prompt if branch else 0
                numbers[0].append(torch.full((length,), unit))
                numbers[1].append(torch.full((length,), branch))
                numbers[2].append(torch.arange(start, start + length))
                numbers[3].append(torch.zeros(length, dtype=torch.int64) if branch else span_P)
        return cls(*(torch.cat(parts).to(device) for parts in numbers))

    def sees(self, window: int | None) -> Callable[..., Tensor]:
        """The rule as flex attention asks for it: (batch, head, query, key) -> bool."""

        def sees(batch: Any, head: Any, query: Tensor, key: Tensor) -> Tensor:
            distance = self.place_N[query] - self.place_N[key]
            before = distance >= 0
            if window is not None:
                before = before & (distance < window)
            same_span = (self.span_N[query] > 0) & (self.span_N[query] == self.span_N[key])
            branch = self.branch_N[key]
            known = (self.unit_N[query] == self.unit_N[key]) & ((branch == 0) | (branch == self.branch_N[query]))
            return known & (before | same_span)

        return sees

    def dense(self, window: int | None) -> Tensor:
        """The rule as a mask, bool [N, N]."""
        at_N = torch.arange(len(self.unit_N), device=self.unit_N.device)
        return self.sees(window)(0, 0, at_N[:, None], at_N[None])


@dataclass(slots=True)
class RowAttention:
    """The attention of one layout. Block masks are the same for all layers with one window, so they are kept."""

    rule: RowRule
    _masks: dict[int | None, Any] = field(default_factory=dict[int | None, Any], init=False)

    def __call__(
        self,
        query_1HND: Tensor,
        key_1KND: Tensor,
        value_1KND: Tensor,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Attention's output [1, H, N, D]; K divides H."""
        from torch.nn.attention.flex_attention import create_block_mask

        n = query_1HND.shape[2]
        if window not in self._masks:
            self._masks[window] = create_block_mask(self.rule.sees(window), None, None, n, n, device=query_1HND.device)
        capped = None if softcap is None else _softcap(softcap)
        out, lse = _flex(query_1HND.is_cuda)(
            query_1HND,
            key_1KND,
            value_1KND,
            score_mod=capped,
            block_mask=self._masks[window],
            scale=scaling,
            enable_gqa=query_1HND.shape[1] != key_1KND.shape[1],
            return_lse=True,
        )
        if sinks_H is None:
            return out
        # one more logit in the denominator: e^lse / (e^lse + e^sink) of each output is left
        return out * torch.sigmoid(lse - sinks_H.float().view(1, -1, 1))[..., None].to(out.dtype)


@functools.cache
def _softcap(cap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, *_: Any) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


@functools.cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


@functools.cache
def usable(device: str) -> bool:
    """Does flex attention compute on this device what it should, with gradients? Tried once a process, on a small layout with a window, a
    soft cap, sinks, spans and branches; a failure is logged, and units are then computed one by one."""
    if torch.device(device).type != "cuda":
        return False
    try:
        error = worst_error(device)
    except Exception as problem:  # whatever a compiler or a driver says: the other way is always there
        log.warning("attention of a packed row in one call does not run on %s (%s: %s)", device, type(problem).__name__, problem)
        return False
    if error > _TOLERANCE:
        log.warning("attention of a packed row in one call is off by %.1e on %s, so units are computed one by one", error, device)
    return error <= _TOLERANCE


def worst_error(device: str, gradients: bool = True) -> float:
    """Largest relative difference of outputs (and gradients) to attention written out in float64, over what architectures ask for."""
    groups = (Layout(70, (33, 9)), Layout(40, (21,), ((3, 17),)), Layout(5, (130, 2, 64)))
    rule = RowRule.of(groups, device)
    n = len(rule.unit_N)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, heads, n, 16, generator=generator).to(device) for heads in (4, 2, 2)]
    sinks_H = torch.randn(4, generator=generator).to(device)
    attention = RowAttention(rule)
    worst = 0.0
    for window, softcap, sinks in ((None, None, None), (16, None, None), (None, 2.0, None), (16, 2.0, sinks_H)):
        asked = 0.3, window, softcap, sinks
        found = _with_gradients(functools.partial(_called, attention, asked), inputs, gradients)
        expected = _with_gradients(functools.partial(_written_out, rule, asked), [x.double() for x in inputs], gradients)
        for a, b in zip(found, expected, strict=True):
            worst = max(worst, float((a.double() - b).norm() / b.norm()))
    return worst


def _with_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: bool) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_(wanted) for x in inputs]
    out = function(*leaves)
    if not wanted:
        return [out]
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def _called(attention: RowAttention, asked: Asked, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attention(query, key, value, *asked)


def _written_out(rule: RowRule, asked: Asked, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention in the precision of its inputs, nothing left out."""
    scaling, window, softcap, sinks_H = asked
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~rule.dense(window), float("-inf"))
    if sinks_H is not None:
        scores = torch.cat([scores, sinks_H.to(scores).view(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)], -1)
    return scores.softmax(-1)[..., : key.shape[2]] @ value
