"""Ensembles of policies: the mixtures by hand, and that what is drawn is what they say."""

from __future__ import annotations

import math

import pytest
import torch

from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.model import Model
from keel.rollout.config import PolicyEnsembleConfig, SamplerConfig
from keel.rollout.local import LocalSampler
from keel.rollout.mixture import SequenceMixtureSampler, TokenMixtureSampler, mix
from keel.types import Encoded, Rollout, SampleRequest, SamplingParams

torch.set_num_threads(1)
P, Q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.1, 0.8])


def test_mixtures_by_hand() -> None:
    logits = [P.log()[None] + 7.0, Q.log()[None]]  # logits are known up to a constant
    assert mix(logits, (0.25, 0.75), "probabilities").exp()[0].tolist() == pytest.approx([0.2, 0.15, 0.65])
    geometric = torch.softmax(mix(logits, (0.25, 0.75), "logits"), -1)[0]
    weights = [p**0.25 * q**0.75 for p, q in zip(P.tolist(), Q.tolist(), strict=True)]
    assert geometric.tolist() == pytest.approx([w / sum(weights) for w in weights])
    assert mix(logits, (1.0, 0.0), "logits").exp()[0].tolist() == pytest.approx(P.tolist())


@pytest.fixture(scope="module")
def models(proofs: None) -> tuple[Model, Model]:
    return tuple(load_model(f"tiny:llama?seed={s}&std=0.15", ModelOptions(precision="fp32")).model for s in (1, 2))  # type: ignore[return-value]


def drawn(sampler: LocalSampler | SequenceMixtureSampler, n: int = 4, first: int = 0, stop: tuple[int, ...] = ()) -> list[Rollout]:
    params = SamplingParams(max_tokens=6, stop_tokens=stop)
    requests = [SampleRequest(f"p{i}", Encoded(torch.tensor([5, 6 + i])), n, params, 0, first_sample=first) for i in range(2)]
    sampler.submit(requests)
    return sorted(sampler.collect(), key=lambda r: (r.prompt_id, r.sample))


def logprobs(model: Model, rollout: Rollout) -> torch.Tensor:
    """[T, V] of the model after each token of an answer."""
    prompt = torch.tensor([5, 6 + int(rollout.prompt_id[1])])
    tokens = torch.cat([prompt, rollout.tokens_T])[None]
    with torch.no_grad(), model.own_attention() as module:
        return torch.log_softmax(module(input_ids=tokens).logits[0].float(), -1)[len(prompt) - 1 : -1]


@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("path", ["auto", "plain"])
def test_answers_are_of_the_mixture(models: tuple[Model, Model], of: str, path: str) -> None:
    """The sampler's log-probabilities are those of the mixture of both models' own, taken by transformers."""
    sampler = TokenMixtureSampler(models, (0.3, 0.7), of, lambda t: "", SamplerConfig(path=path))  # type: ignore[arg-type]
    rollouts = drawn(sampler, stop=tuple(range(0, 300, 3)))
    assert len({len(r) for r in rollouts}) > 1, "answers leave the batch one by one"
    for rollout in rollouts:
        p, q = (logprobs(m, rollout) for m in models)
        if of == "probabilities":
            expected = torch.logsumexp(torch.stack([p + math.log(0.3), q + math.log(0.7)]), 0)
        else:
            expected = torch.log_softmax(0.3 * p + 0.7 * q, -1)
        expected_T = expected.gather(1, rollout.tokens_T[:, None])[:, 0]
        torch.testing.assert_close(rollout.logprobs_T, expected_T, atol=1e-4, rtol=0)


def test_all_weight_on_one_member_is_that_member(models: tuple[Model, Model]) -> None:
    alone = drawn(LocalSampler(models[1], lambda t: ""))
    for sampler in (
        TokenMixtureSampler(models, (0.0, 1.0), "probabilities", lambda t: ""),
        SequenceMixtureSampler([LocalSampler(m, lambda t: "") for m in models], (0.0, 1.0)),
    ):
        assert [r.tokens_T.tolist() for r in drawn(sampler)] == [r.tokens_T.tolist() for r in alone]


def test_whole_answers_come_from_members_by_their_weights(models: tuple[Model, Model]) -> None:
    members = [LocalSampler(m, lambda t: "") for m in models]
    mixture = SequenceMixtureSampler(members, (0.25, 0.75))
    alone = [[r.tokens_T.tolist() for r in drawn(m, 32)] for m in members]
    rollouts = drawn(mixture, 32)
    assert [r.sample for r in rollouts] == [*range(32)] * 2
    last = drawn(mixture, 2, first=30)[:2]
    assert [r.tokens_T.tolist() for r in last] == [r.tokens_T.tolist() for r in rollouts[30:32]]
    second = 0
    for i, rollout in enumerate(rollouts):
        member = mixture.member(SampleRequest(rollout.prompt_id, Encoded(torch.tensor([1])), 1, SamplingParams(), 0), rollout.sample)
        assert rollout.tokens_T.tolist() == alone[member][i]
        second += member
    assert 0.75 * 64 - 11 < second < 0.75 * 64 + 11, "three standard deviations"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"weights": [0.5, 0.3]}, "add up to 0.8"),
        ({"weights": [1.0]}, "1 weights for 2 members"),
        ({"weights": [1.5, -0.5]}, "at least 0"),
        ({"fit": ["x.jsonl"], "weights": [0.5, 0.5]}, "leave out `weights`"),
        ({"grid": [0.0, 1.0]}, "no effect without fit"),
    ],
)
def test_weights_that_cannot_be_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PolicyEnsembleConfig.model_validate({"models": ["other"], **settings})
