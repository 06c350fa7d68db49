"""Which tokens hang on what is masked in their prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from keel.loops.grounding import told_apart
from keel.types import Branch, Encoded, MediaRef, Unit

SHOWN, MASKED = MediaRef("shown", 1), MediaRef("masked", 1)
TRAINED = torch.tensor([True, True, True, False])


def unit(name: str, shown: bool, **signals: Sequence[float]) -> Unit:
    branch = Branch(torch.arange(4), TRAINED, {k: torch.tensor(v) for k, v in signals.items()})
    return Unit(name, Encoded(torch.tensor([1, 2]), (SHOWN,) if shown else ()), (branch,))


def mask(prompt: Encoded) -> Encoded | None:
    return replace(prompt, media=(MASKED,)) if prompt.media else None


def test_tokens_that_lose_more_than_the_limit_are_grounded() -> None:
    asked: list[str] = []

    def logprobs(units: Sequence[Unit]) -> list[tuple[torch.Tensor, ...]]:
        assert all(u.prompt.media == (MASKED,) for u in units)
        asked.extend(u.unit_id for u in units)
        return [(torch.tensor([-1.5, -1.05, -0.5, 0.0]),) for _ in units]

    units = [
        unit("a", True, sampler_logprobs=[-1.0, -1.0, -1.0, 5.0]),
        unit("text", False, sampler_logprobs=[-1.0] * 4),
        unit("b", True, sampler_logprobs=[-9.0] * 4, old_logprobs=[-1.0, -0.1, -1.0, 5.0]),
    ]
    found = told_apart(units, mask, logprobs, above=0.1)
    assert asked == ["a", "b"], "one pass, of those with something masked"
    assert [row[0].tolist() for row in found] == [[1.0, 0.0, 0.0, 0.0], [0.0] * 4, [1.0, 1.0, 0.0, 0.0]]


def test_the_limit_itself_is_not_passed() -> None:
    units = [unit("a", True, sampler_logprobs=[-1.0] * 4)]
    found = told_apart(units, mask, lambda us: [(torch.tensor([-1.5] * 4),) for _ in us], above=0.5)
    assert found[0][0].tolist() == [0.0] * 4
