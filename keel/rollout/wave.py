"""Rows that are decoded side by side, all at the same step: what each has drawn, and whether it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from keel.core.hashing import stable_hash, uniform
from keel.rollout.decode import MIN_ROWS
from keel.rollout.distribution import Drawn, RowParams
from keel.types import FinishReason, Rollout, SampleRequest
from keel.types.support import Support

Decode = Callable[[Tensor], str]
_TAIL_TOKENS = 8  # tokens decoded before those that a stop string could span, for characters of several tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to draw."""

    request: SampleRequest
    sample: int

    @property
    def key(self) -> int:
        """What its random numbers hang on, and nothing else."""
        return stable_hash(self.request.seed, self.request.prompt_id, self.request.attempt, self.sample)

    @property
    def talk(self) -> int:
        """What all turns of one conversation share."""
        return stable_hash(self.request.prompt_id, self.request.attempt, self.sample)


class Wave:
    """Rows decoded side by side, all at the same step. The first B of ``order_B`` are in the batch; some of them may be done already."""

    def __init__(self, rows: Sequence[Row], decode: Decode, device: torch.device | str) -> None:
        self.rows = tuple(rows)
        self.params = RowParams.of([r.request.params for r in rows], device)
        self.step = 0
        self._keep_R = [r.request.keep_support and r.request.params.cut for r in rows]
        self.keep_support = any(self._keep_R)  # does any row want to know what could have been drawn?
        self._supports: list[tuple[Tensor, Support]] = []  # by step: which rows, and their supports
        self._decode = decode
        self._versions: list[int] = []  # by step
        self._keys_B = np.array([r.key for r in rows], dtype=np.uint64)
        self._order_B = torch.arange(len(rows))  # which row stands at each place of the batch
        longest = max(r.request.params.max_tokens for r in rows)
        self._tokens_RT = torch.zeros(len(rows), longest, dtype=torch.int64)
        self._logprobs_RT = torch.zeros(len(rows), longest)
        self._length_R = [0] * len(rows)
        self._reason_R: list[FinishReason | None] = [None] * len(rows)
        self._error_R = [""] * len(rows)
        self._ends = [frozenset(r.request.params.stop_tokens) for r in rows]

    def uniforms(self) -> Tensor:
        """The random number of each row of the batch at this step, float64 [B] in [0, 1)."""
        return torch.from_numpy(uniform(self._keys_B[self._order_B.numpy()], self.step)).to(self.params.kind_B.device)

    def lower_(self, logits_BV: Tensor) -> None:
        """Take from the logits of this step what the requests' biases say, in place."""
        places, ids, amounts = list[int](), list[int](), list[float]()
        for place, row in enumerate(self._order_B.tolist()):
            bias = self.rows[row].request.bias
            if bias is None or self._reason_R[row] is not None:
                continue
            found = bias.lowered(self._tokens_RT[row, : self.step].tolist())
            ids += found
            places += [place] * len(found)
            amounts += [bias.amount] * len(found)
        if ids:
            at_K = (torch.tensor(places, device=logits_BV.device), torch.tensor(ids, device=logits_BV.device))
            logits_BV[at_K] = logits_BV[at_K] - logits_BV.new_tensor(amounts)

    def record(self, drawn: Drawn, version: int) -> list[tuple[int, int]]:
        """Take the tokens of this step, drawn by the weights of this version, and close the rows that are done. Returns the place in the
        batch and the number of each that was closed and drew all its tokens."""
        closed: list[tuple[int, int]] = []
        self._versions.append(version)
        self._tokens_RT[self._order_B, self.step] = drawn.tokens_B.cpu()  # of rows that are done too: it lies beyond their length
        self._logprobs_RT[self._order_B, self.step] = drawn.logprobs_B.cpu()
        tokens_B, finite_B = drawn.tokens_B.tolist(), drawn.finite_B.tolist()
        for place, row in enumerate(self._order_B.tolist()):
            if self._reason_R[row] is None:
                if finite_B[place]:
                    self._add(row, tokens_B[place])
                    closed += [(place, row)] if self._reason_R[row] is not None else []
                else:
                    self._reason_R[row] = "error"
                    self._error_R[row] = f"the model's logits for token {self.step} are not finite, or every token is banned"
        if drawn.support is not None:
            new_B = torch.tensor([self._keep_R[row] and self._length_R[row] > self.step for row in self._order_B.tolist()])
            self._supports.append((self._order_B[new_B], drawn.support.to(torch.device("cpu")).take(new_B)))
        self.step += 1
        return closed

    @property
    def versions(self) -> set[int]:
        """Of the weights that drew so far."""
        return set(self._versions)

    def drawn(self, row: int) -> Tensor:
        """Token ids [T] of a row so far."""
        return self._tokens_RT[row, : self._length_R[row]]

    def _add(self, row: int, token: int) -> None:
        """The row's newest token is ``token``: does it end the row?"""
        params = self.rows[row].request.params
        self._length_R[row] = length = self.step + 1
        if token in self._ends[row] or (params.stop and length >= params.min_tokens and self._completes_stop(row, params.stop)):
            self._reason_R[row] = "stop"
        elif length >= params.max_tokens:
            self._reason_R[row] = "length"

    def _completes_stop(self, row: int, stop: tuple[str, ...]) -> bool:
        """Does the newest token complete one of the strings? Only a tail is decoded: a token gives at least a byte, special ones aside."""
        tokens_T = self._tokens_RT[row, : self._length_R[row]]
        need = max(len(s) for s in stop)
        width = _TAIL_TOKENS + max(len(s.encode()) for s in stop)
        while len(tail := self._decode(tokens_T[-width:])) < 2 * need and width < len(tokens_T):
            width *= 2  # tokens that decode to nothing
        found = [s for s in stop if s in tail]
        if not found:
            return False
        before = self._decode(tokens_T[-width:-1])
        return any(tail.count(s) > before.count(s) for s in found)

    def survivors(self) -> Tensor | None:
        """Places of the batch that go on, bool [B], never fewer than ``MIN_ROWS`` while any row is open; None when all are done."""
        open_B = [self._reason_R[row] is None for row in self._order_B.tolist()]
        missing = MIN_ROWS - sum(open_B)
        if missing == MIN_ROWS:
            return None
        for place, is_open in enumerate(open_B):
            if missing > 0 and not is_open:
                open_B[place] = True  # it keeps the others company; what it draws is not recorded
                missing -= 1
        return torch.tensor(open_B)

    def reorder(self, order_B: Tensor) -> None:
        """The batch has shrunk: place i now holds what stood at ``order_B[i]``."""
        self.params = self.params.take(order_B.to(self.params.kind_B.device))
        self._order_B = self._order_B[order_B.cpu()]

    def rollouts(self, count: int) -> list[Rollout]:
        """The first ``count`` rows as records."""
        row_K = torch.cat([rows for rows, _ in self._supports]) if self._supports else torch.zeros(0, dtype=torch.int64)
        drawn = Support.join([s for _, s in self._supports], [len(rows) for rows, _ in self._supports])
        return [
            self._rollout(row, None if drawn is None or not self._keep_R[row] else drawn.take((row_K == row).nonzero()[:, 0]))
            for row in range(count)
        ]

    def _rollout(self, index: int, support: Support | None) -> Rollout:
        row, length, reason = self.rows[index], self._length_R[index], self._reason_R[index]
        assert reason is not None, "the row is still open"
        tokens_T = self._tokens_RT[index, :length].clone()
        return Rollout(
            prompt_id=row.request.prompt_id,
            attempt=row.request.attempt,
            sample=row.sample,
            tokens_T=tokens_T,
            sampled_T=torch.ones(length, dtype=torch.bool),
            logprobs_T=self._logprobs_RT[index, :length].clone(),
            version_T=torch.tensor(self._versions[:length], dtype=torch.int64),
            finish_reason=reason,
            text=self._decode(tokens_T) if length else "",
            error=self._error_R[index],
            support=support,
            biased=row.request.bias is not None,
        )
