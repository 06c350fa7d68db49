"""The head's logits in tiles of rows, with their statistics and the gradients that come back through them: a [S, V] tensor never exists.

With ``raw = hidden W^T + b``, ``y = transform(raw)`` and ``z = y / temperature``: ``logprob = z[target] - logsumexp(z)`` and
``entropy = -sum p log p``. Products in the autocast precision (or that of the hidden states), everything after them in float32.

A product in bfloat16 also rounds what it gives, a logit of 20 by up to 0.06. So such a product gives the distance to the target's logit:
small for every token that matters. That logit itself is a sum in float32.
Where a token has a support, both run over its tokens alone, and nothing flows to the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.kernels.logit_transform import LogitTransform
from keel.kernels.narrow import row_blocks
from keel.methods.math.divergence import logit_gradient
from keel.types import Divergence
from keel.types.support import Support

_TILE_CPU = 8 << 20  # numbers in a tile: small enough to stay near the cache, large enough for a good product
_TILE_CUDA = 64 << 20
_LOWEST = -60.0  # log-probabilities below count as this one: e^-60 is nothing, and an exp that underflows takes up to fifty times as long
_BANNED = -1e30  # stands for -inf: 0 * -inf would be NaN in the entropy


@dataclass(frozen=True, slots=True)
class Head:
    """What turns hidden states into a distribution over tokens."""

    weight_VH: Tensor
    bias_V: Tensor | None
    transform: LogitTransform
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Stats:
    """Of the distributions of a tile, float32 [n] each."""

    logprobs_n: Tensor
    logsumexp_n: Tensor
    entropy_n: Tensor  # empty when not wanted
    mass_n: Tensor | None = None  # sums of exp(z - peak), where these stand in place of z


class Tiles:
    """Walks over the rows in tiles and holds the one buffer that the logits of each tile are written to."""

    def __init__(self, hidden_SH: Tensor, head: Head, dtype: torch.dtype, target_S: Tensor, support: Support | None = None) -> None:
        self.head, self.support = head, support
        self.outside: Tensor | None = None  # bool [n, V]: what is not in the supports of the tile at hand
        self.hidden_SH = hidden_SH.detach().to(dtype)
        self._right_VK = _with_ones(head.weight_VH, dtype) if dtype != torch.float32 else head.weight_VH.detach().to(dtype)
        self.weight_VH = self._right_VK[:, : hidden_SH.shape[1]]
        vocab, budget = self.weight_VH.shape[0], _TILE_CUDA if hidden_SH.is_cuda else _TILE_CPU
        self.rows = max(1, min(len(hidden_SH), max(64, min(1024, budget // vocab))))
        self.buffer = torch.empty(self.rows, vocab, dtype=torch.float32, device=hidden_SH.device)
        self.low = self.buffer if dtype == torch.float32 else torch.empty_like(self.buffer, dtype=dtype)
        self._left_SK, self._center_S = self.hidden_SH, None
        if dtype != torch.float32:
            self._center(target_S)

    def _center(self, target_S: Tensor) -> None:
        """Two more columns, which take the target's logit off every logit within the product: their sum is it to 16 bits."""
        hidden_SH = self.hidden_SH
        center_S = (hidden_SH.float() * self.weight_VH[target_S].float()).sum(1)
        high_S = center_S.to(hidden_SH.dtype)
        low_S = (center_S - high_S.float()).to(hidden_SH.dtype)
        self._left_SK = torch.cat([hidden_SH, -high_S[:, None], -low_S[:, None]], 1)
        self._center_S = high_S.float() + low_S.float()

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, z [n, V] float32); z may be overwritten."""
        for start in range(0, len(self.hidden_SH), self.rows):
            part = slice(start, min(start + self.rows, len(self.hidden_SH)))
            n = part.stop - part.start
            z, low = self.buffer[:n], self.low[:n]
            torch.mm(self._left_SK[part], self._right_VK.t(), out=low)
            if self._center_S is not None:
                torch.add(low, self._center_S[part, None], out=z)
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

    def stats(self, z_nV: Tensor, target_n: Tensor, want_entropy: bool, soften: bool = False) -> Stats:
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
        return Stats(chosen_n - peak_n - log_mass_n, peak_n + log_mass_n, entropy_n, mass_n if soften else None)

    def raw_gradient_(self, z_nV: Tensor, stats: Stats, target_n: Tensor, grad_logp_n: Tensor, grad_entropy_n: Tensor | None) -> Tensor:
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
        stats: Stats,
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


class Gradients:
    """Accumulates d loss / d (hidden, weight, bias) over tiles; weight and bias in float32, only where asked for."""

    def __init__(self, tiles: Tiles, hidden_SH: Tensor, wanted: tuple[bool, ...]) -> None:
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


def product_dtype(hidden_SH: Tensor) -> torch.dtype:
    device = hidden_SH.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SH.dtype


def _with_ones(weight_VH: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights in ``dtype`` with two columns of ones, in one copy."""
    vocab, width = weight_VH.shape
    out_VK = torch.empty(vocab, width + 2, dtype=dtype, device=weight_VH.device)
    out_VK[:, :width] = weight_VH.detach()
    out_VK[:, width:] = 1
    return out_VK
