"""What the sampler says could have been drawn, and the learner's log-probabilities over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.loops.gathering import sample_groups
from keel.methods.credit.units import rollout_units
from keel.rollout.distribution import RowParams, draw
from keel.types import Encoded, Group, Prompt, Rollout, SampleRequest, SamplingParams

END = 3  # the end token of the tiny tokenizers
PARAMS = SamplingParams(max_tokens=12, stop_tokens=(END,))
CUTS = [
    replace(PARAMS, top_k=7),
    replace(PARAMS, temperature=1.4, top_p=0.6),
    replace(PARAMS, temperature=0.8, top_k=40, top_p=0.8, min_tokens=5),
    replace(PARAMS, top_p=0.9, explore=0.2, explore_temperature=2.0),
]


def group(loaded, sampler, prompts: Sequence[Encoded], params: SamplingParams, keep: bool = True, **config) -> tuple[Group, ...]:
    requests = [SampleRequest(f"p{i}", p, 2, params, 7, keep_support=keep) for i, p in enumerate(prompts)]
    return sample_groups(sampler(loaded, **config), requests, {r.prompt_id: Prompt(r.prompt_id, text="x") for r in requests})


def gap(loaded, groups: Sequence[Group], temperature: float) -> float:
    units = rollout_units(groups)
    found = LocalInference(loaded.model, BatchConfig(), temperature).logprobs(units)
    pairs = [(x, b.signals["sampler_logprobs"]) for row, u in zip(found, units) for x, b in zip(row, u.branches)]
    return max(float((x - y).abs().max()) for x, y in pairs)


@pytest.mark.parametrize("arch", ["llama", "gemma2", "cohere", "granite"])
@pytest.mark.parametrize("cut", CUTS[:3])
def test_the_learner_measures_what_the_sampler_drew_from(load, prompts, sampler, arch: str, cut: SamplingParams) -> None:
    loaded = load(arch)
    groups = group(loaded, sampler, prompts, cut)
    assert gap(loaded, groups, cut.temperature) < 1e-4
    forgotten = [replace(g, rollouts=tuple(replace(r, support=None) for r in g.rollouts)) for g in groups]
    assert gap(loaded, forgotten, cut.temperature) > 1e-2


@pytest.mark.parametrize("path", ["auto", "plain"])
@pytest.mark.parametrize("cut", CUTS)
def test_supports_are_those_of_transformers(load, prompts, sampler, plain_logits, cut: SamplingParams, path: str) -> None:
    """Rows end at different steps and leave the batch; whatever the wave, each token has its own support."""
    loaded, cut = load("llama"), replace(cut, stop_tokens=tuple(range(60)))
    rollouts = [r for g in group(loaded, sampler, prompts, cut, max_rows=6, path=path) for r in g.rollouts]
    assert len({len(r) for r in rollouts}) > 1
    for rollout in rollouts:
        logits = plain_logits(loaded, prompts[int(rollout.prompt_id[1:])], rollout.tokens_T)
        logits[: cut.min_tokens, :60] = -torch.inf
        logits = logits / cut.temperature
        logits = TopKLogitsWarper(cut.top_k)(None, logits) if cut.top_k else logits
        logits = TopPLogitsWarper(cut.top_p)(None, logits) if cut.top_p < 1 else logits
        assert rollout.support is not None
        assert len(rollout.support) == len(rollout)
        assert torch.equal(rollout.support.outside(slice(0, len(rollout))), torch.isinf(logits))
        assert not rollout.support.outside(slice(0, len(rollout))).gather(1, rollout.tokens_T[:, None]).any()


def test_an_early_end_alone_is_out_of_the_first_supports(load, prompts, sampler) -> None:
    loaded = load("llama")
    vocab = loaded.model.head_weight_VH.shape[0]
    (only,) = group(loaded, sampler, prompts[:1], replace(PARAMS, min_tokens=3))
    for rollout in only.rollouts:
        assert rollout.support.sizes().tolist() == [vocab - 1] * 3 + [vocab] * (len(rollout) - 3)
        assert rollout.support.outside(slice(0, 3)).nonzero().tolist() == [[0, END], [1, END], [2, END]]


def _same(a: Rollout, b: Rollout) -> bool:
    return torch.equal(a.tokens_T, b.tokens_T) and torch.equal(a.logprobs_T, b.logprobs_T)


def test_what_cuts_nothing_off_changes_no_bit(load, prompts, sampler) -> None:
    """The k of top-k is the vocabulary: draws, their log-probabilities and the learner's are those without."""
    loaded = load("llama")
    free = group(loaded, sampler, prompts, PARAMS)
    asked = group(loaded, sampler, prompts, replace(PARAMS, top_k=loaded.model.head_weight_VH.shape[0]))
    assert all(_same(a, b) for x, y in zip(free, asked) for a, b in zip(x.rollouts, y.rollouts))
    assert all(r.support is None for g in (*free, *asked) for r in g.rollouts)
    infer = LocalInference(loaded.model, BatchConfig(), 1.0)
    free_row, asked_row = (infer.logprobs(rollout_units(g)) for g in (free, asked))
    assert all(torch.equal(a, b) for x, y in zip(free_row, asked_row) for a, b in zip(x, y))


def test_supports_are_told_to_those_who_ask(load, prompts, sampler) -> None:
    """Asking changes nothing that is drawn; in one wave some rows are told and others are not."""
    loaded, cut = load("llama"), CUTS[2]
    asked, unasked = (group(loaded, sampler, prompts, cut, keep) for keep in (True, False))
    assert all(_same(a, b) for x, y in zip(asked, unasked) for a, b in zip(x.rollouts, y.rollouts))
    assert all(r.support is None for g in unasked for r in g.rollouts)
    greedy = replace(cut, temperature=0.0)
    requests = [SampleRequest("p", prompts[0], 2, cut, 7, keep_support=True), SampleRequest("p", prompts[0], 1, greedy, 7, 0, 2)]
    local = sampler(loaded)
    local.submit(requests)
    told = {r.sample: r for r in local.collect()}
    assert [len(told[i].support) == len(told[i]) for i in (0, 1)] == [True, True]
    assert told[2].support is None


def test_a_row_without_a_number_has_no_support() -> None:
    """Two rows, the second not finite: nothing is said of it that could be taken for a support."""
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, torch.nan, 0.0]])
    drawn = draw(logits, RowParams.of([SamplingParams(top_k=2)] * 2), 0, torch.tensor([0.5, 0.5], dtype=torch.float64), True)
    assert drawn.finite_B.tolist() == [True, False]
    assert drawn.support is not None
    assert drawn.support.outside(slice(0, 1)).tolist() == [[True, False, False]]


def test_tokens_that_the_model_gives_nothing_are_not_cut() -> None:
    """Of four tokens the model itself bans one: the top three are all there are, the top two are not."""
    logits = torch.tensor([[0.0, -torch.inf, 2.0, 1.0]])
    for top_k, words in ((3, 0), (2, 1)):
        drawn = draw(logits.clone(), RowParams.of([SamplingParams(top_k=top_k)]), 0, torch.tensor([0.5], dtype=torch.float64), True)
        assert drawn.support is not None
        assert len(drawn.support.words_W) == words
