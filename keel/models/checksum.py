"""A checksum of a tensor's bytes, taken where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

_WORDS = 1 << 17  # that are summed at once: they stay in a core's cache
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as a signed number
_NEXT = 0x100000001B3  # odd


def checksum(parameter: Tensor) -> int:
    """A number of a tensor's bytes and their order, the same on every device: the sum of its words of 64 bits, each times an odd number of
    its place, modulo 2^64. A change of any one word changes it for certain, other changes all but for certain."""
    bytes_N = parameter.detach().contiguous().view(-1).view(torch.uint8)
    missing = -len(bytes_N) % 8
    if missing or bytes_N.storage_offset() % 8:
        bytes_N = torch.nn.functional.pad(bytes_N, (0, missing)).clone()
    place_W = torch.arange(1, _WORDS + 1, dtype=torch.int64, device=bytes_N.device) * _ODD | 1
    total = torch.zeros((), dtype=torch.int64, device=bytes_N.device)
    for words_W in bytes_N.view(torch.int64).split(_WORDS):
        total = total * _NEXT + (words_W * place_W[: len(words_W)]).sum()
    return int(total)
