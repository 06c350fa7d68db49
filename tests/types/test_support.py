"""Supports of tokens: what is stored, how little, and that all of it comes back."""

from __future__ import annotations

import pytest
import torch

from keel.types.support import Support, mask_words


def table(rows: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens may be drawn (from one to most of them) and which rows are not cut at all."""
    g = torch.Generator().manual_seed(vocab)
    share = torch.rand(rows, 1, generator=g) ** 4
    inside = torch.rand(rows, vocab, generator=g) < torch.where(torch.rand(rows, 1, generator=g) < 0.3, 1 - share, share)
    inside[:, 1] |= ~inside.any(1)
    return inside, torch.rand(rows, generator=g) < 0.2


def test_by_hand() -> None:
    """Of 70 tokens: {3, 69}, everything, {0, 2, 4}, all but 69 and 0, the first 67. A mask has three words, so three ids are not listed."""
    inside = torch.zeros(5, 70, dtype=torch.bool)
    inside[0, [3, 69]] = inside[2, [0, 2, 4]] = True
    inside[1] = inside[3, 1:69] = inside[4, :67] = True
    support = Support.of(inside, torch.tensor([False, True, False, False, False]))
    assert mask_words(70) == 3
    assert support.starts_T.tolist() == [0, 2, 2, 5, 7, 10]
    assert support.words_W.tolist() == [3, 69, 0b10101, 0, 0, ~0, ~69, -1, -1, 0b111]
    assert support.sizes().tolist() == [2, 70, 3, 68, 67]
    assert torch.equal(support.outside(slice(1, 5)), ~inside[1:])


@pytest.mark.parametrize("vocab", [5, 32, 33, 64, 300])
def test_what_goes_in_comes_out(vocab: int) -> None:
    inside, whole = table(20, vocab)
    support, outside = Support.of(inside, whole), ~(inside | whole[:, None])
    assert torch.equal(support.outside(slice(0, 20)), outside)
    assert torch.equal(support.outside(slice(3, 9)), outside[3:9])
    assert torch.equal(support.sizes(), (~outside).sum(1))
    index = torch.tensor([4, 4, 0, 19, 7])
    assert torch.equal(support.take(index).outside(slice(0, 5)), outside[index])
    assert torch.equal(support.take(whole).outside(slice(0, int(whole.sum()))), outside[whole])
    joined = Support.join([support, None, support.take(index)], [20, 3, 5])
    assert joined is not None
    assert torch.equal(joined.outside(slice(0, 28)), torch.cat([outside, torch.zeros(3, vocab, dtype=torch.bool), outside[index]]))


def test_what_is_not_cut_takes_no_words() -> None:
    uncut = Support.of(torch.ones(3, 40, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
    assert len(uncut) == 3
    assert len(uncut.words_W) == 0
    assert Support.join([uncut, None], [3, 2]) is None


def test_no_token_takes_more_than_a_bit_for_each_of_the_vocabulary() -> None:
    """Ids of what is in or of what is not, 4 bytes each, until a mask of 4000 bytes is smaller."""
    inside = torch.zeros(6, 32000, dtype=torch.bool)
    for row, size in enumerate((1, 50, 999, 1000, 16000, 31999)):
        inside[row, :size] = True
    support = Support.of(inside, torch.zeros(6, dtype=torch.bool))
    assert (4 * support.starts_T.diff()).tolist() == [4, 200, 3996, 4000, 4000, 4]
    assert support.n_bytes == 4 + 200 + 3996 + 4000 + 4000 + 4 + 8 * 7
