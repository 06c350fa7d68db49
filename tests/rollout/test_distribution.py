from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from keel.core.hashing import stable_hash, uniform
from keel.rollout import distribution
from keel.rollout.config import SamplingConfig
from keel.rollout.distribution import RowParams, draw, inverse_cdf, top_k_floor, top_p_floor
from keel.types import SamplingParams


def hashed(n: int, *parts: str | int) -> torch.Tensor:
    return torch.from_numpy(uniform(np.array([stable_hash(*parts, i) for i in range(n)], dtype=np.uint64), 0))


def rows(*params: SamplingParams) -> RowParams:
    return RowParams.of(params)


def logits(rows: int, vocab: int, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(rows * vocab))


# ---------------------------------------------------------------------------------------------------------------- inverse CDF


def test_inverse_cdf_by_hand() -> None:
    weights = torch.tensor([[1.0, 2.0, 0.0, 1.0]])
    u = [0.0, 0.24, 0.25, 0.74, 0.75, 0.999]
    tokens, logprobs = inverse_cdf(weights.expand(len(u), -1), torch.tensor(u, dtype=torch.float64))
    assert tokens.tolist() == [0, 0, 1, 1, 3, 3]
    assert logprobs.tolist() == pytest.approx([math.log(p) for p in (0.25, 0.25, 0.5, 0.5, 0.25, 0.25)], abs=1e-7)


@pytest.mark.parametrize("vocab", [5, 255, 256, 257, 1000, 5120])
def test_two_levels_equal_one_cumulative_sum(vocab: int) -> None:
    weights = torch.softmax(logits(64, vocab), -1)
    u = hashed(64, vocab)
    tokens, logprobs = inverse_cdf(weights, u)
    cumulative = weights.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True)[:, 0]
    assert torch.equal(tokens, expected)
    assert torch.allclose(logprobs, weights.double().log().gather(1, tokens[:, None])[:, 0].float(), atol=1e-6)


def test_the_largest_uniform_draws_the_last_token_with_weight() -> None:
    weights = torch.zeros(1, 1000)
    weights[0, [3, 300, 700]] = torch.tensor([0.1, 0.2, 0.3])
    tokens, _ = inverse_cdf(weights, torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert tokens.tolist() == [700]


def test_draws_have_the_softmax_frequencies() -> None:
    n, vocab = 20000, 600
    weights = torch.softmax(logits(1, vocab, 1.5), -1)
    tokens, _ = inverse_cdf(weights.expand(n, -1), hashed(n, "chi"))
    expected = n * weights[0].double()
    counts = torch.bincount(tokens, minlength=vocab).double()
    common = expected >= 5
    chi2 = ((counts - expected)[common] ** 2 / expected[common]).sum().item()
    free = int(common.sum()) - 1
    assert free > 300
    assert chi2 < free + 4 * math.sqrt(2 * free)
    assert counts[~common].sum().item() == pytest.approx(expected[~common].sum().item(), rel=0.2)


# ---------------------------------------------------------------------------------------------------------------------- warps


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 20, 1.0), (1.0, 0, 0.8), (0.9, 50, 0.6), (1.0, 1, 1.0), (2.0, 0, 0.05)],
)
def test_support_and_logprobs_equal_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    raw = logits(32, 700)
    warped = TemperatureLogitsWarper(temperature)(None, raw.clone()) if temperature != 1 else raw.clone()
    warped = TopKLogitsWarper(top_k)(None, warped) if top_k else warped
    warped = TopPLogitsWarper(top_p)(None, warped) if top_p < 1 else warped
    expected = warped.log_softmax(-1)
    seen = set()
    for trial in range(20):
        drawn = draw(raw.clone(), rows(*[SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)] * 32), 0, hashed(32, trial))
        assert torch.allclose(drawn.logprobs_B, expected.gather(1, drawn.tokens_B[:, None])[:, 0], atol=2e-6)
        seen |= set(enumerate(drawn.tokens_B.tolist()))
    assert all(math.isfinite(expected[r, t].item()) for r, t in seen)


def test_a_nucleus_larger_than_the_candidates_is_found_by_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = logits(8, 700, 0.3)  # flat: the nucleus has some hundred tokens
    p = torch.tensor([0.1, 0.5, 0.9, 0.99] * 2, dtype=torch.float64)
    whole = top_p_floor(raw, p)
    monkeypatch.setattr(distribution, "NUCLEUS_CANDIDATES", 32)
    assert torch.equal(top_p_floor(raw, p), whole)
    sizes = (raw >= whole[:, None]).sum(-1)
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]
    assert sizes[1] > 32


def test_top_p_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    for p, smallest in ((0.4, 0.5), (0.51, 0.3), (0.79, 0.3), (0.81, 0.15), (0.96, 0.05)):
        assert top_p_floor(probs.log(), torch.tensor([p], dtype=torch.float64)).exp().item() == pytest.approx(smallest)


def test_equal_logits_are_in_or_out_of_the_support_together() -> None:
    raw = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    assert top_k_floor(raw, torch.tensor([2])).item() == 1.0
    drawn = {
        draw(raw.clone(), rows(SamplingParams(top_k=2)), 0, torch.tensor([u], dtype=torch.float64)).tokens_B.item()
        for u in (0.1, 0.7, 0.95)
    }
    assert drawn == {0, 1, 2}


def test_banned_tokens_and_early_end_tokens_leave_the_support() -> None:
    raw = logits(4, 40)
    params = SamplingParams(banned_tokens=(1, 2), stop_tokens=(3,), min_tokens=2)
    for step, out in ((1, [1, 2, 3]), (2, [1, 2])):
        kept = raw.clone()
        kept[:, out] = -math.inf
        for trial in range(10):
            drawn = draw(raw.clone(), rows(*[params] * 4), step, hashed(4, trial))
            assert torch.allclose(drawn.logprobs_B, kept.log_softmax(-1).gather(1, drawn.tokens_B[:, None])[:, 0], atol=1e-6)


def test_greedy_takes_the_best_allowed_token_and_tells_its_untempered_logprob() -> None:
    raw = torch.tensor([[1.0, 3.0, 2.0, 2.0]])
    drawn = draw(
        raw.clone(),
        rows(SamplingParams(temperature=0, banned_tokens=(1,), top_p=0.1, top_k=1)),
        0,
        torch.tensor([0.99], dtype=torch.float64),
    )
    assert drawn.tokens_B.item() == 2
    assert drawn.logprobs_B.item() == pytest.approx(-math.log(2 + math.exp(-1)), abs=1e-6)


def test_rows_with_different_parameters_do_not_touch_each_other() -> None:
    kinds = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.5, top_k=3),
        SamplingParams(temperature=1.5, top_p=0.7, banned_tokens=(5, 6)),
        SamplingParams(min_tokens=4, stop_tokens=(7,)),
    ]
    mixed = kinds * 4
    raw, u = logits(16, 300), hashed(16, "mixed")
    together = draw(raw.clone(), rows(*mixed), 1, u)
    for i, params in enumerate(mixed):
        alone = draw(raw[i : i + 1].clone(), rows(params), 1, u[i : i + 1])
        assert alone.tokens_B.item() == together.tokens_B[i].item()
        assert alone.logprobs_B.item() == pytest.approx(together.logprobs_B[i].item(), abs=1e-6)


def test_a_share_of_a_hotter_distribution_by_hand() -> None:
    """Logits 0 and ln 9 at temperature 1: 0.1 and 0.9; at temperature 2 (odds of 3): 0.25 and 0.75. A fifth of the latter: 0.13 and 0.87.
    The row beside it has none; a greedy one takes the likeliest and says its plain log-probability."""
    raw = torch.tensor([[0.0, math.log(9.0), -math.inf]]).expand(4, -1)
    mixed = SamplingParams(explore=0.2, explore_temperature=2.0)
    kinds = rows(mixed, mixed, SamplingParams(), SamplingParams(temperature=0, explore=0.2, explore_temperature=2.0))
    drawn = draw(raw.clone(), kinds, 0, torch.tensor([0.12, 0.14, 0.12, 0.0], dtype=torch.float64))
    assert drawn.tokens_B.tolist() == [0, 1, 1, 1]
    assert drawn.logprobs_B.exp().tolist() == pytest.approx([0.13, 0.87, 0.9, 0.9])
    tempered = draw(raw[:1].clone(), rows(SamplingParams(temperature=0.5, explore=0.2, explore_temperature=2.0)), 0, hashed(1).fill_(0.9))
    assert drawn.finite_B.all()
    assert tempered.logprobs_B.exp().tolist() == pytest.approx([0.8 * 81 / 82 + 0.2 * 0.75])


def test_rows_without_finite_logits_are_named() -> None:
    raw = logits(4, 30)
    raw[1, 4] = math.nan
    raw[2] = -math.inf
    raw[3, 0] = math.inf
    assert draw(raw, rows(*[SamplingParams()] * 4), 0, hashed(4)).finite_B.tolist() == [True, False, False, False]


# --------------------------------------------------------------------------------------------------------------------- config


def test_config_becomes_params() -> None:
    config = SamplingConfig(max_tokens=9, min_tokens=2, temperature=0.3, top_p=0.9, top_k=4, stop=("x",))
    assert config.params((2,), (5,)) == SamplingParams(9, 2, 0.3, 0.9, 4, ("x",), (2,), (5,))


@pytest.mark.parametrize(
    "wrong", [{"top_p": 0}, {"temperature": -1}, {"temperature": 1e-5}, {"max_tokens": 4, "min_tokens": 5}, {"stop": [""]}]
)
def test_impossible_configs_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        SamplingConfig(**wrong)
