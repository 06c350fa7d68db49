"""Which units go into which step. Everything is a function of (seed, epoch, step): nothing to save, so a resume is exact."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from keel.core.hashing import permutation
from keel.types import Prompt, Unit

_WINDOW = 16  # batches that are sorted by length together: similar lengths side by side, yet a different company in each epoch


class _HasMeta(Protocol):
    @property
    def meta(self) -> Any: ...


T = TypeVar("T", bound=_HasMeta)


def order(n: int, seed: int, epoch: int) -> list[int]:
    """The order of ``n`` items in one epoch."""
    return permutation(n, "order", seed, epoch)


def steps_per_epoch(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Steps of one pass over ``n`` items; never 0: with fewer items than one batch, that batch is all of them."""
    assert n > 0
    assert batch_size > 0
    return max(1, n // batch_size if drop_last else math.ceil(n / batch_size))


def batch_at(n: int, step: int, batch_size: int, seed: int, drop_last: bool = False) -> list[int]:
    """Indices of the batch of ``step`` (counted from 0 over all epochs). The last one of an epoch is smaller, or dropped."""
    epoch, i = divmod(step, steps_per_epoch(n, batch_size, drop_last))
    return order(n, seed, epoch)[i * batch_size : (i + 1) * batch_size]


def units_for_step(
    items: Sequence[T],
    step: int,
    batch_size: int,
    seed: int,
    *,
    drop_last: bool = False,
    by_length: bool = False,
    balance_by: str | None = None,
) -> list[T]:
    """The units (or prompts) of one step.

    ``balance_by`` is a key of their ``meta``: every value of it is drawn equally often, the rarer ones repeatedly, an epoch keeping its
    size. ``by_length`` puts similar lengths into one batch; the very first batch is then the longest, so that memory fails at once or
    never.
    """
    per_epoch = steps_per_epoch(len(items), batch_size, drop_last)
    epoch, i = divmod(step, per_epoch)
    if balance_by is not None:
        sequence = balanced_order([str(item.meta.get(balance_by, "")) for item in items], seed, epoch)
    else:
        sequence = order(len(items), seed, epoch)
    if by_length:
        return [items[j] for j in length_batches(sequence, [length_of(x) for x in items], batch_size, seed, epoch, drop_last)[i]]
    return [items[j] for j in sequence[i * batch_size : (i + 1) * batch_size]]


def length_of(item: Any) -> int:
    """Tokens of a unit; characters of a prompt."""
    if isinstance(item, Unit):
        return item.n_tokens
    assert isinstance(item, Prompt), f"no length is known for {type(item).__name__}"
    return len(item.text or "") + sum(len(m.text) for m in item.messages)


def length_batches(
    sequence: Sequence[int], lengths: Sequence[int], batch_size: int, seed: int, epoch: int, drop_last: bool = False
) -> list[list[int]]:
    """Cut an epoch's order into batches of similar length: windows of it are sorted, cut, and the batches shuffled.

    A smaller last batch stays last. The batch of epoch 0 with the longest item comes first.
    """
    window = _WINDOW * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(sequence), window):
        part = sorted(sequence[start : start + window], key=lambda i: -lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    last = [b for b in batches if len(b) < batch_size]
    full = [b for b in batches if len(b) == batch_size]
    shuffled = [full[i] for i in permutation(len(full), "batches", seed, epoch)]
    if epoch == 0:
        shuffled.sort(key=lambda b: -max(lengths[i] for i in b))
        shuffled[1:] = [shuffled[1:][i] for i in permutation(max(0, len(shuffled) - 1), "batches", seed, epoch)]
    return shuffled + ([] if drop_last and shuffled else last)


def balanced_order(keys: Sequence[str], seed: int, epoch: int) -> list[int]:
    """An epoch of ``len(keys)`` draws in which the values of ``keys`` take turns: each is drawn equally often, to within one.

    The items of one value come in the order of their own passes, so that all are seen before any repeats.
    """
    by_key: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        by_key[key].append(i)
    names = sorted(by_key)
    turns = math.ceil(len(keys) / len(names))
    drawn: dict[str, list[int]] = {}
    for name in names:
        pool = by_key[name]
        first = epoch * turns  # passes go on where the last epoch ended
        drawn[name] = [
            pool[permutation(len(pool), "balance", seed, name, k // len(pool))[k % len(pool)]] for k in range(first, first + turns)
        ]
    result: list[int] = []
    for turn in range(turns):
        result += [drawn[names[j]][turn] for j in permutation(len(names), "turn", seed, epoch, turn)]
    return result[: len(keys)]
