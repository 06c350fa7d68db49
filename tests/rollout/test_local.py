from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from keel.core.errors import SelfTestError
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.weights import ModelWeights
from keel.rollout.config import SamplerConfig
from keel.rollout.local import LocalSampler
from keel.types import Encoded, MediaRef, PolicyVersion, SampleRequest, SamplingParams

END = 3  # the end token of the tiny tokenizers
ARCHITECTURES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "qwen3_moe", "granite", "cohere", "gpt_neox"]
PARAMS = SamplingParams(max_tokens=24, stop_tokens=(END,))


def same(a, b, tolerance: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key].tokens_T, b[key].tokens_T), key
        assert torch.allclose(a[key].logprobs_T, b[key].logprobs_T, atol=tolerance)
        assert (a[key].finish_reason, a[key].text) == (b[key].finish_reason, b[key].text)


# --------------------------------------------------------------------------------------------------------- against transformers


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_equals_generate(load, prompts, sample, sampler, arch: str) -> None:
    loaded = load(arch)
    assert sampler(loaded).fast
    assert not sampler(loaded, path="plain").fast
    greedy = replace(PARAMS, temperature=0.0)
    fast, plain = (sample(loaded, prompts, greedy, path=path) for path in ("auto", "plain"))
    same(fast, plain)
    for i, prompt in enumerate(prompts):
        with loaded.model.own_attention() as module:
            expected = module.generate(
                input_ids=prompt.tokens_T[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=24,
                do_sample=False,
                eos_token_id=END,
                pad_token_id=0,
            )[0, len(prompt) :]
        for s in range(2):
            assert torch.equal(fast[f"p{i}", s].tokens_T, expected)
            assert fast[f"p{i}", s].finish_reason == ("stop" if expected[-1] == END else "length")


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gemma3", "qwen3_moe"])
@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        replace(PARAMS, temperature=0.7),
        replace(PARAMS, top_k=7),
        replace(PARAMS, top_p=0.6),
        replace(PARAMS, temperature=1.4, top_k=40, top_p=0.8),
    ],
)
def test_logprobs_are_those_of_the_distribution_sampled_from(
    load, prompts, sample, plain_logits, arch: str, params: SamplingParams
) -> None:
    loaded = load(arch)
    for (prompt_id, _), rollout in sample(loaded, prompts, params).items():
        logits = plain_logits(loaded, prompts[int(prompt_id[1:])], rollout.tokens_T) / params.temperature
        logits = TopKLogitsWarper(params.top_k)(None, logits) if params.top_k else logits
        logits = TopPLogitsWarper(params.top_p)(None, logits) if params.top_p < 1 else logits
        expected = logits.log_softmax(-1).gather(1, rollout.tokens_T[:, None])[:, 0]
        assert torch.allclose(rollout.logprobs_T, expected, atol=1e-5)


def test_in_bf16_logprobs_stay_near_the_plain_ones(prompts, sample) -> None:
    """Rounding depends on the shape of the batch there, so the difference is bounded in the mean and at the 99th percentile."""
    loaded = load_model("tiny:llama?std=0.1", ModelOptions(precision="bf16", device="cpu"), seed=3)
    differences = []
    for (prompt_id, _), rollout in sample(loaded, prompts, PARAMS, n=4).items():
        whole = torch.cat([prompts[int(prompt_id[1:])].tokens_T, rollout.tokens_T])[None]
        with torch.no_grad():
            hidden_LH = loaded.model.run_plain(whole, torch.ones_like(whole))[0, -len(rollout) - 1 : -1]
        logprobs_TV = loaded.model.logits(hidden_LH).detach().log_softmax(-1)
        differences.append((logprobs_TV.gather(1, rollout.tokens_T[:, None])[:, 0] - rollout.logprobs_T).abs())
    difference = torch.cat(differences)
    assert 0 < difference.mean() < 0.02
    assert difference.quantile(0.99) < 0.1


def test_a_prompt_with_images_equals_generate(load, sample, sampler) -> None:
    loaded = load("llava")
    image = loaded.model.transform.banned[0]
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 3, 28, 28, generator=generator)
    for name, value in zip("ab", pixels):
        loaded.model.media.put(name, {"pixel_values": value[None]})
    text = torch.randint(10, 300, (12,), generator=generator)
    placeholders = torch.full((4,), image)
    prompts = [
        Encoded(torch.cat([text[:3], placeholders, text[3:]]), (MediaRef("a", 4),)),
        Encoded(text),
        Encoded(torch.cat([text[:3], placeholders, text[3:]]), (MediaRef("b", 4),)),
        Encoded(torch.cat([placeholders, text[:5], placeholders, text[5:]]), (MediaRef("b", 4), MediaRef("a", 4))),
    ]
    images = [pixels[:1], None, pixels[1:], pixels[[1, 0]]]
    params = replace(PARAMS, temperature=0.0, banned_tokens=(image,))
    results = {path: sample(loaded, prompts, params, path=path) for path in ("auto", "plain")}
    assert sampler(loaded).fast
    outputs = []
    for i, (prompt, values) in enumerate(zip(prompts, images)):
        with loaded.model.own_attention() as module:
            inputs = {} if values is None else {"pixel_values": values}
            out = module.generate(
                input_ids=prompt.tokens_T[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=24,
                do_sample=False,
                eos_token_id=END,
                pad_token_id=0,
                suppress_tokens=[image],
                **inputs,
            )
        outputs.append(out[0, len(prompt) :])
        for rollouts in results.values():
            assert torch.equal(rollouts[f"p{i}", 1].tokens_T, outputs[-1])
    assert not torch.equal(outputs[0], outputs[2])  # the image is seen


# ------------------------------------------------------------------------------------------------------------------ independence


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_results_do_not_depend_on_wave_batch_mates_path_or_prefill(load, prompts, sample, sampler, arch: str) -> None:
    loaded = load(arch)
    params = replace(PARAMS, stop_tokens=(END, *range(100, 140)))  # rows leave early
    whole = sample(loaded, prompts, params, n=3)
    assert len({len(r) for r in whole.values()}) > 3
    same(whole, sample(loaded, prompts, params, n=3, max_rows=4))
    same(whole, sample(loaded, prompts, params, n=3, max_rows=1))
    same(whole, sample(loaded, prompts, params, n=3, prefill_tokens=10))
    same(whole, sample(loaded, prompts, params, n=3, path="plain"))
    local = sampler(loaded)
    for i in (2, 0):
        local.submit([SampleRequest(f"p{i}", prompts[i], 1, params, 7, first_sample=s) for s in (2, 0)])
    alone = {(r.prompt_id, r.sample): r for r in local.collect()}
    same({key: whole[key] for key in alone}, alone)
    assert len(alone) == 4


def test_seed_attempt_and_sample_change_the_draws_and_nothing_else_does(load, prompts, sample) -> None:
    loaded = load("llama")
    first = sample(loaded, prompts, PARAMS)
    same(first, sample(loaded, prompts, PARAMS), tolerance=0.0)
    for change in ({"attempt": 1}, {"seed": 8}):
        other = sample(loaded, prompts, PARAMS, **change)
        assert all(not torch.equal(first[key].tokens_T, other[key].tokens_T) for key in first)
    assert all(not torch.equal(first[f"p{i}", 0].tokens_T, first[f"p{i}", 1].tokens_T) for i in range(len(prompts)))


def test_requests_with_different_parameters_share_a_wave_and_a_prompt(load, prompts, sample, sampler) -> None:
    loaded = load("qwen2")
    kinds = [replace(PARAMS, temperature=t, max_tokens=m, top_k=k) for t, m, k in ((0.0, 5, 0), (0.7, 24, 0), (1.3, 11, 4))]
    local = sampler(loaded)
    local.submit([SampleRequest("p0", prompts[0], 2, params, 7, attempt) for attempt, params in enumerate(kinds)])
    mixed = {(r.attempt, r.sample): r for r in local.collect()}
    for attempt, params in enumerate(kinds):
        alone = sample(loaded, prompts[:1], params, attempt=attempt)
        same({s: mixed[attempt, s] for s in range(2)}, {s: alone["p0", s] for s in range(2)})
        assert all(len(mixed[attempt, s]) <= params.max_tokens for s in range(2))


# ------------------------------------------------------------------------------------------------------------------------ endings


def test_the_first_of_several_end_tokens_ends_and_is_kept(load, prompts, sample) -> None:
    loaded = load("llama")
    free = sample(loaded, prompts, replace(PARAMS, stop_tokens=()))
    ends = (int(free["p0", 0].tokens_T[6]), int(free["p1", 1].tokens_T[9]))
    ended = sample(loaded, prompts, replace(PARAMS, stop_tokens=ends))
    stopped = 0
    for key, rollout in ended.items():
        tokens = free[key].tokens_T.tolist()
        first = next((i for i, t in enumerate(tokens) if t in ends), None)
        assert rollout.tokens_T.tolist() == (tokens if first is None else tokens[: first + 1])
        assert torch.allclose(rollout.logprobs_T, free[key].logprobs_T[: len(rollout)], atol=1e-5)
        assert rollout.finish_reason == ("length" if first is None else "stop")
        stopped += first is not None
    assert stopped >= 2


def test_min_tokens_masks_the_end_and_renormalises(load, prompts, sample, plain_logits) -> None:
    loaded = load("llama")
    ends = tuple(range(100, 400))
    assert any(len(r) < 6 for r in sample(loaded, prompts, replace(PARAMS, stop_tokens=ends)).values())
    for (prompt_id, _), rollout in sample(loaded, prompts, replace(PARAMS, stop_tokens=ends, min_tokens=6)).items():
        logits = plain_logits(loaded, prompts[int(prompt_id[1:])], rollout.tokens_T)
        logits[:6, ends] = -torch.inf
        assert len(rollout) > 6
        assert rollout.tokens_T[-1] in ends
        assert torch.allclose(rollout.logprobs_T, logits.log_softmax(-1).gather(1, rollout.tokens_T[:, None])[:, 0], atol=1e-5)


def test_stop_strings_end_with_the_token_that_completes_them(load, prompts, sample) -> None:
    loaded = load("llama")

    def decode(tokens: torch.Tensor) -> str:
        return loaded.tokenizer.decode(tokens, skip_special_tokens=True)

    params = replace(PARAMS, stop_tokens=())
    free = sample(loaded, prompts, params)
    tokens_T = free["p0", 0].tokens_T
    across = decode(tokens_T[9:12])[-8:]  # spans tokens
    for min_tokens in (0, 15):
        stopped = sample(loaded, prompts, replace(params, stop=(across, "never to be found"), min_tokens=min_tokens))
        for key, rollout in stopped.items():
            lengths = [n for n in range(max(1, min_tokens), len(free[key]) + 1) if _ends_a_stop(decode, free[key].tokens_T[:n], across)]
            expected = lengths[0] if lengths else len(free[key])
            assert torch.equal(rollout.tokens_T, free[key].tokens_T[:expected])
        if min_tokens == 0:
            assert stopped["p0", 0].finish_reason == "stop"
            assert len(stopped["p0", 0]) <= 12
            assert across in stopped["p0", 0].text


def _ends_a_stop(decode, tokens_T: torch.Tensor, stop: str) -> bool:
    return decode(tokens_T).count(stop) > decode(tokens_T[:-1]).count(stop)


def test_logits_that_are_not_finite_make_a_failed_rollout_and_spare_the_others(load, prompts, sampler, monkeypatch) -> None:
    loaded = load("llama")
    local = sampler(loaded)
    step = local._decoder.step

    def broken(tokens_B):
        logits = step(tokens_B)
        logits[2:3] = torch.nan
        return logits

    monkeypatch.setattr(local._decoder, "step", broken)
    local.submit([SampleRequest("p0", prompts[0], 5, PARAMS, 7)])
    rollouts = {r.sample: r for r in local.collect()}
    assert len(rollouts) == 5
    assert rollouts[2].finish_reason == "error"
    assert "not finite" in rollouts[2].error
    assert len(rollouts[2]) == 1
    assert rollouts[0].finish_reason in ("stop", "length")


def test_every_token_banned_is_a_failed_rollout(load, prompts, sample) -> None:
    loaded = load("llama")
    everything = replace(PARAMS, banned_tokens=tuple(range(loaded.model.head_weight_VH.shape[0])))
    assert {r.finish_reason for r in sample(loaded, prompts[:2], everything).values()} == {"error"}


# ------------------------------------------------------------------------------------------------------------------------ records


def test_records_are_whole(load, prompts, sample) -> None:
    loaded = load("llama")
    for rollout in sample(loaded, prompts, PARAMS).values():
        n = len(rollout)
        assert 1 <= n <= 24
        assert all(x.shape == (n,) for x in (rollout.sampled_T, rollout.logprobs_T, rollout.version_T))
        assert (rollout.tokens_T.dtype, rollout.logprobs_T.dtype, rollout.version_T.dtype) == (torch.int64, torch.float32, torch.int64)
        assert rollout.sampled_T.all()
        assert rollout.text == loaded.tokenizer.decode(rollout.tokens_T, skip_special_tokens=True)
        assert not rollout.logprobs_T.requires_grad
        assert not rollout.logprobs_T.is_inference()


def test_load_checks_that_the_weights_arrived(load, prompts) -> None:
    loaded = load("llama", lora=LoraConfig(r=2))
    local = LocalSampler(loaded.model, lambda _: "", SamplerConfig(), PolicyVersion(3, ""))
    request = SampleRequest("p0", prompts[0], 1, PARAMS, 7)
    local.submit([request])
    (before,) = local.collect()
    old = loaded.model.digest()
    with torch.no_grad():
        for _, parameter in loaded.model.trainable():
            parameter.add_(0.3)
    with pytest.raises(SelfTestError, match="policy version 4"):
        local.load(PolicyVersion(4, old), ModelWeights(loaded.model))
    local.load(PolicyVersion(4, loaded.model.digest()), ModelWeights(loaded.model))
    local.submit([request])
    (after,) = local.collect()
    assert before.version_T.unique().tolist() == [3]
    assert after.version_T.unique().tolist() == [4]
    assert not torch.equal(before.tokens_T, after.tokens_T)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"n": 0}, "at least one sample"),
        ({"prompt": Encoded(torch.zeros(0, dtype=torch.int64))}, "no tokens"),
        ({"params": SamplingParams(max_tokens=0)}, "max_tokens"),
        ({"params": SamplingParams(temperature=1e-9)}, "temperature"),
        ({"params": SamplingParams(top_p=0.0)}, "top_p"),
        ({"params": SamplingParams(top_k=-1)}, "top_k"),
        ({"params": SamplingParams(stop=("",))}, "stop string"),
    ],
)
def test_requests_that_cannot_be_sampled_are_refused(load, prompts, sampler, change: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        sampler(load("llama")).submit([replace(SampleRequest("p0", prompts[0], 1, PARAMS, 7), **change)])
