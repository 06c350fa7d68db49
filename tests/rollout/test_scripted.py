from __future__ import annotations

from types import SimpleNamespace

import torch

from keel.rollout.scripted import ScriptedSampler
from keel.types import Encoded, PolicyVersion, SampleRequest, SamplingParams


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


def decode(tokens_T: torch.Tensor) -> str:
    return "".join(chr(t) for t in tokens_T.tolist())


def test_answers_come_in_order_of_the_samples() -> None:
    sampler = ScriptedSampler({"a": ["yes", "no", [65, 66]]}, encode, decode)
    prompt = Encoded(torch.tensor([1]))
    sampler.submit(
        [SampleRequest("a", prompt, 2, SamplingParams(max_tokens=2), 0, first_sample=1), SampleRequest("b", prompt, 1, SamplingParams(), 0)]
    )
    sampler.load(PolicyVersion(5, "x"), SimpleNamespace())  # type: ignore[arg-type]
    no, ids, unknown = sampler.collect()
    assert (no.text, no.sample, no.finish_reason, no.version_T.tolist()) == ("no", 1, "stop", [5, 5])
    assert (ids.text, ids.tokens_T.tolist()) == ("AB", [65, 66])
    assert (unknown.finish_reason, len(unknown)) == ("error", 0)
    assert "'b'" in unknown.error
    sampler.submit([SampleRequest("a", prompt, 1, SamplingParams(max_tokens=2), 0)])
    (cut,) = sampler.collect()
    assert (cut.text, cut.finish_reason) == ("ye", "length")
    assert len(sampler.requests) == 3
    assert not list(sampler.collect())
