"""Proof of the fast decoder on the loaded model: its logits against the model's own attention, before anything is sampled with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from keel.models.model import Model
from keel.rollout.decode import FastDecoder
from keel.types import Encoded

_WINDOW = 8  # windows are shrunk to it for the proof, so that a few tokens reach beyond them
_PROMPTS = (_WINDOW + 5, 3)
_ROWS = (0, 1, 0, 1, 0)  # prompt of each row; after half of the steps row 1 leaves
_STEPS = 10
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # relative norm of the logits' difference


@dataclass(frozen=True, slots=True)
class Proof:
    """May the fast path be taken? ``error`` is the relative norm of the difference of the logits."""

    ok: bool
    reason: str
    error: float = float("inf")


@torch.no_grad()
def prove_decode(model: Model) -> Proof:
    """Decode forced tokens after two prompts of different length, beyond every attention window, and compare with whole plain passes.

    The fast path would be *silently* wrong for an architecture that does more in attention than it tells the attention function.
    """
    if not model.packed:
        return Proof(False, "packed rows are off or not proven for this model")
    with _short_windows(model), model.compute():
        expected = _plain_logits(model)
        try:
            found = _fast_logits(model)
        except Exception as error:  # an architecture that cannot be driven this way fails in its own words
            return Proof(False, f"{type(model.module).__name__} cannot decode with shared prompts ({type(error).__name__}: {error})")
    real = torch.isfinite(expected)
    error = float((found - expected)[real].norm() / expected[real].norm())
    if not error <= _TOLERANCE[model.compute_dtype]:
        return Proof(False, f"{type(model.module).__name__}: logits of the fast path differ by {error:.1e} from the model's own attention", error)
    return Proof(True, "", error)


def _tokens(model: Model, salt: int, count: int) -> Tensor:
    """Fixed token ids that are spread over the vocabulary and stand for no image."""
    spread_T = (torch.arange(count) * 7919 + salt * 104729 + 11) % model.head_weight_VH.shape[0]
    return torch.where(torch.isin(spread_T, torch.tensor(model.transform.banned, dtype=torch.int64)), spread_T.new_full((), 5), spread_T)


def _fast_logits(model: Model) -> Tensor:
    """Logits [X, V] of every forced step of every row, row by row."""
    prompts = [Encoded(_tokens(model, q, n)) for q, n in enumerate(_PROMPTS)]
    forced_BT = torch.stack([_tokens(model, 10 + row, _STEPS) for row in range(len(_ROWS))]).to(model.device)
    decoder = FastDecoder(model, prefill_tokens=max(_PROMPTS))  # one prompt a pass
    order_B = torch.arange(len(_ROWS), device=model.device)
    logits = [dict(enumerate(decoder.start(prompts, torch.tensor(_ROWS), _STEPS)))]
    for step in range(_STEPS - 1):
        if step == _STEPS // 2:
            order_B = order_B[decoder.keep(order_B != 1)]
        logits.append(dict(zip(order_B.tolist(), decoder.step(forced_BT[order_B, step]))))
    return torch.stack([step[row] for row in range(len(_ROWS)) for step in logits if row in step])


def _plain_logits(model: Model) -> Tensor:
    """The same from whole rows."""
    lengths = [_STEPS if row != 1 else _STEPS // 2 + 1 for row in range(len(_ROWS))]
    rows = [
        torch.cat([_tokens(model, prompt, _PROMPTS[prompt]), _tokens(model, 10 + row, _STEPS)[: length - 1]])
        for row, (prompt, length) in enumerate(zip(_ROWS, lengths))
    ]
    mask_BL = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    hidden_BLH = model.run_plain(pad_sequence(rows, batch_first=True), mask_BL)
    return model.logits(torch.cat([hidden_BLH[i, len(row) - n : len(row)] for i, (row, n) in enumerate(zip(rows, lengths))]))


@contextmanager
def _short_windows(model: Model) -> Iterator[None]:
    """Every attention window and chunk of the model at ``_WINDOW`` for a while: real ones would take thousands of tokens to reach."""
    owners = [model.text_config, *model.module.get_decoder().modules()]
    found = [(owner, name) for owner in owners for name in ("sliding_window", "attention_chunk_size") if isinstance(getattr(owner, name, None), int)]
    before = [getattr(owner, name) for owner, name in found]
    for owner, name in found:
        setattr(owner, name, _WINDOW)
    try:
        yield
    finally:
        for (owner, name), value in zip(found, before, strict=True):
            setattr(owner, name, value)
