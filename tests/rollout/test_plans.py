"""The decode plan against attention written out, on random keys: whatever an architecture may ask for."""

from __future__ import annotations

import math

import pytest
import torch

from keel.kernels.attention import AttentionOptions
from keel.rollout import plans
from keel.rollout.plans import Cache, DecodePlan, PrefillPlan
from keel.types import Layout

LENGTHS = (5, 11, 1)
PROMPT_B = (0, 1, 1, 2, 0, 1)


def reference(query_HD, key_KTD, value_KTD, options: AttentionOptions) -> torch.Tensor:
    """One query at the last position of one sequence, in float64."""
    repeat = query_HD.shape[0] // key_KTD.shape[0]
    key, value = (x.double().repeat_interleave(repeat, 0) for x in (key_KTD, value_KTD))
    scores = torch.einsum("hd,htd->ht", query_HD.double(), key) * options.scaling
    if options.softcap:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if options.sliding_window:
        scores[:, : -options.sliding_window] = -torch.inf
    if options.sinks_H is not None:
        scores = torch.cat([scores, options.sinks_H.double()[:, None]], 1)
    weights = scores.softmax(-1)[:, : key.shape[1]]
    return torch.einsum("ht,htd->hd", weights, value)


@pytest.mark.parametrize("window", [None, 3, 8])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (2, 2), (4, 1)])
def test_decode_equals_attention_written_out(window, softcap, sinks, heads, key_heads, monkeypatch) -> None:
    monkeypatch.setattr(plans, "_FIRST_CAPACITY", 4)
    g = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return 2 * torch.randn(*shape, generator=g)

    dim, value_dim = 8, 6
    options = AttentionOptions(0.3, window, softcap, random(heads) if sinks else None)
    cache = Cache(LENGTHS, max_tokens=100)
    sequences = []
    for first, lengths in ((0, LENGTHS[:2]), (2, LENGTHS[2:])):
        n = sum(lengths)
        key, value = random(1, key_heads, n, dim), random(1, key_heads, n, dim)[..., :value_dim]
        out = PrefillPlan.of(cache, first, [Layout(n) for n in lengths]).attend(0, query := random(1, heads, n, dim), key, value, options)
        ends = torch.tensor(lengths).cumsum(0).tolist()
        for start, end in zip([0, *ends], ends):
            sequences.append((key[0, :, start:end], value[0, :, start:end]))
            expected = reference(query[0, :, end - 1], *sequences[-1], options)
            assert torch.allclose(out[0, end - 1].double(), expected, atol=1e-5)
    plan, rows = DecodePlan(cache, torch.tensor(PROMPT_B)), [sequences[q] for q in PROMPT_B]
    for step in range(20):
        assert plan.positions()[:, 0].tolist() == [k.shape[1] for k, _ in rows]
        n = len(rows)
        query, key, value = random(n, heads, 1, dim), random(n, key_heads, 1, dim), random(n, key_heads, 1, value_dim)
        rows = [(torch.cat([k, key[i]], 1), torch.cat([v, value[i]], 1)) for i, (k, v) in enumerate(rows)]
        out = plan.attend(0, query, key, value, options)
        plan.advance()
        for i, (k, v) in enumerate(rows):
            assert torch.allclose(out[i, 0].double(), reference(query[i, :, 0], k, v, options), atol=1e-5)
        if step in (6, 13):  # prompt 2 and then prompt 0 lose their last rows
            alive = torch.tensor([True, True, False, False, True, True] if step == 6 else [False, True, False, True])
            rows = [rows[i] for i in plan.keep(alive).tolist()]
    assert len(rows) == 2
    assert cache.prompt_lengths == [11]


def test_weights_that_vanish_do_not_disturb() -> None:
    """Scores hundreds apart: the far keys count for nothing, and a prompt wholly outside the window neither."""
    options = AttentionOptions(1.0, sliding_window=2)
    cache = Cache((3,), max_tokens=8)
    key = torch.tensor([500.0, -500.0, 0.0]).view(1, 1, 3, 1)
    PrefillPlan.of(cache, 0, [Layout(3)]).attend(0, torch.ones(1, 1, 3, 1), key, key, options)
    plan = DecodePlan(cache, torch.tensor([0]))
    for value, expected in ((1.0, None), (-300.0, None), (2.0, 2.0), (5.0, None)):
        new = torch.full((1, 1, 1, 1), value)
        out = plan.attend(0, torch.ones(1, 1, 1, 1), new, new, options).item()
        plan.advance()
        if expected is not None:
            assert out == pytest.approx(expected)
    assert out == pytest.approx((2 * math.exp(2) + 5 * math.exp(5)) / (math.exp(2) + math.exp(5)))


def test_completions_go_on_from_their_prompts_next_position() -> None:
    """An image takes fewer positions than tokens; prompts that leave take theirs along."""
    cache = Cache((5, 9, 4), max_tokens=8, next_positions=(5, 3, 4))
    plan = DecodePlan(cache, torch.tensor([0, 1, 1, 2]))
    assert plan.positions().tolist() == [[5], [3], [3], [4]]
    plan.advance()
    plan.keep(torch.tensor([False, True, True, False]))
    assert cache.prompt_lengths == [9]
    assert plan.positions().tolist() == [[4], [4]]
