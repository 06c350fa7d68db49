"""Proof of the fast decoder on the loaded model: its logits against the model's own attention, before anything is sampled with it. And a
measurement: does a row's rounding depend on the rows beside it?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from keel.kernels import decode_products, narrow
from keel.models import prove
from keel.models.model import Model
from keel.models.prove_images import as_batch
from keel.rollout import continuous, decode, kept, plans, slots
from keel.rollout.continuous import SlotDecoder
from keel.rollout.decode import MIN_ROWS, FastDecoder
from keel.rollout.kept import Beginning
from keel.types import Branch, Encoded, Unit

_PROMPTS = (prove.WINDOW + 5, 3)
_ROWS = (0, 1, 0, 1, 0)  # prompt of each row; after half of the steps row 1 leaves
_STEPS = 10
_JOINS = (0, 3, 0, 3, 5)  # step at which each row joins, where rows come and go
_ENDS = (1, 6)  # tokens that come behind what was kept of each prompt
_ENOUGH = 64  # steps that are announced, so that the decoder makes its copies of weights
_COMPANY = (5, 8, 17, 40)  # numbers of rows that a row is decoded among, beside the fewest
_COMPANY_STEPS = 3


def prove_decode(model: Model) -> bool:
    """May the fast path be taken? It would be *silently* wrong for an architecture that does more in attention than it tells the
    attention function. The verdict is remembered; a failure is logged."""
    return model.packed and prove.verdict(model, "decoding with shared prompts", decode_error, (decode, plans, decode_products))


def prove_slots(model: Model) -> bool:
    """The same of rows that come and go (``continuous``)."""
    return model.packed and prove.verdict(model, "decoding rows that come and go", slots_error, (continuous, slots, plans, decode_products))


def prove_continued(model: Model) -> bool:
    """The same of prompts whose beginnings were read before (``kept``)."""
    return prove.verdict(model, "conversations that go on", continued_error, (decode, plans, kept, decode_products))


def row_dependence(model: Model) -> float:
    """By how much, in nats, a row's log-probabilities differ at most when it is decoded among more or fewer rows. 0 = not a bit.

    Matrix libraries choose another kernel for another number of rows, and some kernels add in another order. Where this is 0, a request
    draws the same tokens whatever else is sampled beside it. Elsewhere the distribution is the same, and the same requests together draw
    the same tokens: all that exact resume asks for. It hangs on processor and precision, so it is measured; the result is remembered.
    """
    found = prove.measured(model, "rows beside", _row_dependence, (decode, plans, narrow, decode_products))
    return float("nan") if found is None else found


def company(dependence: float) -> str:
    """What a measured ``row_dependence`` means, in one line."""
    if dependence == 0:
        return "a row's numbers do not depend on the rows sampled beside it, to the last bit"
    what = f"by up to {dependence:.1e} nats" if dependence == dependence else "by an unknown amount: it could not be measured"
    return f"a row's numbers depend on how many rows are sampled beside it, {what}; the same requests together draw the same tokens"


@torch.no_grad()
def _row_dependence(model: Model) -> float:
    with model.compute():
        alone = _first_rows(model, MIN_ROWS)
        return max((_first_rows(model, rows) - alone).abs().max().item() for rows in _COMPANY)


def _first_rows(model: Model, rows: int) -> Tensor:
    """Log-probabilities [MIN_ROWS, steps] of forced tokens in the first rows of ``rows``, and of the token that a prompt is followed by."""
    prompt = Encoded(_tokens(model, 0, 9))
    forced_BT = torch.stack([_tokens(model, 10 + row, _COMPANY_STEPS + 1) for row in range(rows)]).to(model.device)
    decoder = FastDecoder(model, prefill_tokens=len(prompt))
    logits = [decoder.start([prompt], torch.zeros(rows, dtype=torch.int64), _ENOUGH)]
    logits += [decoder.step(forced_BT[:, step]) for step in range(_COMPANY_STEPS)]
    decoder.finish()
    logprobs_BTV = torch.stack([step_BV[:MIN_ROWS] for step_BV in logits], 1).log_softmax(-1)
    return logprobs_BTV.gather(2, forced_BT[:MIN_ROWS, :, None])[..., 0]


@torch.no_grad()
def decode_error(model: Model) -> float:
    """Relative difference of logits: forced tokens decoded after two prompts of different length, beyond every (narrowed) attention
    window and with a row that leaves, against whole plain passes. The same after prompts with images, where the model takes them, against
    packed rows, which were proven on images before."""
    with prove.narrow_windows(model), model.compute():
        prompts = [Encoded(_tokens(model, q, n)) for q, n in enumerate(_PROMPTS)]
        errors = [prove.relative_error(_real(_fast_logits(model, prompts)), _real(_plain_logits(model)))]
        if model.pictured is not None and not model.no_images:
            samples = model.pictured()
            with model.showing(samples):
                prompts = [sample.prompt for sample in samples]
                packed_XV, fast_XV = _real(_packed_logits(model, prompts)), _real(_fast_logits(model, prompts))
                errors.append(prove.beyond_rounding(model, fast_XV, packed_XV, lambda: _real(_packed_logits(model, prompts))))
    return max(errors)


@torch.no_grad()
def continued_error(model: Model) -> float:
    """Relative difference of logits: two prompts of different length, some forced tokens decoded, then prompts that go on from there, one
    token longer and several, against whole plain passes, beyond every (narrowed) attention window."""
    prompts = [Encoded(_tokens(model, q, n)) for q, n in enumerate(_PROMPTS)]
    forced_BT = torch.stack([_tokens(model, 10 + q, _STEPS) for q in range(len(prompts))]).to(model.device)
    ends = [_tokens(model, 20 + q, n) for q, n in enumerate(_ENDS)]
    with prove.narrow_windows(model), model.compute():
        decoder = FastDecoder(model, prefill_tokens=_ENOUGH)
        decoder.start(prompts, torch.arange(len(prompts)), _ENOUGH)
        for step in range(_STEPS):
            decoder.step(forced_BT[:, step])
        before = [torch.cat([p.tokens_T, forced_BT[q].cpu()]) for q, p in enumerate(prompts)]
        rows = range(len(prompts))
        beginnings = [Beginning(Encoded(before[q]), layers) for q in rows if (layers := decoder.beginning(q)) is not None]
        whole = [torch.cat([before[q], ends[q]]) for q in rows]
        decoder.finish()
        logits_BV = decoder.start([Encoded(row) for row in whole], torch.arange(len(whole)), _ENOUGH, beginnings)
        mask_BL = pad_sequence([torch.ones_like(row) for row in whole], batch_first=True)
        hidden_BLH = model.run_plain(pad_sequence(whole, batch_first=True), mask_BL)
        plain_BV = model.logits(torch.stack([hidden_BLH[i, len(row) - 1] for i, row in enumerate(whole)]))
    return prove.relative_error(_real(logits_BV), _real(plain_BV))


@torch.no_grad()
def slots_error(model: Model) -> float:
    """Relative difference of logits of rows that come and go, against ``decode_error``'s own references: rows of two prompts join in three
    parts, row 1 leaves after half of its steps, and each counts its steps by itself."""
    with prove.narrow_windows(model), model.compute():
        prompts = [Encoded(_tokens(model, q, n)) for q, n in enumerate(_PROMPTS)]
        errors = [prove.relative_error(_real(_slot_logits(model, prompts)), _real(_plain_logits(model)))]
        if model.pictured is not None and not model.no_images:
            samples = model.pictured()
            with model.showing(samples):
                prompts = [sample.prompt for sample in samples]
                packed_XV, slots_XV = _real(_packed_logits(model, prompts)), _real(_slot_logits(model, prompts))
                errors.append(prove.beyond_rounding(model, slots_XV, packed_XV, lambda: _real(_packed_logits(model, prompts))))
    return max(errors)


def _slot_logits(model: Model, prompts: Sequence[Encoded]) -> Tensor:
    """As ``_fast_logits``, each row from the time at which it joins."""
    forced_BT = torch.stack([_tokens(model, 10 + row, _STEPS) for row in range(len(_ROWS))])
    decoder, lengths = SlotDecoder(model, len(_ROWS)), _lengths()
    there, logits = list[int](), [list[Tensor]() for _ in _ROWS]
    for time in range(_STEPS + max(_JOINS)):
        if there:
            for row, logits_V in zip(there, decoder.step([int(forced_BT[r, len(logits[r]) - 1]) for r in there]), strict=True):
                logits[row].append(logits_V)
        new = [row for row, joins in enumerate(_JOINS) if joins == time]
        if new:
            for row, logits_V in zip(new, decoder.join([prompts[_ROWS[row]] for row in new]), strict=True):
                logits[row].append(logits_V)
        there += new
        there = [there[i] for i in decoder.keep([len(logits[r]) < lengths[r] for r in there])]
    return torch.stack([logits_V for row in logits for logits_V in row])


def _real(logits_XV: Tensor) -> Tensor:
    """Without the banned tokens, which are -inf everywhere."""
    return logits_XV[:, torch.isfinite(logits_XV).all(0)]


def _tokens(model: Model, salt: int, count: int) -> Tensor:
    """Fixed token ids that are spread over the vocabulary and stand for no image."""
    spread_T = (torch.arange(count) * 7919 + salt * 104729 + 11) % model.head_weight_VH.shape[0]
    banned = model.transform.banned
    allowed = next(t for t in range(5, 6 + len(banned)) if t not in banned)
    return torch.where(torch.isin(spread_T, torch.tensor(banned, dtype=torch.int64)), spread_T.new_full((), allowed), spread_T)


def _fast_logits(model: Model, prompts: Sequence[Encoded]) -> Tensor:
    """Logits [X, V] of every forced step of every row, row by row. ``prompts`` are two."""
    forced_BT = torch.stack([_tokens(model, 10 + row, _STEPS) for row in range(len(_ROWS))]).to(model.device)
    decoder = FastDecoder(model, prefill_tokens=max(len(p) for p in prompts))  # one prompt a pass
    order_B = torch.arange(len(_ROWS), device=model.device)
    logits = [dict(enumerate(decoder.start(prompts, torch.tensor(_ROWS), _ENOUGH)))]
    for step in range(_STEPS - 1):
        if step == _STEPS // 2:
            order_B = order_B[decoder.keep(order_B != 1)]
        logits.append(dict(zip(order_B.tolist(), decoder.step(forced_BT[order_B, step]))))
    return torch.stack([step[row] for row in range(len(_ROWS)) for step in logits if row in step])


def _plain_logits(model: Model) -> Tensor:
    """The same from whole rows."""
    lengths = _lengths()
    rows = [
        torch.cat([_tokens(model, prompt, _PROMPTS[prompt]), _tokens(model, 10 + row, _STEPS)[: length - 1]])
        for row, (prompt, length) in enumerate(zip(_ROWS, lengths))
    ]
    mask_BL = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    hidden_BLH = model.run_plain(pad_sequence(rows, batch_first=True), mask_BL)
    return model.logits(torch.cat([hidden_BLH[i, len(row) - n : len(row)] for i, (row, n) in enumerate(zip(rows, lengths))]))


def _packed_logits(model: Model, prompts: Sequence[Encoded]) -> Tensor:
    """The same from packed rows, each row a unit of its own."""
    lengths = _lengths()
    forced = [_tokens(model, 10 + row, _STEPS)[: length - 1] for row, length in enumerate(lengths)]
    whole = [torch.ones(len(tokens_T), dtype=torch.bool) for tokens_T in forced]
    units = [Unit(str(r), prompts[q], (Branch(forced[r], whole[r]),)) for r, q in enumerate(_ROWS)]
    hidden_NH = model.hidden(as_batch(units))
    ends = torch.tensor([u.n_tokens for u in units]).cumsum(0).tolist()
    return model.logits(torch.cat([hidden_NH[end - n : end] for end, n in zip(ends, lengths)]))


def _lengths() -> list[int]:
    """How many steps each row has."""
    return [_STEPS if row != 1 else _STEPS // 2 + 1 for row in range(len(_ROWS))]


def nats(precision: str) -> float:
    """Tolerance of single log-probabilities, in nats: rounding in bf16 is of the order of 0.1 on unlikely tokens."""
    return 1e-3 if precision == "float32" else 0.5
