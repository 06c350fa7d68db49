"""Which tokens could have been drawn, where not all of them could (top-k, top-p, no end before so many tokens).

A token that was drawn from a part of the vocabulary has its log-probability there: trainer, reference and sampler all normalise over the
very same part, or their ratio is not that of two distributions over one set of actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = 32


@dataclass(frozen=True, slots=True)
class Support:
    """The support of each of T tokens, in ``words_W[starts_T[t] : starts_T[t + 1]]``: no word for the whole vocabulary; ids of what is in
    it; ``~id`` of what is not; or, where both would be as many as the ``ceil(V / 32)`` words of a bit mask, that bit mask.

    A nucleus of a trained model has a handful of tokens, and an end that may not come yet is one token less, so ids take the least by far;
    the nucleus of a flat distribution may hold half of the vocabulary, so the mask bounds a token at V / 8 bytes.
    """

    words_W: Tensor  # int32 [W]
    starts_T: Tensor  # int64 [T + 1]
    vocab: int

    @classmethod
    def of(cls, inside_TV: Tensor, whole_T: Tensor) -> Support:
        """From a table (bool): may token v be drawn at t? Rows of ``whole_T`` (bool) are not cut at all."""
        width = mask_words(inside_TV.shape[1])
        count_T = inside_TV.sum(1)
        left_T = inside_TV.shape[1] - count_T
        lengths_T = torch.where(whole_T | (count_T == 0), 0, torch.minimum(count_T, left_T).clamp(max=width))
        starts_T = _starts(lengths_T)
        words_W = torch.empty(int(starts_T[-1]), dtype=torch.int32, device=inside_TV.device)
        masked_T, listed_T = lengths_T == width, (lengths_T > 0) & (lengths_T < width)
        inside_T, outside_T = listed_T & (count_T <= left_T), listed_T & (count_T > left_T)
        words_W[torch.repeat_interleave(inside_T, lengths_T)] = inside_TV[inside_T].nonzero()[:, 1].int()
        words_W[torch.repeat_interleave(outside_T, lengths_T)] = ~(~inside_TV[outside_T]).nonzero()[:, 1].int()
        words_W[torch.repeat_interleave(masked_T, lengths_T)] = _packed(inside_TV[masked_T], width).flatten()
        return cls(words_W, starts_T, inside_TV.shape[1])

    @classmethod
    def join(cls, parts: Sequence[Support | None], lengths: Sequence[int]) -> Support | None:
        """One after the other; None stands for so many tokens that are not cut. None when no token is."""
        found = [p for p in parts if p is not None and len(p.words_W)]
        if not found:
            return None
        sizes = [n if p is None else p.starts_T.diff() for p, n in zip(parts, lengths, strict=True)]
        lengths_T = torch.cat([torch.zeros(s, dtype=torch.int64) if isinstance(s, int) else s for s in sizes])
        return cls(torch.cat([p.words_W for p in found]), _starts(lengths_T), found[0].vocab)

    def __len__(self) -> int:
        return len(self.starts_T) - 1

    def take(self, index_K: Tensor) -> Support:
        """Those of the tokens with these indices (int64, or bool [T]), in this order."""
        index_K = index_K.nonzero()[:, 0] if index_K.dtype == torch.bool else index_K
        lengths_K = self.starts_T.diff()[index_K]
        starts_K = _starts(lengths_K)
        moved_W = torch.repeat_interleave(self.starts_T[index_K] - starts_K[:-1], lengths_K)
        return Support(self.words_W[moved_W + torch.arange(len(moved_W), device=moved_W.device)], starts_K, self.vocab)

    def outside(self, part: slice) -> Tensor:
        """Which tokens could not have been drawn, bool [n, V], for a slice of the T tokens."""
        starts_n = self.starts_T[part.start : part.stop + 1]
        words_W, lengths_n = self.words_W[int(starts_n[0]) : int(starts_n[-1])], starts_n.diff()
        width = mask_words(self.vocab)
        masked_n = lengths_n == width
        row_W = torch.repeat_interleave(torch.arange(len(lengths_n), device=words_W.device), lengths_n)
        listed_W = ~masked_n[row_W]
        row_K, word_K = row_W[listed_W], words_W[listed_W].long()
        inside_n = torch.zeros_like(masked_n)
        inside_n[row_K[word_K >= 0]] = True  # rows that list what is in them: all else is out
        outside_nV = inside_n[:, None].repeat(1, self.vocab)
        outside_nV[row_K, torch.where(word_K < 0, ~word_K, word_K)] = word_K < 0
        if bool(masked_n.any()):
            outside_nV[masked_n] = ~_unpacked(words_W[~listed_W].view(-1, width), self.vocab)
        return outside_nV

    def sizes(self) -> Tensor:
        """How many tokens could have been drawn, int64 [T]."""
        lengths_T = self.starts_T.diff()
        first_T = torch.cat([self.words_W, self.words_W.new_zeros(1)])[self.starts_T[:-1]]
        sizes_T = torch.where((lengths_T == 0) | (first_T < 0), self.vocab - lengths_T, lengths_T)
        masked_K = (lengths_T == mask_words(self.vocab)).nonzero()[:, 0]
        for k in range(len(masked_K)):
            t = int(masked_K[k])
            sizes_T[t] = self.vocab - self.outside(slice(t, t + 1)).sum()
        return sizes_T

    def to(self, device: torch.device) -> Support:
        """The same on another device."""
        return Support(self.words_W.to(device), self.starts_T.to(device), self.vocab)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return self.words_W.nbytes + self.starts_T.nbytes


def mask_words(vocab: int) -> int:
    """Words of a bit mask over the vocabulary; as many ids or more are not listed."""
    return -(-vocab // _BITS)


def _starts(lengths_T: Tensor) -> Tensor:
    return torch.cat([lengths_T.new_zeros(1), lengths_T.cumsum(0)])


def _packed(inside_MV: Tensor, width: int) -> Tensor:
    """Bit masks, int32 [M, width]: bit ``v % 32`` of word ``v // 32`` is token v (in this machine's order of bytes)."""
    padded = torch.nn.functional.pad(inside_MV, (0, width * _BITS - inside_MV.shape[1])).view(len(inside_MV), width * 4, 8)
    weights_8 = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=padded.device)
    return (padded * weights_8).sum(-1, dtype=torch.uint8).view(torch.int32)


def _unpacked(masks_MW: Tensor, vocab: int) -> Tensor:
    """The bits of ``_packed`` as bool [M, V]."""
    shifts_8 = torch.arange(8, dtype=torch.uint8, device=masks_MW.device)
    bits = (masks_MW.contiguous().view(torch.uint8)[:, :, None] >> shifts_8) & 1
    return bits.flatten(1)[:, :vocab].bool()
