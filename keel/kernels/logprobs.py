"""Log-probabilities of given tokens from hidden states, in tiles of rows: a [S, V] tensor never exists.

With ``raw = hidden W^T + b``, ``y = transform(raw)`` and ``z = y / temperature``: ``logprob = z[target] - logsumexp(z)`` and
``entropy = -sum p log p``. Products in the autocast precision (or that of the hidden states), everything after them in float32.
Where a token has a support, both run over its tokens alone, and nothing flows to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from keel.kernels.logit_transform import LogitTransform
from keel.kernels.narrow import row_blocks
from keel.methods.math.divergence import divergence, logit_gradient
from keel.types import Divergence
from keel.types.support import Support

_TILE_CPU = 8 << 20  # numbers in a tile: small enough to stay near the cache, large enough for a good product
_TILE_CUDA = 64 << 20
_LOWEST = -60.0  # log-probabilities below count as this one: e^-60 is nothing, and an exp that underflows takes up to fifty times as long
_BANNED = -1e30  # stands for -inf: 0 * -inf would be NaN in the entropy

FORWARD_KL = Divergence("forward_kl")

TokenLoss = Callable[[slice, Tensor, Tensor | None, Tensor | None], Tensor]
"""(slice of S, logprobs, entropies or None, values or None) -> the scalar loss of those tokens."""


@dataclass(frozen=True, slots=True)
class Head:
    """What turns hidden states into a distribution over tokens."""

    weight_VH: Tensor
    bias_V: Tensor | None
    transform: LogitTransform
    temperature: float = 1.0


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


class _Tiles:
    """Walks over the rows in tiles and holds the one buffer that the logits of each tile are written to."""

    def __init__(self, hidden_SH: Tensor, head: Head, dtype: torch.dtype, support: Support | None = None) -> None:
        self.head, self.support = head, support
        self.outside: Tensor | None = None  # bool [n, V]: what is not in the supports of the tile at hand
        self.hidden_SH = hidden_SH.detach().to(dtype)
        self.weight_VH = head.weight_VH.detach().to(dtype)
        vocab, budget = self.weight_VH.shape[0], _TILE_CUDA if hidden_SH.is_cuda else _TILE_CPU
        self.rows = max(1, min(len(hidden_SH), max(64, min(1024, budget // vocab))))
        self.buffer = torch.empty(self.rows, vocab, dtype=torch.float32, device=hidden_SH.device)
        self.low = self.buffer if dtype == torch.float32 else torch.empty_like(self.buffer, dtype=dtype)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, z [n, V] float32); z may be overwritten."""
        for start in range(0, len(self.hidden_SH), self.rows):
            part = slice(start, min(start + self.rows, len(self.hidden_SH)))
            n = part.stop - part.start
            z, low = self.buffer[:n], self.low[:n]
            torch.mm(self.hidden_SH[part], self.weight_VH.t(), out=low)
            if low is not z and low.dtype != z.dtype:
                z.copy_(low)
            if self.head.bias_V is not None:
                z.add_(self.head.bias_V.detach())
            self.head.transform.apply_(z)
            if self.head.temperature != 1.0:
                z.div_(self.head.temperature)
            if self.head.transform.banned:
                z[:, list(self.head.transform.banned)] = _BANNED
            if self.support is not None:
                self.outside = self.support.outside(part)
                z.masked_fill_(self.outside, _BANNED)
            yield part, z

    def stats(self, z_nV: Tensor, target_n: Tensor, want_entropy: bool, soften: bool = False) -> _Stats:
        """Statistics of the tile's distributions. With ``soften`` and no entropies the exponentials take the memory of ``z_nV``, for
        ``raw_gradient_``; else it stays as it is."""
        soften = soften and not want_entropy and self.head.transform.softcap is None
        chosen_n, peak_n = z_nV.gather(1, target_n[:, None])[:, 0], z_nV.amax(1)
        mass_n = torch.empty_like(peak_n)
        entropy_n = torch.empty_like(peak_n) if want_entropy else z_nV.new_empty(0)
        for rows in row_blocks(z_nV):
            z_bV = z_nV[rows]
            shifted_bV = torch.sub(z_bV, peak_n[rows, None], out=z_bV if soften else None).clamp_(min=_LOWEST)
            if not want_entropy:
                mass_n[rows] = shifted_bV.exp_().sum(1)
                continue
            weights_bV = shifted_bV.exp()
            mass_n[rows] = mass_b = weights_bV.sum(1)
            entropy_n[rows] = weights_bV.mul_(shifted_bV).sum(1).div_(mass_b)
        log_mass_n = mass_n.log()
        if want_entropy:  # both terms are >= 0: nothing cancels where the distribution is sharp
            entropy_n = log_mass_n - entropy_n
        return _Stats(chosen_n - peak_n - log_mass_n, peak_n + log_mass_n, entropy_n, mass_n if soften else None)

    def raw_gradient_(self, z_nV: Tensor, stats: _Stats, target_n: Tensor, grad_logp_n: Tensor, grad_entropy_n: Tensor | None) -> Tensor:
        """d loss / d raw [n, V] in the memory of ``z_nV``.

        d logprob / d z = onehot - p and d entropy / d z = -p (log p + entropy).
        """
        for rows in row_blocks(z_nV):
            z_bV = z_nV[rows]
            y_bV = z_bV * self.head.temperature if self.head.transform.softcap is not None else z_bV
            if stats.mass_n is not None:
                grad_bV = z_bV.mul_((-grad_logp_n[rows] / stats.mass_n[rows])[:, None])
            elif grad_entropy_n is None:
                grad_bV = z_bV.sub_(stats.logsumexp_n[rows, None]).clamp_(min=_LOWEST).exp_().mul_(-grad_logp_n[rows, None])
            else:
                logp_bV = z_bV.sub_(stats.logsumexp_n[rows, None]).clamp_(min=_LOWEST)
                probs_bV = logp_bV.exp()
                weight_bV = logp_bV.add_(stats.entropy_n[rows, None]).mul_(-grad_entropy_n[rows, None]).sub_(grad_logp_n[rows, None])
                grad_bV = weight_bV.mul_(probs_bV)
            grad_bV.scatter_add_(1, target_n[rows, None], grad_logp_n[rows, None])
            self._through_transform_(grad_bV, y_bV)
        return z_nV if self.outside is None else z_nV.masked_fill_(self.outside, 0.0)

    def raw_divergence_gradient_(
        self,
        z_nV: Tensor,
        stats: _Stats,
        target_n: Tensor,
        ref_logp_nV: Tensor,
        by: Divergence,
        grads: tuple[Tensor, Tensor | None, Tensor],
    ) -> Tensor:
        """The same for log-probabilities, entropies (or None) and divergences from a reference; ``grads`` in this order."""
        grad_logp_n, grad_entropy_n, grad_divergence_n = grads
        for rows in row_blocks(z_nV):
            z_bV = z_nV[rows]
            y_bV = z_bV * self.head.temperature if self.head.transform.softcap is not None else z_bV
            logp_bV = z_bV.sub_(stats.logsumexp_n[rows, None])
            grad_bV, probs_bV = logit_gradient(logp_bV, ref_logp_nV[rows], by)
            grad_bV.mul_(grad_divergence_n[rows, None])
            if grad_entropy_n is None:
                grad_bV.addcmul_(probs_bV, -grad_logp_n[rows, None])
            else:
                lifted_bV = logp_bV.clamp_(min=_LOWEST).add_(stats.entropy_n[rows, None]).mul_(-grad_entropy_n[rows, None])
                grad_bV.addcmul_(probs_bV, lifted_bV.sub_(grad_logp_n[rows, None]))
            grad_bV.scatter_add_(1, target_n[rows, None], grad_logp_n[rows, None])
            z_bV.copy_(self._through_transform_(grad_bV, y_bV))
        return z_nV if self.outside is None else z_nV.masked_fill_(self.outside, 0.0)

    def _through_transform_(self, grad_nV: Tensor, y_nV: Tensor) -> Tensor:
        if self.head.transform.banned:
            grad_nV[:, list(self.head.transform.banned)] = 0.0
        if self.head.temperature != 1.0:
            grad_nV.div_(self.head.temperature)
        return self.head.transform.backward_(grad_nV, y_nV)


@dataclass(frozen=True, slots=True)
class _Stats:
    """Of the distributions of a tile, float32 [n] each."""

    logprobs_n: Tensor
    logsumexp_n: Tensor
    entropy_n: Tensor  # empty when not wanted
    mass_n: Tensor | None = None  # sums of exp(z - peak), where these stand in place of z


class _Gradients:
    """Accumulates d loss / d (hidden, weight, bias) over tiles; weight and bias in float32, only where asked for."""

    def __init__(self, tiles: _Tiles, hidden_SH: Tensor, wanted: tuple[bool, ...]) -> None:
        self.tiles = tiles
        weight_VH = tiles.head.weight_VH
        self.hidden_SH = torch.empty_like(hidden_SH) if wanted[0] else None
        self.weight_VH = torch.zeros(weight_VH.shape, dtype=torch.float32, device=hidden_SH.device) if wanted[1] else None
        self.bias_V = torch.zeros(weight_VH.shape[0], dtype=torch.float32, device=hidden_SH.device) if wanted[2] else None

    def add(self, part: slice, grad_nV: Tensor) -> None:
        tiles = self.tiles
        if self.bias_V is not None:
            self.bias_V.add_(grad_nV.sum(0))
        low_nV = grad_nV
        if tiles.hidden_SH.dtype != torch.float32:
            low_nV = tiles.low[: len(grad_nV)].copy_(grad_nV)
        if self.hidden_SH is not None:
            self.hidden_SH[part] = torch.mm(low_nV, tiles.weight_VH)
        if self.weight_VH is not None:
            if low_nV is grad_nV:
                self.weight_VH.addmm_(low_nV.t(), tiles.hidden_SH[part])
            else:
                self.weight_VH.add_(torch.mm(low_nV.t(), tiles.hidden_SH[part]))

    def result(self, scale: Tensor | None = None) -> list[Tensor | None]:
        head = self.tiles.head
        grads = [self.hidden_SH, self.weight_VH, self.bias_V]
        if scale is not None:
            grads = [g if g is None else g.mul_(scale) for g in grads]
        dtypes = [None, head.weight_VH.dtype, None if head.bias_V is None else head.bias_V.dtype]
        return [g if g is None or d is None else g.to(d) for g, d in zip(grads, dtypes)]


def _product_dtype(hidden_SH: Tensor) -> torch.dtype:
    device = hidden_SH.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SH.dtype


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
        ctx.dtype, ctx.support = _product_dtype(hidden_SH), support
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles = _Tiles(hidden_SH, head, ctx.dtype, support)
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
            tiles = _Tiles(hidden_SH, Head(weight_VH, bias_V, *ctx.head), ctx.dtype, ctx.support)
            gradients = _Gradients(tiles, hidden_SH, ctx.needs_input_grad[:3])
            for part, z_nV in tiles:
                stats = _Stats(z_nV.new_empty(0), logsumexp_S[part], entropy_S[part])
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
        ctx.dtype, ctx.by, ctx.support = _product_dtype(hidden_SH), by, support
        parts: list[tuple[Tensor, ...]] = []
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles, ref_tiles = _Tiles(hidden_SH, head, ctx.dtype, support), _Tiles(ref_hidden_SH, ref_head, ctx.dtype, support)
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
            tiles = _Tiles(hidden_SH, Head(weight_VH, bias_V, *own), ctx.dtype, ctx.support)
            gradients = _Gradients(tiles, hidden_SH, ctx.needs_input_grad[:3])
            for (part, z_nV), (_, ref_z_nV) in zip(tiles, _Tiles(ref_hidden_SH, ref_head, ctx.dtype, ctx.support)):
                stats = _Stats(z_nV.new_empty(0), logsumexp_S[part], entropy_S[part])
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
        dtype = _product_dtype(hidden_SH)  # asked before autocast is off: the products are those of the passes without gradient
        with torch.autocast(hidden_SH.device.type, enabled=False):
            tiles = _Tiles(hidden_SH, head, dtype, support)
            gradients = _Gradients(tiles, hidden_SH, ctx.needs_input_grad[:3])
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
    loss_fn: TokenLoss, part: slice, stats: _Stats, want_entropy: bool, values_n: Tensor | None
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
