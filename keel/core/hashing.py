"""Randomness without state: a number is a hash of what it is for (seed, prompt, sample, position), never the next draw of a generator.

So the same number comes out after a resume, in another order, in another batch, and on another machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the increment of splitmix64
_FEW = 16
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stable_hash(*parts: str | int) -> int:
    """A 64-bit hash of ``parts``, equal on every machine and in every process (Python's own ``hash`` is salted).

    Types and borders count: ``(1,)``, ``("1",)``, ``("a", "b")`` and ``("ab",)`` all differ.
    """
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        payload = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else str(int(part)).encode("ascii")
        state.update(b"s" if isinstance(part, str) else b"i")
        state.update(len(payload).to_bytes(8, "little"))
        state.update(payload)
    return int.from_bytes(state.digest(), "little")


def _mix(x_B: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele, Lea, Flood 2014, figure 17, with the constants of Stafford's variant 13): a bijection."""
    x_B = (x_B ^ (x_B >> np.uint64(30))) * _MIX_1
    x_B = (x_B ^ (x_B >> np.uint64(27))) * _MIX_2
    return x_B ^ (x_B >> np.uint64(31))


def _mix_one(x: int) -> int:
    """`_mix` of one number in 0 .. 2^64 - 1."""
    x = (x ^ (x >> 30)) * int(_MIX_1) % 2**64
    x = (x ^ (x >> 27)) * int(_MIX_2) % 2**64
    return x ^ (x >> 31)


def uniform(keys_B: NDArray[np.uint64], position: int | NDArray[np.uint64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each key at this position: float64 [B], each a function of its own key and the position alone.

    ``keys_B`` is uint64 [B], usually ``stable_hash(seed, prompt_id, attempt, sample)``; ``position`` >= 0 counts tokens: one for all
    keys, or uint64 [B], one each.
    """
    assert keys_B.dtype == np.uint64, f"keys must be uint64, not {keys_B.dtype}"
    assert isinstance(position, np.ndarray) or position >= 0, "positions count from 0"
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
        start_B = _mix(np.atleast_1d(keys_B) + _GOLDEN)  # mixed once, so that keys next to each other do not share a sequence
        if isinstance(position, np.ndarray):
            offset = (position + np.uint64(1)) * _GOLDEN
        else:
            offset = np.uint64((position + 1) * int(_GOLDEN) % 2**64)
        bits_B = _mix(start_B + offset)
    return (bits_B >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(n: int, *parts: str | int) -> list[int]:
    """The numbers 0 .. n-1 in an order decided by ``parts`` (seed, epoch ...) alone."""
    if n <= _FEW:  # plain integers: the same numbers, without the price of arrays
        first = stable_hash("permutation", *parts)
        keys = [_mix_one((first + int(_GOLDEN) * i) % 2**64) for i in range(1, n + 1)]
        return sorted(range(n), key=keys.__getitem__)
    with np.errstate(over="ignore"):
        start = np.uint64(stable_hash("permutation", *parts))
        keys_n = _mix(start + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64))
    return [int(i) for i in np.argsort(keys_n, kind="stable")]


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """The sha256 of ``data`` in hexadecimal: fingerprint of files, images, templates."""
    return hashlib.sha256(data).hexdigest()
