"""Log-probabilities of given tokens from hidden states, entropies, divergences from a reference, and losses of them, as functions that
autograd can differentiate. The tiles that they walk over, and what is computed in each, are in ``tiles``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keel.kernels.narrow import row_blocks
from keel.kernels.tiles import Gradients, Head, Stats, Tiles, product_dtype
from keel.methods.math.divergence import divergence
from keel.types import Divergence
from keel.types.support import Support

FORWARD_KL = Divergence("forward_kl")

TokenLoss = Callable[[slice, Tensor, Tensor | None, Tensor | None], Tensor]
"""(slice of S, logprobs, entropies or None, values or None) -> the scalar loss of those tokens."""


def token_logprobs(
    hidden_SH: Tensor, head: Head, target_S: Tensor, want_entropy: bool = False, support: Support | None = None
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [S] of ``target_S`` and, if wanted, entropies [S] (float32, nats), differentiable in hidden, weight and bias;
    ``support`` is that of the targets.

    The backward pass computes the tiles again. Raises ValueError for shapes that do not fit or a temperature that is not positive.
    """
    _check(hidden_SH, head, target_S, support)
    inputs = hidden_SH, head.weight_VH, head.bias_V, target_S, head, want_entropy, support
    logprobs_S, entropy_S = _TokenLogprobs.apply(*inputs)  # type: ignore[misc]
    return logprobs_S, entropy_S if want_entropy else None


class Compared(NamedTuple):
    """Of the distributions that the targets are of, float32 [S] each, in nats."""

    logprobs_S: Tensor
    entropy_S: Tensor | None  # None when not wanted
    divergence_S: Tensor
    ref_logprobs_S: Tensor  # the reference's of the same targets, a constant


def token_logprobs_and_divergence(
    hidden_SH: Tensor,
    head: Head,
    target_S: Tensor,
    ref_hidden_SH: Tensor,
    ref_head: Head,
    by: Divergence = FORWARD_KL,
    want_entropy: bool = False,
    support: Support | None = None,
) -> Compared:
    """Log-probabilities of ``target_S``, and how far the whole distributions of policy and reference are apart by ``by``, differentiable in
    the policy's hidden states, weight and bias. Where a token has a support, both are normalised over it. A tile of logits of each is alive
    at a time.

    Raises ValueError for shapes that do not fit, heads over different tokens, or a temperature that is not positive.
    """
    _check(hidden_SH, head, target_S, support)
    _check(ref_hidden_SH, ref_head, target_S, support)
    if head.weight_VH.shape[0] != ref_head.weight_VH.shape[0]:
        raise ValueError(f"vocabularies differ: {head.weight_VH.shape[0]} and {ref_head.weight_VH.shape[0]} tokens")
    if set(head.transform.banned) != set(ref_head.transform.banned):
        raise ValueError(f"banned tokens differ: {head.transform.banned} and {ref_head.transform.banned}")
    inputs = hidden_SH, head.weight_VH, head.bias_V, target_S, head, ref_hidden_SH, ref_head, by, want_entropy, support
    logprobs_S, entropy_S, divergence_S, ref_logprobs_S = _TokenDivergence.apply(*inputs)  # type: ignore[misc]
    return Compared(logprobs_S, entropy_S if want_entropy else None, divergence_S, ref_logprobs_S)


def fused_token_loss(
    hidden_SH: Tensor,
    head: Head,
    target_S: Tensor,
    loss_fn: TokenLoss,
    want_entropy: bool = False,
    values_S: Tensor | None = None,
    support: Support | None = None,
) -> Tensor:
    """The loss ``sum over tiles of loss_fn(tile)`` with the logits' gradient formed in the same pass: three products in place of four.

    Right for losses that are sums of functions of single tokens. ``loss_fn`` is called once a tile, with leaves it may differentiate
    through; ``values_S`` are handed on in slices and get their gradient too.
    """
    _check(hidden_SH, head, target_S, support)
    inputs = hidden_SH, head.weight_VH, head.bias_V, values_S, target_S, head, support, loss_fn, want_entropy
    return _FusedTokenLoss.apply(*inputs)  # type: ignore[no-any-return]


def _check(hidden_SH: Tensor, head: Head, target_S: Tensor, support: Support | None = None) -> None:
    if hidden_SH.dim() != 2 or target_S.shape != hidden_SH.shape[:1] or head.weight_VH.shape[1] != hidden_SH.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden_SH.shape)}, weight {tuple(head.weight_VH.shape)} and target {tuple(target_S.shape)} do not fit"
        )
    if support is not None and (len(support), support.vocab) != (len(target_S), len(head.weight_VH)):
        raise ValueError(f"{len(support)} supports over {support.vocab} tokens for {len(target_S)} targets over {len(head.weight_VH)}")
    if not head.temperature > 0:
        raise ValueError(f"temperature must be positive, not {head.temperature}")


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_SH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_S: Tensor,
        head: Head,
        want_entropy: bool,
        support: Support | None,
    ) -> Any:
        ctx.dtype, ctx.support = product_dtype(hidden_SH), support
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles = Tiles(hidden_SH, head, ctx.dtype, target_S, support)
            parts = [tiles.stats(z_nV, target_S[part], want_entropy, soften=True) for part, z_nV in tiles]
        empty = hidden_SH.new_empty(0, dtype=torch.float32)
        names = ("logprobs_n", "logsumexp_n", "entropy_n")
        logprobs_S, logsumexp_S, entropy_S = (torch.cat([empty, *(getattr(p, name) for p in parts)]) for name in names)
        ctx.save_for_backward(hidden_SH, weight_VH, bias_V, target_S, logsumexp_S, entropy_S)
        ctx.head = head.transform, head.temperature
        ctx.set_materialize_grads(False)
        if not want_entropy:
            ctx.mark_non_differentiable(entropy_S)
        return logprobs_S, entropy_S

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp_S: Tensor | None, grad_entropy_S: Tensor | None) -> Any:
        hidden_SH, weight_VH, bias_V, target_S, logsumexp_S, entropy_S = ctx.saved_tensors
        if grad_logp_S is None:
            grad_logp_S = torch.zeros_like(logsumexp_S)
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles = Tiles(hidden_SH, Head(weight_VH, bias_V, *ctx.head), ctx.dtype, target_S, ctx.support)
            gradients = Gradients(tiles, hidden_SH, ctx.needs_input_grad[:3])
            for part, z_nV in tiles:
                stats = Stats(z_nV.new_empty(0), logsumexp_S[part], entropy_S[part])
                grad_entropy_n = grad_entropy_S[part] if grad_entropy_S is not None else None
                gradients.add(part, tiles.raw_gradient_(z_nV, stats, target_S[part], grad_logp_S[part], grad_entropy_n))
        return *gradients.result(), None, None, None, None


class _TokenDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_SH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_S: Tensor,
        head: Head,
        ref_hidden_SH: Tensor,
        ref_head: Head,
        by: Divergence,
        want_entropy: bool,
        support: Support | None,
    ) -> Any:
        ctx.dtype, ctx.by, ctx.support = product_dtype(hidden_SH), by, support
        parts: list[tuple[Tensor, ...]] = []
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles = Tiles(hidden_SH, head, ctx.dtype, target_S, support)
            ref_tiles = Tiles(ref_hidden_SH, ref_head, ctx.dtype, target_S, support)
            for (part, z_nV), (_, ref_z_nV) in zip(tiles, ref_tiles):
                own, ref = tiles.stats(z_nV, target_S[part], want_entropy), ref_tiles.stats(ref_z_nV, target_S[part], False)
                apart = [
                    divergence(z_nV[rows].sub_(own.logsumexp_n[rows, None]), ref_z_nV[rows].sub_(ref.logsumexp_n[rows, None]), by)
                    for rows in row_blocks(z_nV)
                ]
                parts.append((own.logprobs_n, own.entropy_n, torch.cat(apart), ref.logprobs_n, own.logsumexp_n, ref.logsumexp_n))
        empty = hidden_SH.new_empty(0, dtype=torch.float32)
        logprobs_S, entropy_S, divergence_S, ref_logprobs_S, *logsumexps = (torch.cat([empty, *(p[i] for p in parts)]) for i in range(6))
        ctx.save_for_backward(hidden_SH, weight_VH, bias_V, target_S, entropy_S, ref_hidden_SH, *logsumexps)
        ctx.heads = (head.transform, head.temperature), ref_head
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*((ref_logprobs_S,) if want_entropy else (entropy_S, ref_logprobs_S)))
        return logprobs_S, entropy_S, divergence_S, ref_logprobs_S

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logp_S: Tensor | None, grad_entropy_S: Tensor | None, grad_divergence_S: Tensor | None, _of_ref: Tensor | None
    ) -> Any:
        hidden_SH, weight_VH, bias_V, target_S, entropy_S, ref_hidden_SH, logsumexp_S, ref_logsumexp_S = ctx.saved_tensors
        own, ref_head = ctx.heads
        grad_logp_S, grad_divergence_S = (torch.zeros_like(logsumexp_S) if g is None else g for g in (grad_logp_S, grad_divergence_S))
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles = Tiles(hidden_SH, Head(weight_VH, bias_V, *own), ctx.dtype, target_S, ctx.support)
            gradients = Gradients(tiles, hidden_SH, ctx.needs_input_grad[:3])
            for (part, z_nV), (_, ref_z_nV) in zip(tiles, Tiles(ref_hidden_SH, ref_head, ctx.dtype, target_S, ctx.support)):
                stats = Stats(z_nV.new_empty(0), logsumexp_S[part], entropy_S[part])
                grads = grad_logp_S[part], None if grad_entropy_S is None else grad_entropy_S[part], grad_divergence_S[part]
                ref_logp_nV = ref_z_nV.sub_(ref_logsumexp_S[part, None])
                gradients.add(part, tiles.raw_divergence_gradient_(z_nV, stats, target_S[part], ref_logp_nV, ctx.by, grads))
        return *gradients.result(), *[None] * 7


class _FusedTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_SH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        values_S: Tensor | None,
        target_S: Tensor,
        head: Head,
        support: Support | None,
        loss_fn: TokenLoss,
        want_entropy: bool,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_SH.device)
        grad_values_S = None if values_S is None else torch.zeros_like(values_S)
        dtype = product_dtype(hidden_SH)  # asked before autocast is off: the products are those of the passes without gradient
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles = Tiles(hidden_SH, head, dtype, target_S, support)
            gradients = Gradients(tiles, hidden_SH, ctx.needs_input_grad[:3])
            for part, z_nV in tiles:
                stats = tiles.stats(z_nV, target_S[part], want_entropy, soften=True)
                value_n = None if values_S is None else values_S[part]
                loss, grads = _differentiate(loss_fn, part, stats, want_entropy, value_n)
                total += loss
                gradients.add(part, tiles.raw_gradient_(z_nV, stats, target_S[part], grads[0], grads[1]))
                if grad_values_S is not None and grads[2] is not None:
                    grad_values_S[part] = grads[2]
        ctx.gradients, ctx.grad_values_S = gradients, grad_values_S
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> Any:
        hidden, weight, bias = ctx.gradients.result(scale)
        values = None if ctx.grad_values_S is None else ctx.grad_values_S * scale
        ctx.gradients = ctx.grad_values_S = None
        return hidden, weight, bias, values, *[None] * 5


def _differentiate(
    loss_fn: TokenLoss, part: slice, stats: Stats, want_entropy: bool, values_n: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor | None, Tensor | None]]:
    """The loss of a tile and its gradient by log-probabilities (zeros where the loss does not use them), entropies and values (None)."""
    leaves = [stats.logprobs_n, stats.entropy_n if want_entropy else None, values_n]
    leaves = [x if x is None else x.detach().requires_grad_() for x in leaves]
    logprobs_n, entropy_n, value_n = leaves
    assert logprobs_n is not None
    with torch.enable_grad():
        loss = loss_fn(part, logprobs_n, entropy_n, value_n)
    given = [x for x in leaves if x is not None]
    found = iter(torch.autograd.grad(loss, given, allow_unused=True) if loss.requires_grad else [None for _ in given])
    grads = [None if x is None else next(found) for x in leaves]
    return loss.detach(), (torch.zeros_like(logprobs_n) if grads[0] is None else grads[0], grads[1], grads[2])
