"""Rows that come and go: they draw what they would have drawn alone, whenever they joined and whoever left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from keel.models.loading import Loaded
from keel.render.conversation import extended
from keel.rollout import slots
from keel.rollout.continuous import ContinuousSampler, RowAsk
from keel.rollout.prove import prove_slots, slots_error
from keel.rollout.wave import Row
from keel.types import Encoded, Rollout, SampleRequest, SamplingParams

KINDS = (
    SamplingParams(max_tokens=9),
    SamplingParams(max_tokens=6, temperature=0.0),
    SamplingParams(max_tokens=8, temperature=0.7, top_p=0.8),
    SamplingParams(max_tokens=7, temperature=1.3, top_k=20),
)


def requests_of(prompts: list[Encoded]) -> list[SampleRequest]:
    return [SampleRequest(f"p{i}", p, 1 + i % 2, KINDS[i % len(KINDS)], seed=5) for i, p in enumerate(prompts)]


def asks_of(requests: list[SampleRequest]) -> list[RowAsk]:
    rows = [Row(request, k) for request in requests for k in range(request.n)]
    return [RowAsk(f"{r.request.prompt_id}/{r.sample}", r.request.prompt, r.request.params, r.key) for r in rows]


def drawn(sampler: ContinuousSampler, asks: list[RowAsk], join: Callable[[int], int]) -> dict[str, list[int]]:
    """The tokens of each row; ``join``: the step at which row i joins."""
    found: dict[str, list[int]] = {ask.name: list(ask.said) for ask in asks}
    limit = {ask.name: ask.params.max_tokens for ask in asks}
    for step in range(40):
        for token in sampler.advance([ask for i, ask in enumerate(asks) if join(i) == step]):
            assert not token.error
            found[token.name].append(token.token)
        sampler.drop({name for name, ids in found.items() if len(ids) >= limit[name]})
    assert len(sampler) == 0
    return found


@pytest.mark.parametrize("arch", ["llama", "gemma2", "mistral"])
def test_a_row_draws_what_the_local_sampler_draws_whenever_it_joins(load, prompts, sampler, arch: str) -> None:
    loaded: Loaded = load(arch)
    requests = requests_of(prompts)
    local = sampler(loaded)
    local.submit(requests)
    wanted: dict[str, Rollout] = {f"{r.prompt_id}/{r.sample}": r for r in local.collect()}
    ways: list[tuple[bool, Callable[[int], int]]]
    ways = [(True, lambda i: (i * 7) % 5), (True, lambda i: max(0, 9 - 2 * i)), (False, lambda i: i % 2)]
    for fast, join in ways:
        got = drawn(ContinuousSampler(loaded.model, fast, 8), asks_of(requests), join)
        for name, ids in got.items():
            assert ids == wanted[name].tokens_T.tolist(), (arch, fast, name)


def test_an_answer_that_goes_on_elsewhere_goes_on_as_it_would_have(load, prompts) -> None:
    loaded = load("llama")
    asks = asks_of(requests_of(prompts))
    whole = drawn(ContinuousSampler(loaded.model, True, 8), asks, lambda i: 0)
    for cut in (1, 5):
        parts = [replace(ask, said=tuple(whole[ask.name][:cut])) for ask in asks]
        assert drawn(ContinuousSampler(loaded.model, True, 8), parts, lambda i: i % 3) == whole


def test_log_probabilities_are_the_models_own_whatever_is_drawn_from(load, prompts) -> None:
    loaded = load("llama")
    sampler = ContinuousSampler(loaded.model, True, 4)
    params = SamplingParams(max_tokens=4, temperature=0.5, top_p=0.6)
    tokens = []
    for step in range(4):
        new = [RowAsk("a", prompts[0], params, 9, top=3), RowAsk("b", prompts[1], params, 9)] if not step else []
        told = {t.name: t for t in sampler.advance(new)}
        tokens.append(told["a"])
        assert told["b"].logprob is None
    rows = torch.cat([prompts[0].tokens_T, torch.tensor([t.token for t in tokens])])[None]
    with torch.no_grad():
        hidden_BLH = loaded.model.run_plain(rows, torch.ones_like(rows))
        logprobs_TV = loaded.model.logits(hidden_BLH[0, -5:-1]).log_softmax(-1)
    for token, logprobs_V in zip(tokens, logprobs_TV, strict=True):
        assert token.logprob == pytest.approx(float(logprobs_V[token.token]), abs=1e-4)
        assert [i for i, _ in token.top] == logprobs_V.topk(3).indices.tolist()


def test_room_is_made_and_given_back(load) -> None:
    """Rows longer than the first room, and many of them, come and go over and over."""
    loaded = load("llama")
    sampler = ContinuousSampler(loaded.model, True, 40)
    draw = torch.Generator().manual_seed(1)
    for turn in range(2):
        asks = [
            RowAsk(f"{turn}-{i}", Encoded(torch.randint(5, 300, (20 * i + 3,), generator=draw)), SamplingParams(max_tokens=5), i)
            for i in range(8)
        ]
        alone = {}
        for ask in asks:
            alone |= drawn(ContinuousSampler(loaded.model, True, 4), [ask], lambda i: 0)
        assert drawn(sampler, asks, lambda i: i // 2) == alone


def test_a_row_whose_logits_are_broken_leaves_and_the_others_stay(load, prompts) -> None:
    loaded = load("llama")
    everything = tuple(range(loaded.model.head_weight_VH.shape[0]))
    sampler = ContinuousSampler(loaded.model, True, 4)
    bad = RowAsk("bad", prompts[0], SamplingParams(max_tokens=3, banned_tokens=everything), 1)
    told = {t.name: t for t in sampler.advance([bad, RowAsk("good", prompts[1], SamplingParams(max_tokens=3), 2)])}
    assert "banned" in told["bad"].error
    assert (told["good"].error, len(sampler)) == ("", 1)


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma2", "gemma3", "qwen3_moe", "cohere", "llava", "idefics3"])
def test_the_slots_prove_themselves(load, arch: str) -> None:
    assert slots_error(load(arch).model) < 5e-6
    assert prove_slots(load(arch).model)


@pytest.mark.parametrize("fault", ["window", "keep", "lengths"])
def test_what_would_be_silently_wrong_is_noticed(load, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "window":
        bias = slots.SlotPlan._bias
        monkeypatch.setattr(slots.SlotPlan, "_bias", lambda self, window: bias(self, None))
    elif fault == "keep":
        monkeypatch.setattr(slots.SlotCache, "keep", lambda self, alive: [i for i, lives in enumerate(alive) if lives])
    else:
        monkeypatch.setattr(slots.SlotPlan, "_bias", lambda self, window: torch.zeros(len(self.place_B), 1, 1, self.cache.widest + 1))
    try:
        error = slots_error(load("mistral").model)
    except (ValueError, IndexError, RuntimeError):
        return
    assert error > 1e-3


def test_a_prompt_with_rows_of_positions_goes_on_behind_the_last_one() -> None:
    prompt = Encoded(torch.tensor([1, 2, 3]), positions_PT=torch.tensor([[0, 1, 1], [0, 1, 2], [0, 1, 1]]))
    longer = extended(prompt, torch.tensor([7, 8]))
    assert longer.tokens_T.tolist() == [1, 2, 3, 7, 8]
    assert longer.positions_PT is not None
    assert longer.positions_PT[:, 3:].tolist() == [[3, 4]] * 3
