"""The local sampler: draws from the model in this process, which is the very model that is trained. It decodes requests in waves: rows
side by side, all at the same step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from keel.core.errors import SelfTestError
from keel.core.hashing import stable_hash, uniform
from keel.models.model import Model
from keel.render.conversation import extended
from keel.rollout.config import SamplerConfig
from keel.rollout.decode import MIN_ROWS, Decoder, FastDecoder
from keel.rollout.distribution import Drawn, RowParams, draw
from keel.rollout.kept import Beginning, Kept
from keel.rollout.plain import PlainDecoder
from keel.rollout.prove import prove_continued, prove_decode
from keel.types import Encoded, FinishReason, PolicyVersion, Rollout, SampleRequest, Weights
from keel.types.support import Support

log = logging.getLogger("keel")

Decode = Callable[[Tensor], str]
_TAIL_TOKENS = 8  # tokens decoded before those that a stop string could span, for characters of several tokens


class LocalSampler:
    """A ``types.Sampler``. Requests are cut into waves of at most ``max_rows`` rows, short prompts first. The random numbers of a row
    depend on its own request alone. So do its log-probabilities, up to rounding: ``prove.row_dependence`` measures whether the rows beside
    it change the last bits on this machine."""

    def __init__(self, model: Model, decode: Decode, config: SamplerConfig | None = None, version: PolicyVersion | None = None) -> None:
        """``decode`` turns token ids [T] into text without special tokens. Proves the fast path unless ``config.path`` is plain."""
        self.model = model
        self._decode = decode
        self._config = config or SamplerConfig()
        self.version = version.version if version is not None else 0
        self.between: Callable[[], int] | None = None  # between two steps: the version of the weights that are in the model now
        self._queue: list[Row] = []
        self._decoder = self._choose_decoder([model])[0]
        self._kept = Kept(int(self._config.turns_gib * 2**30))

    @property
    def fast(self) -> bool:
        """Does it decode by the fast path?"""
        return isinstance(self._decoder, FastDecoder)

    def _choose_decoder(self, models: Sequence[Model]) -> list[Decoder]:
        """One a model; the fast ones where all models have proven it, so that all of them drop their rows alike."""
        if self._config.path == "auto" and all(prove_decode(model) for model in models):
            return [FastDecoder(model, self._config.prefill_tokens) for model in models]
        log.info("sampling takes the plain path: every row reads its own prompt")
        return [PlainDecoder(model) for model in models]

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Queue requests. Raises ValueError for one that cannot be sampled."""
        for request in requests:
            _check(request)
            self._queue += [Row(request, request.first_sample + i) for i in range(request.n)]

    def collect(self) -> Iterator[Rollout]:
        """Draw all that is queued, wave by wave; yields each wave when it is done."""
        self._queue.sort(key=lambda row: (len(row.request.prompt), row.request.prompt_id))
        while self._queue:
            rows, self._queue = self._queue[: self._config.max_rows], self._queue[self._config.max_rows :]
            yield from self._sample(rows)

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        """Take over new weights: this process has them, or brings its copy up to date. Then it checks that they are the announced ones."""
        weights.arrive()
        self._kept.clear()
        if self.model.digest() != version.digest:
            raise SelfTestError(
                f"weight sync: the sampler's weights are not those of policy version {version.version}",
                "the policy was changed after it was published, or the sampler holds another model",
            )
        self.version = version.version

    @torch.no_grad()
    def _sample(self, rows: Sequence[Row]) -> list[Rollout]:
        company = [rows[0]] * (MIN_ROWS - len(rows))
        wave = Wave([*rows, *company], self._decode, self.model.device)
        prompts, prompt_B = _distinct([row.request.prompt for row in wave.rows])
        beginnings = self._beginnings(rows, prompts, prompt_B)
        keeps = self._kept.most > 0 and self.fast and any(row.request.goes_on for row in rows) and prove_continued(self.model)
        with self.model.compute():
            logits_BV = self._decoder.start(prompts, prompt_B, max(row.request.params.max_tokens for row in rows), beginnings)
            while True:
                wave.lower_(logits_BV)
                drawn = draw(logits_BV, wave.params, wave.step, wave.uniforms(), wave.keep_support)
                closed = wave.record(drawn, self.version)
                for place, row in closed if keeps else ():
                    self._keep(place, row, wave)
                alive_B = wave.survivors()
                if alive_B is None:
                    self._decoder.finish()
                    return wave.rollouts(len(rows))
                tokens_B = drawn.tokens_B
                if not bool(alive_B.all()):
                    order_B = self._decoder.keep(alive_B.to(tokens_B.device))
                    wave.reorder(order_B)
                    tokens_B = tokens_B[order_B.to(tokens_B.device)]
                self._renew()
                logits_BV = self._decoder.step(tokens_B)

    def _renew(self) -> None:
        """New weights may have come into the model between two steps: what was made of the old ones is made again, but for the keys and
        values of the tokens so far."""
        now = self.version if self.between is None else self.between()
        if now != self.version:
            self.version = now
            torch.clear_autocast_cache()
            self._kept.clear()
            self._decoder.renew()

    def _beginnings(self, rows: Sequence[Row], prompts: Sequence[Encoded], prompt_B: Tensor) -> list[Beginning | None]:
        """What is kept of each prompt's beginning."""
        found: list[Beginning | None] = [None] * len(prompts)
        for row, prompt in zip(rows, prompt_B.tolist()):
            kept = self._kept.take(row.talk)
            if kept is not None and found[prompt] is None and kept.begins(prompts[prompt]):
                found[prompt] = kept
        return found

    def _keep(self, place: int, index: int, wave: Wave) -> None:
        """Row ``index``, at ``place`` of the batch, is done. Where it is the beginning of another prompt, keep what was made of it by
        weights that have not changed meanwhile."""
        row = wave.rows[index]
        if not row.request.goes_on or wave.versions != {self.version}:
            return
        layers = self._decoder.beginning(place)
        if layers is not None:
            self._kept.put(row.talk, Beginning(extended(row.request.prompt, wave.drawn(index)[:-1]), layers))


def _distinct(prompts: Sequence[Encoded]) -> tuple[list[Encoded], Tensor]:
    """Each different prompt once, and which of them each row has."""
    index: dict[tuple[bytes, tuple[str, ...]], int] = {}
    unique: list[Encoded] = []
    which: list[int] = []
    for prompt in prompts:
        key = (prompt.tokens_T.numpy().tobytes(), tuple(ref.digest for ref in prompt.media))
        if key not in index:
            index[key] = len(unique)
            unique.append(prompt)
        which.append(index[key])
    return unique, torch.tensor(which)


def _check(request: SampleRequest) -> None:
    p = request.params
    problems = [
        (len(request.prompt) == 0, "the prompt has no tokens"),
        (request.n < 1, f"n is {request.n}, but at least one sample must be asked for"),
        (p.max_tokens < 1, f"max_tokens is {p.max_tokens}, but must be at least 1"),
        (p.temperature != 0 and not 1e-3 <= p.temperature < float("inf"), f"temperature is {p.temperature}, but must be 0 or >= 0.001"),
        (not 0 < p.top_p <= 1, f"top_p is {p.top_p}, but must be above 0 and at most 1"),
        (p.top_k < 0, f"top_k is {p.top_k}, but must be 0 (off) or more"),
        ("" in p.stop, "a stop string is empty"),
    ]
    for wrong, what in problems:
        if wrong:
            raise ValueError(f"request for prompt '{request.prompt_id}': {what}")


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
