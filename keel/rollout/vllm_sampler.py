"""A sampler that draws elsewhere, from a copy of the policy's weights, and proves after each update that the copy is one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import torch

from keel.core.errors import SelfTestError
from keel.core.hashing import stable_hash
from keel.rollout.answers import SEEDS, check_request, rollout_of
from keel.rollout.vllm_engine import Asked, Engine
from keel.rollout.wave import Decode, Row
from keel.rollout.weight_digest import digest_of
from keel.types import PolicyVersion, Rollout, SampleRequest, Weights

log = logging.getLogger("keel")
PROBE = 32  # tokens of the sequence whose log-probabilities are compared after each update


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
            check_request(request, "vLLM")
            self._queue += [Row(request, request.first_sample + i) for i in range(request.n)]

    def collect(self) -> Iterator[Rollout]:
        """Draw all that is queued, greedy rows by themselves."""
        rows, self._queue = sorted(self._queue, key=lambda row: (len(row.request.prompt), row.request.prompt_id)), []
        for greedy in (False, True):
            chosen = [row for row in rows if (row.request.params.temperature == 0) is greedy]
            if chosen:
                asked = [Asked(row.request.prompt.tokens_T.tolist(), row.request.params, row.key % SEEDS) for row in chosen]
                for row, answer in zip(chosen, self._engine.draw(asked), strict=True):
                    yield rollout_of(row, answer, [self._version] * len(answer.tokens), self._decode)

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
