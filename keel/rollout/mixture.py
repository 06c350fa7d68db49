"""Several policies as one: a mixture of their probabilities or of their logits at each token, or of whole answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from keel.core.hashing import stable_hash, uniform
from keel.models.model import Model
from keel.rollout.config import SamplerConfig
from keel.rollout.decode import Decoder
from keel.rollout.kept import Beginning
from keel.rollout.local import LocalSampler
from keel.rollout.wave import Decode
from keel.types import Encoded, PolicyVersion, Rollout, Sampler, SampleRequest, Weights

TokenMixture = Literal["logits", "probabilities"]


def mix(logits: Sequence[Tensor], weights: Sequence[float], of: TokenMixture) -> Tensor:
    """Log-probabilities, up to a constant a row, of the mixture of M next-token distributions.

    Args:
        logits: M tensors [B, V] float32.
        weights: M numbers above or at 0 that add up to 1.
        of: ``probabilities``: ``log sum_m w_m p_m``; ``logits``: ``sum_m w_m log p_m``, the normalised geometric mean.

    Returns:
        float32 [B, V].
    """
    logprobs_MBV = torch.stack([torch.log_softmax(x_BV, -1) for x_BV, w in zip(logits, weights, strict=True) if w > 0])
    weights_M = logprobs_MBV.new_tensor([w for w in weights if w > 0])
    if of == "logits":
        return (weights_M[:, None, None] * logprobs_MBV).sum(0)
    return torch.logsumexp(weights_M.log()[:, None, None] + logprobs_MBV, 0)


class MixtureDecoder:
    """Members side by side on the same tokens; their next-token distributions mixed."""

    def __init__(self, members: Sequence[Decoder], weights: Sequence[float], of: TokenMixture) -> None:
        self._members, self._weights = tuple(members), tuple(weights)
        self._of: TokenMixture = of

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int, beginnings: Sequence[Beginning | None] = ()) -> Tensor:
        return self._mixed([m.start(prompts, prompt_B, max_tokens) for m in self._members])

    def step(self, tokens_B: Tensor) -> Tensor:
        return self._mixed([m.step(tokens_B) for m in self._members])

    def keep(self, alive_B: Tensor) -> Tensor:
        first, *others = [m.keep(alive_B) for m in self._members]
        assert all(torch.equal(first, other) for other in others), "the members dropped other rows"
        return first

    def beginning(self, row: int) -> None:
        """Each member has its own: nothing is kept."""

    def renew(self) -> None:
        for member in self._members:
            member.renew()

    def finish(self) -> None:
        for member in self._members:
            member.finish()

    def _mixed(self, logits: Sequence[Tensor]) -> Tensor:
        return mix(logits, self._weights, self._of)


class TokenMixtureSampler(LocalSampler):
    """A ``types.Sampler`` that draws each token from the mixture of several models; temperature, top-k and top-p are the mixture's."""

    def __init__(
        self, models: Sequence[Model], weights: Sequence[float], of: TokenMixture, decode: Decode, config: SamplerConfig | None = None
    ) -> None:
        super().__init__(models[0], decode, config)
        self._decoder = MixtureDecoder(self._choose_decoder(models), weights, of)


class SequenceMixtureSampler:
    """A ``types.Sampler`` that draws each whole answer from one model, chosen by hash with the models' weights."""

    def __init__(self, samplers: Sequence[Sampler], weights: Sequence[float]) -> None:
        self._samplers, self._bounds = tuple(samplers), np.cumsum(weights)

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        for request in requests:
            for sample in range(request.first_sample, request.first_sample + request.n):
                self._samplers[self.member(request, sample)].submit([replace(request, n=1, first_sample=sample)])

    def member(self, request: SampleRequest, sample: int) -> int:
        """Which model answers."""
        key = stable_hash("member", request.seed, request.prompt_id, request.attempt, sample)
        u = float(uniform(np.array([key], dtype=np.uint64), 0)[0]) * float(self._bounds[-1])
        return int(np.searchsorted(self._bounds, u, side="right"))

    def collect(self) -> Iterator[Rollout]:
        for sampler in self._samplers:
            yield from sampler.collect()

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        for sampler in self._samplers:  # each compares with its own weights: an ensemble is not what is trained
            sampler.load(version, weights)
