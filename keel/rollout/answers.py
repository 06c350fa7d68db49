"""What engines that are not Keel's are asked, and what they answer, as rollouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from keel.rollout.wave import Decode, Row
from keel.types import Rollout, SampleRequest

SEEDS = 1 << 63  # vLLM takes a signed number


@dataclass(frozen=True, slots=True)
class Answer:
    """What was drawn: ids with the one that ended it, and the log-probability of each."""

    tokens: Sequence[int]
    logprobs: Sequence[float]
    stopped: bool  # by an end token
    error: str = ""


def rollout_of(row: Row, answer: Answer, versions: Sequence[int], decode: Decode) -> Rollout:
    """The answer as a rollout; ``versions`` is of the weights that drew each token."""
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
        version_T=torch.tensor(versions, dtype=torch.int64),
        finish_reason="error" if error else "stop" if answer.stopped else "length",
        text=decode(tokens_T) if length else "",
        error=error,
    )


def check_request(request: SampleRequest, who: str) -> None:
    """Raise ValueError for a request that ``who`` (an engine that is not Keel's) is not asked."""
    p = request.params
    problems = [
        (len(request.prompt) == 0, "the prompt has no tokens"),
        (request.n < 1, f"n is {request.n}, but at least one sample must be asked for"),
        (bool(request.prompt.media), f"the prompt has images, which are not given to {who}"),
        (bool(p.stop), f"it ends at texts (stop), and {who} is asked to end at tokens only"),
        (request.bias is not None, f"it makes some words less likely (bias), which {who} is not asked to"),
        (p.explore > 0, f"it mixes distributions (explore), which {who} does not"),
        (request.keep_support and p.cut, f"it wants to know what could have been drawn, which {who} does not tell"),
    ]
    for wrong, what in problems:
        if wrong:
            raise ValueError(f"request for prompt '{request.prompt_id}': {what}; the local sampler can")
