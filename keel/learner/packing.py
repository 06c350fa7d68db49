"""Units -> packed batches and micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from keel.kernels.positions import packed_positions
from keel.types import Batch, Branch, Layout, MediaRef, Unit
from keel.types.support import Support


def pack(units: Sequence[Unit]) -> Batch:
    """Lay units out in one row without padding, and list what is scored: every trained token of every branch.

    Signals that all branches carry are gathered at the scored tokens. Raises ValueError for an empty list, an empty prompt, an empty
    branch, or tensors of a branch that differ in length.
    """
    if not units:
        raise ValueError("nothing to pack: no units")
    tokens: list[Tensor] = []
    scored = _Scored()
    last_R: list[int] = []
    unit_R: list[int] = []
    media: list[MediaRef] = []
    at = 0
    for u, unit in enumerate(units):
        prompt = len(unit.prompt)
        if prompt == 0:
            raise ValueError(f"unit '{unit.unit_id}' has an empty prompt: its first token has nothing to be predicted from")
        tokens.append(unit.prompt.tokens_T)
        media += unit.prompt.media
        prompt_end = at + prompt - 1
        at += prompt
        for branch in unit.branches:
            if not len(branch):
                raise ValueError(f"unit '{unit.unit_id}' has an empty branch: it has no last token to be judged at")
            scored.add(unit, branch, prompt_end, at, len(unit_R))
            tokens.append(branch.tokens_T)
            at += len(branch)
            unit_R.append(u)
            last_R.append(at - 1)
    return Batch(
        tuple(units),
        torch.cat(tokens),
        packed_positions([(u.prompt, [len(b) for b in u.branches]) for u in units]),
        groups=tuple(Layout(len(u.prompt), tuple(len(b) for b in u.branches), u.prompt.spans) for u in units),
        source_S=_cat(scored.source),
        target_S=_cat(scored.target),
        branch_S=_cat(scored.branch),
        unit_R=torch.tensor(unit_R, dtype=torch.long),
        last_R=torch.tensor(last_R, dtype=torch.long),
        signals=_signals([b for u in units for b in u.branches]),
        media=tuple(media),
        support=_support([b for u in units for b in u.branches]),
    )


def with_contrasts(units: Sequence[Unit]) -> list[Unit]:
    """The units, each with its contrast behind it: what a loss sees."""
    return [part for unit in units for part in (unit, unit.contrast) if part is not None]


class _Scored:
    """Collects the scored tokens, branch by branch."""

    def __init__(self) -> None:
        self.source: list[Tensor] = []
        self.target: list[Tensor] = []
        self.branch: list[Tensor] = []

    def add(self, unit: Unit, branch: Branch, prompt_end: int, start: int, index: int) -> None:
        lengths = {len(branch), *(len(t) for t in (branch.trained_T, *branch.signals.values(), branch.support) if t is not None)}
        if len(lengths) > 1:
            raise ValueError(f"unit '{unit.unit_id}': tokens, mask, signals, supports of a branch differ in length: {sorted(lengths)}")
        source_T = torch.arange(start - 1, start - 1 + len(branch))
        if len(branch):
            source_T[0] = prompt_end
        self.source.append(source_T[branch.trained_T])
        self.target.append(branch.tokens_T[branch.trained_T])
        self.branch.append(torch.full((int(branch.trained_T.sum()),), index))


def _signals(branches: Sequence[Branch]) -> dict[str, Tensor]:
    """Signals that every branch with a trained token carries, at the scored tokens."""
    trained = [b for b in branches if bool(b.trained_T.any())]
    names = set.intersection(*(set(b.signals) for b in trained)) if trained else set[str]()
    return {name: torch.cat([b.signals[name][b.trained_T] for b in trained]) for name in sorted(names)}


def _support(branches: Sequence[Branch]) -> Support | None:
    """The supports of the scored tokens; None where none is cut."""
    parts = [None if b.support is None else b.support.take(b.trained_T) for b in branches]
    return Support.join(parts, [int(b.trained_T.sum()) for b in branches])


def _cat(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def narrow(batch: Batch, part: slice) -> Batch:
    """The same batch with only the scored tokens of ``part``: what a token-local objective sees of one tile. Supports stay behind: their
    work is done."""
    own = {name: getattr(batch, name)[part] for name in ("source_S", "target_S", "branch_S")}
    return replace(batch, signals={name: tensor[part] for name, tensor in batch.signals.items()}, support=None, **own)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The tensors that an objective touches on ``device``."""
    if device.type == "cpu":
        return batch
    moved = {k: getattr(batch, k).to(device) for k in ("source_S", "target_S", "branch_S", "unit_R", "last_R")}
    support = None if batch.support is None else batch.support.to(device)
    return replace(batch, signals={k: v.to(device) for k, v in batch.signals.items()}, support=support, **moved)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some branches of one unit: ``first`` is the index of the first of them in the unit at ``index``."""

    index: int
    first: int
    unit: Unit


def plan_pieces(units: Sequence[Unit], max_tokens: int, keep_units_whole: bool) -> list[list[Piece]]:
    """Micro-batches of at most ``max_tokens`` tokens, as few as first-fit finds, the largest units first: they decide the peak of memory,
    so a batch that does not fit fails at once. What is larger by itself is split between branches, its prompt repeated, unless units are
    kept whole; a single branch that is larger stands alone. Deterministic."""
    pieces = [piece for i, unit in enumerate(units) for piece in _split(i, unit, max_tokens, keep_units_whole)]
    pieces.sort(key=lambda p: (-p.unit.n_tokens, p.index, p.first))
    bins: list[list[Piece]] = []
    room: list[int] = []
    for piece in pieces:
        size = piece.unit.n_tokens
        slot = next((i for i, left in enumerate(room) if left >= size), None)
        if slot is None:
            bins.append([])
            room.append(max_tokens)
            slot = len(bins) - 1
        bins[slot].append(piece)
        room[slot] -= size
    return [sorted(b, key=lambda p: (p.index, p.first)) for b in bins]


def plan_microbatches(units: Sequence[Unit], max_tokens: int, keep_units_whole: bool) -> list[list[Unit]]:
    """``plan_pieces`` as units: every branch of every unit is in exactly one micro-batch."""
    return [[piece.unit for piece in pieces] for pieces in plan_pieces(units, max_tokens, keep_units_whole)]


def longest_microbatch(units: Sequence[Unit], max_tokens: int, keep_units_whole: bool) -> tuple[Unit, ...]:
    """The micro-batch with the most tokens that ``units`` are cut into."""
    return tuple(max(plan_microbatches(units, max_tokens, keep_units_whole), key=lambda part: sum(u.n_tokens for u in part)))


def _split(index: int, unit: Unit, max_tokens: int, whole: bool) -> list[Piece]:
    if whole or unit.n_tokens <= max_tokens or len(unit.branches) < 2:
        return [Piece(index, 0, unit)]
    pieces: list[Piece] = []
    first, size = 0, len(unit.prompt)
    for i, branch in enumerate(unit.branches):
        if i > first and size + len(branch) > max_tokens:
            pieces.append(Piece(index, first, replace(unit, branches=unit.branches[first:i])))
            first, size = i, len(unit.prompt)
        size += len(branch)
    return [*pieces, Piece(index, first, replace(unit, branches=unit.branches[first:]))]
