"""Conversations that go on from what was kept draw and say what they would after reading all of it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from keel.models.model import Model
from keel.models.weights import ModelWeights
from keel.render.conversation import extended
from keel.rollout.config import SamplerConfig
from keel.rollout.decode import FastDecoder
from keel.rollout.kept import Beginning, Kept
from keel.rollout.local import LocalSampler
from keel.rollout.prove import continued_error, prove_continued
from keel.types import Encoded, PolicyVersion, Rollout, SampleRequest, SamplingParams

ARCHS = ["llama", "qwen3", "gemma2", "gemma3", "mistral", "qwen3_moe", "granite", "cohere", "gpt_neox"]
PARAMS = SamplingParams(max_tokens=9)


def conversations(sampler: LocalSampler, n: int = 6, turns: int = 3) -> list[list[Rollout]]:
    """``n`` conversations of ragged lengths, in which the world says some tokens after each answer."""
    contexts = [Encoded(torch.arange(20, 24 + 3 * i)) for i in range(n)]
    said: list[list[Rollout]] = [[] for _ in range(n)]
    for turn in range(turns):
        params = [replace(PARAMS, max_tokens=3 + (2 * i + turn) % 7) for i in range(n)]
        sampler.submit(
            [SampleRequest(f"c{i}", contexts[i], 1, params[i], seed=turn, first_sample=2, goes_on=turn + 1 < turns) for i in range(n)]
        )
        for rollout in sampler.collect():
            i = int(rollout.prompt_id[1:])
            said[i].append(rollout)
            world = torch.arange(40, 41 + (i + turn) % 4)
            contexts[i] = extended(contexts[i], torch.cat([rollout.tokens_T, world]))
    return said


def sampler_of(model: Model, **config: Any) -> LocalSampler:
    return LocalSampler(model, lambda tokens_T: " ".join(map(str, tokens_T.tolist())), SamplerConfig(**config))


@pytest.mark.usefixtures("own_proofs")
@pytest.mark.parametrize("arch", ARCHS)
def test_the_proof_holds_for_every_kind_of_attention(arch: str, load: Callable[..., Any]) -> None:
    model = load(arch).model
    assert continued_error(model) < 1e-4
    assert prove_continued(model)


@pytest.mark.parametrize("wrong", ["a place too far", "the mask"])
def test_the_proof_sees_what_is_wrong(wrong: str, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from keel.rollout.plans import ContinuedPlan

    model = load("llama").model
    if wrong == "the mask":
        monkeypatch.setattr(ContinuedPlan, "_mask", lambda self, prompt, keys, window, device: torch.ones(1, keys, dtype=torch.bool))
    else:
        row = FastDecoder.beginning
        monkeypatch.setattr(FastDecoder, "beginning", lambda self, i: {k: (x.roll(1, 1), y) for k, (x, y) in row(self, i).items()})
    assert continued_error(model) > 1e-3


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
@pytest.mark.parametrize("max_rows", [128, 4])
def test_the_same_is_drawn_and_less_is_read(arch: str, max_rows: int, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = load(arch).model, list[int]()
    run = Model.run

    def counted(self: Model, tokens_BL: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(tokens_BL.shape[1] if tokens_BL.shape[0] == 1 else 0)
        return run(self, tokens_BL, *rest)

    prove_continued(model)
    kept, anew = (sampler_of(model, turns_gib=gib, max_rows=max_rows) for gib in (1.0, 0.0))
    monkeypatch.setattr(Model, "run", counted)
    one = conversations(kept)
    short, read[:] = sum(read), []
    two = conversations(anew)
    whole = sum(read)
    for mine, theirs in zip(one, two, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.tokens_T, b.tokens_T)
            torch.testing.assert_close(a.logprobs_T, b.logprobs_T, rtol=0, atol=1e-5)
    prompts = sum(4 + 3 * i for i in range(6))
    ends = sum(1 + 1 + (i + turn) % 4 for i in range(6) for turn in range(2))  # the last token drawn, and the world's
    assert short == prompts + ends
    assert whole > 2 * short


def test_other_weights_and_another_past_are_read_anew(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("llama").model
    sampler = sampler_of(model)
    begun = list[int]()
    start = FastDecoder.start

    def seen(self: FastDecoder, prompts: Any, prompt_B: Any, max_tokens: int, beginnings: Any = ()) -> Any:
        begun.append(sum(b is not None for b in beginnings))
        return start(self, prompts, prompt_B, max_tokens, beginnings)

    prove_continued(model)
    monkeypatch.setattr(FastDecoder, "start", seen)

    def ask(prompt: Encoded, goes_on: bool = True) -> Rollout:
        sampler.submit([SampleRequest("p", prompt, 1, PARAMS, seed=1, goes_on=goes_on)])
        return next(iter(sampler.collect()))

    prompt = Encoded(torch.arange(20, 30))
    there = extended(prompt, torch.cat([ask(prompt).tokens_T, torch.tensor([7])]))
    ask(there)
    assert begun == [0, 1]
    ask(extended(there, torch.tensor([9])))
    assert begun[-1] == 0, "the answer was left out: the past is another one"
    there = extended(prompt, torch.cat([ask(prompt).tokens_T, torch.tensor([7])]))
    sampler.load(PolicyVersion(1, model.digest()), ModelWeights(model))
    ask(there)
    assert begun[-1] == 0, "new weights came"
    there = extended(prompt, torch.cat([ask(prompt, goes_on=False).tokens_T, torch.tensor([7])]))
    ask(there)
    assert begun[-1] == 0, "nobody had said that it goes on"


def test_what_was_not_asked_for_longest_goes_first() -> None:
    def of(n: int) -> Beginning:
        return Beginning(Encoded(torch.arange(n)), {0: (torch.zeros(1, n, 2), torch.zeros(1, n, 2))})  # 16 n bytes

    kept = Kept(most=16 * 10)
    for key, n in enumerate((4, 3, 2)):
        kept.put(key, of(n))
    kept.put(0, of(4))
    kept.put(3, of(4))  # one too many: 1 has waited longest
    assert kept.take(1) is None
    assert all(kept.take(key) is not None for key in (0, 2, 3))
    assert kept.take(0) is None
    kept.put(4, of(11))
    assert kept.take(4) is None, "more than there is room for"
    kept.put(5, of(10))
    kept.clear()
    assert kept.take(5) is None


def test_a_beginning_is_of_the_same_text_images_and_places() -> None:
    text = Encoded(torch.arange(5))
    beginning = Beginning(text, {})
    assert beginning.begins(Encoded(torch.arange(6)))
    assert not beginning.begins(text), "nothing is left to read"
    assert not beginning.begins(Encoded(torch.tensor([0, 1, 2, 9, 4, 5])))
    assert not beginning.begins(Encoded(torch.arange(6), positions_PT=torch.arange(1, 7)[None]))
