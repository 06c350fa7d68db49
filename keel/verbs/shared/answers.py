"""Answers of a model to prompts at several temperatures, and the candidates that they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keel.feedback.candidates import make_candidate
from keel.rollout.local import LocalSampler
from keel.types import Candidate, Encoded, Prompt, Rollout, SampleRequest, SamplingParams, TokenBias

Sampled = dict[str, list[tuple[float, Rollout]]]


def sample_answers(
    sampler: LocalSampler,
    prompts: Mapping[str, tuple[Prompt, Encoded]],
    base: SamplingParams,
    wanted: Sequence[tuple[float, int]],
    seed: int,
    bias: Mapping[str, TokenBias] | None = None,
) -> Sampled:
    """By prompt, (temperature, rollout) for each of ``wanted`` = (temperature, how many). The numbers drawn hang on seed, prompt, place in
    ``wanted`` and sample alone."""
    found: defaultdict[str, list[tuple[float, Rollout]]] = defaultdict(list)
    bias = bias or {}
    for attempt, (temperature, n) in enumerate(wanted):
        asked: dict[str, Any] = {"params": replace(base, temperature=temperature), "seed": seed, "attempt": attempt}
        sampler.submit([SampleRequest(i, encoded, n, **asked, bias=bias.get(i)) for i, (_, encoded) in prompts.items()])
    for rollout in sampler.collect():
        found[rollout.prompt_id].append((wanted[rollout.attempt][0], rollout))
    return found


def sampled_candidates(prompt_id: str, found: Sequence[tuple[float, Rollout]], origin: Mapping[str, Any]) -> list[Candidate]:
    """Candidates in the order of temperature and sample; ``origin`` and how each was drawn stand in theirs."""

    def one(temperature: float, r: Rollout) -> Candidate:
        return make_candidate(
            prompt_id, r.text, {**origin, "temperature": temperature, "sample": r.sample, "finish_reason": r.finish_reason}
        )

    return [one(temperature, r) for temperature, r in sorted(found, key=lambda x: (x[0], x[1].sample))]
