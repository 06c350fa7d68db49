"""A sampler that draws elsewhere, from a copy of the policy's weights, and proves after each update that the copy is one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence

import torch

from keel.core.errors import SelfTestError
from keel.core.hashing import stable_hash
from keel.rollout.local import Decode, Row
from keel.rollout.vllm_engine import Answer, Asked, Engine
from keel.rollout.weight_digest import digest_of
from keel.types import PolicyVersion, Rollout, SampleRequest, Weights

log = logging.getLogger("keel")
PROBE = 32  # tokens of the sequence whose log-probabilities are compared after each update
_SEEDS = 1 << 63  # vLLM takes a signed number


class VllmSampler:
    """A ``types.Sampler``. Each completion has a seed of its own by hash, so that work thrown away is drawn again; a wave of other rows
    beside it changes it only by rounding.

    ``load`` hands over the merged weights when the policy's digest has changed, compares the digests of what was sent and what arrived,
    drops the cached prompts, and compares the log-probabilities of a fixed sequence with the trainer's.
    """

    def __init__(self, weights: Weights, vocabulary: int, tolerance: float, engine: Engine, names: Sequence[str], decode: Decode) -> None:
        """``engine`` holds these very ``weights`` and knows them by ``names``; ``tolerance``: nats that a log-probability may be apart;
        ``decode`` turns ids [T] into text without special tokens."""
        self._engine, self._names, self._decode, self._tolerance = engine, tuple(names), decode, tolerance
        self._version, self._digest = 0, weights.digest()
        self._queue: list[Row] = []
        self._probe = [stable_hash("weight sync", i) % vocabulary for i in range(PROBE)]
        self._prove(weights)

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Queue requests. Raises ValueError for one that cannot be sampled."""
        for request in requests:
            _check(request)
            self._queue += [Row(request, request.first_sample + i) for i in range(request.n)]

    def collect(self) -> Iterator[Rollout]:
        """Draw all that is queued, greedy rows by themselves."""
        rows, self._queue = sorted(self._queue, key=lambda row: (len(row.request.prompt), row.request.prompt_id)), []
        for greedy in (False, True):
            chosen = [row for row in rows if (row.request.params.temperature == 0) is greedy]
            if chosen:
                asked = [Asked(row.request.prompt.tokens_T.tolist(), row.request.params, row.key % _SEEDS) for row in chosen]
                yield from map(self._rollout, chosen, self._engine.draw(asked))

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        """Take over new weights. Raises SelfTestError where they are not those announced, or did not arrive."""
        digest = weights.digest()
        if digest != version.digest:
            raise SelfTestError(
                f"weight sync: the trainer's weights are not those of policy version {version.version}",
                "the policy was changed after it was published",
            )
        self._version = version.version
        if digest == self._digest:
            return
        started = time.perf_counter()
        self._digest = ""  # until it is proven
        self._send(weights)
        self._prove(weights)
        self._digest = digest
        log.debug("weights of version %d are with vLLM after %.3f s", version.version, time.perf_counter() - started)

    @torch.no_grad()
    def _send(self, weights: Weights) -> None:
        merged = weights.merged(self._names)
        arrived = self._engine.load(merged.items())
        if arrived != digest_of(merged.items()):
            raise SelfTestError("weight sync: what arrived at the sampler is not what was sent", "set sampler.engine=local")
        if not self._engine.forget():
            raise SelfTestError("weight sync: the sampler keeps cached prompts of the old weights", "set sampler.vllm.prefix_cache=false")

    def _prove(self, weights: Weights) -> None:
        """The sampler's copy gives a fixed sequence the log-probabilities that the trainer gives it."""
        ours_T = weights.probe(torch.tensor(self._probe))
        gap = float((ours_T - torch.tensor(self._engine.logprobs(self._probe))).abs().max())
        if not gap <= self._tolerance:
            raise SelfTestError(
                f"weight sync: sampler and trainer differ by {gap:.3g} nats on a token of a fixed sequence",
                "the sampler computes another model; set sampler.engine=local",
            )
        log.debug("sampler and trainer differ by at most %.3g nats on a fixed sequence", gap)

    def _rollout(self, row: Row, answer: Answer) -> Rollout:
        length, error = len(answer.tokens), answer.error
        if not error and not all(map(math.isfinite, answer.logprobs)):
            error = "a log-probability is not finite"
        tokens_T = torch.tensor(answer.tokens, dtype=torch.int64)
        return Rollout(
            prompt_id=row.request.prompt_id,
            attempt=row.request.attempt,
            sample=row.sample,
            tokens_T=tokens_T,
            sampled_T=torch.ones(length, dtype=torch.bool),
            logprobs_T=torch.tensor(answer.logprobs, dtype=torch.float32),
            version_T=torch.full((length,), self._version),
            finish_reason="error" if error else "stop" if answer.stopped else "length",
            text=self._decode(tokens_T) if length else "",
            error=error,
        )


def _check(request: SampleRequest) -> None:
    p = request.params
    problems = [
        (len(request.prompt) == 0, "the prompt has no tokens"),
        (request.n < 1, f"n is {request.n}, but at least one sample must be asked for"),
        (bool(request.prompt.media), "the prompt has images, which are not given to vLLM"),
        (bool(p.stop), "it ends at texts (stop), and vLLM is asked to end at tokens only"),
        (request.bias is not None, "it makes some words less likely (bias), which vLLM is not asked to"),
        (p.explore > 0, "it mixes distributions (explore), which vLLM does not"),
        (request.keep_support and p.cut, "it wants to know what could have been drawn, which vLLM does not tell"),
    ]
    for wrong, what in problems:
        if wrong:
            raise ValueError(f"request for prompt '{request.prompt_id}': {what}; the local sampler can")
