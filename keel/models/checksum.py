"""A checksum of a tensor's bytes, taken where they lie."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_WORDS = 1 << 17  # that are summed at once: they stay in a core's cache
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as a signed number
_NEXT = 0x100000001B3  # odd
_MODULUS = 1 << 64


def checksum(parameter: Tensor) -> int:
    """A number of a tensor's bytes and their order, the same on every device: the sum of its words of 64 bits, each times an odd number of
    its place, modulo 2^64. A change of any one word changes it for certain, other changes all but for certain."""
    return checksum_part(parameter, 0, parameter.numel() * parameter.element_size())


def checksum_part(part: Tensor, offset: int, size: int) -> int:
    """What a piece of a tensor's memory adds to its checksum: the bytes of ``part`` begin at byte ``offset`` of ``size``. The checksum is
    linear in the words, and bytes of one word add up to it: so the parts' numbers, added by ``added``, are the checksum of the whole."""
    bytes_N = part.detach().contiguous().view(-1).view(torch.uint8)
    before = offset % 8
    after = -(before + len(bytes_N)) % 8
    if before or after or bytes_N.storage_offset() % 8:
        bytes_N = torch.nn.functional.pad(bytes_N, (before, after)).clone()
    words_W = bytes_N.view(torch.int64)
    place_W = torch.arange(1, _WORDS + 1, dtype=torch.int64, device=bytes_N.device) * _ODD | 1
    total = torch.zeros((), dtype=torch.int64, device=bytes_N.device)
    first = offset // 8
    within = first % _WORDS  # of its block, where the part begins
    blocks = words_W[: _WORDS - within], *words_W[_WORDS - within :].split(_WORDS)
    for block_W in (block_W for block_W in blocks if len(block_W)):
        total = total * _NEXT + (block_W * place_W[within : within + len(block_W)]).sum()
        within = 0
    behind = max(0, (-(-size // 8) - 1) // _WORDS - (first + len(words_W) - 1) // _WORDS) if len(words_W) else 0
    return _signed(int(total) * pow(_NEXT, behind, _MODULUS))


def added(parts: Iterable[int]) -> int:
    """The checksum of a whole from those of its parts."""
    return _signed(sum(parts))


def _signed(number: int) -> int:
    return (number + _MODULUS // 2) % _MODULUS - _MODULUS // 2
