"""Rollouts and requests that travel come back as they were."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest
import torch

from keel.rollout.records import packed, unpacked
from keel.rollout.server import wire
from keel.types import Encoded, Rollout, SampleRequest, SamplingParams
from keel.types.support import Support


def rollouts(seed: int) -> list[Rollout]:
    rng = random.Random(seed)
    found = []
    for i in range(rng.randrange(1, 6)):
        n = rng.choice([0, 1, 7])
        generator = torch.Generator().manual_seed(seed * 10 + i)
        support = None
        if n and rng.random() < 0.5:
            support = Support.of(
                torch.rand(n, 70, generator=generator) < rng.choice([0.05, 0.5, 0.95]), torch.rand(n, generator=generator) < 0.2
            )
        sampled = torch.rand(n, generator=generator) < 0.8
        logprobs = -torch.rand(n, generator=generator)
        found.append(
            Rollout(
                f"p{i}", seed, i, torch.arange(n), sampled, logprobs, torch.full((n,), 3), "stop" if n else "error", "文🙂", "why", support
            )
        )
    return found


@pytest.mark.parametrize("seed", range(30))
def test_rollouts_come_back(seed: int) -> None:
    made = rollouts(seed)
    tensors, plain = wire.read(wire.write({"rollouts": packed(made)[1]}, packed(made)[0]))[1], packed(made)[1]
    for a, b in zip(made, unpacked(tensors, plain), strict=True):
        for field in fields(Rollout):
            assert _same(getattr(a, field.name), getattr(b, field.name)), field.name


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Support):
        return a.vocab == b.vocab and torch.equal(a.words_W, b.words_W) and torch.equal(a.starts_T, b.starts_T)
    return a == b


def test_rollouts_that_do_not_belong_together_are_refused() -> None:
    tensors, plain = packed(rollouts(1))
    with pytest.raises(ValueError, match="tokens_T"):
        unpacked({k: t[:-1] for k, t in tensors.items()}, plain)
    with pytest.raises(ValueError, match="none"):
        unpacked({}, plain)
    assert unpacked({}, []) == ()


def test_requests_come_back() -> None:
    params = SamplingParams(7, 1, 0.5, 0.9, 5, ("结束", "\n\n"), (2, 3), (4,), 0.1, 2.0)
    asked = [SampleRequest(f"p{i}", Encoded(torch.arange(i + 1)), i + 1, params, 9, 2, i, keep_support=True) for i in range(3)]
    again = wire.read_requests(*wire.read(wire.write_requests(asked, digest="d")))
    for a, b in zip(asked, again, strict=True):
        assert (a.prompt_id, a.n, a.params, a.seed, a.attempt, a.first_sample, a.keep_support) == (
            b.prompt_id, b.n, b.params, b.seed, b.attempt, b.first_sample, b.keep_support,
        )  # fmt: skip
        assert torch.equal(a.prompt.tokens_T, b.prompt.tokens_T)
    assert wire.read_requests(*wire.read(wire.write_requests([]))) == []


@pytest.mark.parametrize(
    "body",
    [b"", b"\x05\0\0\0\0\0\0\0{", wire.write({"requests": [{"n": 1}]}), wire.write({"requests": [{"params": {"colour": 1}, "length": 0}]})],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.read_requests(*wire.read(body))
