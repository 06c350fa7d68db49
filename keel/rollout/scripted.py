"""A sampler that says what it was told to: for tests of loops, rewards and stages without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from keel.types import PolicyVersion, Rollout, SampleRequest, Weights

Script = Mapping[str, Sequence[str | Sequence[int]]]


class ScriptedSampler:
    """Sample i of a prompt is answer i of its script, in a circle. An answer is a text or a list of token ids."""

    def __init__(
        self, script: Script, encode: Callable[[str], Sequence[int]], decode: Callable[[Tensor], str], logprob: float = -1.0
    ) -> None:
        """``script`` by prompt id; ``encode`` and ``decode`` turn texts into ids (end token included, if wanted) and back. Each token gets
        the log-probability ``logprob``."""
        self._script = script
        self._encode = encode
        self._decode = decode
        self._logprob = logprob
        self._queue: list[SampleRequest] = []
        self.requests: list[SampleRequest] = []  # all that was ever asked for
        self.versions: list[PolicyVersion] = []  # all that was ever loaded

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        self._queue += requests
        self.requests += requests

    def collect(self) -> Iterator[Rollout]:
        """Yield the answers. A prompt that the script does not know gives rollouts with an error."""
        while self._queue:
            request = self._queue.pop(0)
            for i in range(request.n):
                yield self._rollout(request, request.first_sample + i)

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        self.versions.append(version)

    def _rollout(self, request: SampleRequest, sample: int) -> Rollout:
        answers = self._script.get(request.prompt_id, ())
        answer = answers[sample % len(answers)] if answers else ()
        ids = list(self._encode(answer) if isinstance(answer, str) else answer)
        kept = ids[: request.params.max_tokens]
        tokens_T = torch.tensor(kept, dtype=torch.int64)
        return Rollout(
            prompt_id=request.prompt_id,
            attempt=request.attempt,
            sample=sample,
            tokens_T=tokens_T,
            sampled_T=torch.ones(len(kept), dtype=torch.bool),
            logprobs_T=torch.full((len(kept),), self._logprob),
            version_T=torch.full((len(kept),), self.versions[-1].version if self.versions else 0),
            finish_reason=("stop" if len(kept) == len(ids) else "length") if answers else "error",
            text=self._decode(tokens_T),
            error="" if answers else f"the script has no answer for prompt '{request.prompt_id}'",
        )
