"""The sampler that draws elsewhere: what it refuses and proves, with an engine of the tests; and, where vLLM is installed, with vLLM."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import load as load_config
from keel.core.errors import ConfigError, ModelError, SelfTestError, UserError
from keel.models import save
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.model import Model
from keel.models.weights import ModelWeights
from keel.rollout.answers import Answer
from keel.rollout.config import RolloutConfig, SamplingConfig, VllmConfig
from keel.rollout.engines import make_sampler
from keel.rollout.local import LocalSampler
from keel.rollout.prove import nats
from keel.rollout.vllm_engine import Asked
from keel.rollout.vllm_sampler import VllmSampler
from keel.rollout.weight_digest import Named, Tally, digest_of
from keel.types import Encoded, MediaRef, PolicyVersion, Rollout, SampleRequest, SamplingParams
from keel.verbs.rl.recipe import RLRecipe

END = 3
PARAMS = SamplingParams(max_tokens=12, stop_tokens=(END,))
SPEC = "tiny:llama?seed=1&hidden=128&std=0.2"
LORA = LoraConfig(r=4)
RL = ("model=tiny:llama", "data.path=x.jsonl", "rewards=[{type: rules, name: r, path: x.yaml}]")


def fresh(spec: str = SPEC, lora: LoraConfig | None = None) -> Loaded:
    return load_model(spec, ModelOptions(precision="fp32", device="cpu"), lora=lora)


def step(model: Model, size: float = 0.02, seed: int = 0) -> PolicyVersion:
    """Move the trained weights and publish them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in model.trainable():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return PolicyVersion(seed + 1, model.digest())


# ------------------------------------------------------------------------------------------------------- an engine of the tests


class Copy:
    """An engine over a second model of its own, which it fills with what it is sent."""

    def __init__(self, loaded: Loaded, names: Sequence[str]) -> None:
        self.twin, self.sent, self.kept, self.batches = fresh().model, 0, set[str](), list[list[Asked]]()
        self.fill(save.as_saved(loaded.model, names))
        self.sent = 0

    def fill(self, weights: dict[str, torch.Tensor]) -> None:
        self.twin.module.load_state_dict({name: t.clone() for name, t in weights.items()}, strict=False)
        self.sent += 1

    def load(self, weights: Iterable[Named]) -> str:
        tally = Tally()
        self.fill(dict(tally.over(weights)))
        return tally.digest()

    def forget(self) -> bool:
        return True

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        tokens_1T = torch.tensor([tokens])
        with torch.no_grad():
            logits_TV = self.twin.logits(self.twin.run_plain(tokens_1T, torch.ones_like(tokens_1T))[0])
        return logits_TV[:-1].log_softmax(-1).gather(1, tokens_1T[0, 1:, None])[:, 0].tolist()

    def draw(self, asked: Sequence[Asked]) -> list[Answer]:
        self.batches.append(list(asked))
        return [Answer((7, a.seed % 50 + 10, END), (-1.0, -2.0, -0.5), True) for a in asked]


class Deaf(Copy):
    """Takes nothing over, and says that it arrived."""

    def load(self, weights: Iterable[Named]) -> str:
        return digest_of(weights)


class Careless(Copy):
    """Leaves the last tensor where it is."""

    def load(self, weights: Iterable[Named]) -> str:
        return super().load(list(weights)[:-1])


class Garbling(Copy):
    """Makes nonsense of one tensor after it has arrived."""

    def load(self, weights: Iterable[Named]) -> str:
        digest = super().load(weights)
        with torch.no_grad():
            next(p for name, p in self.twin.module.named_parameters() if "layers.1.mlp.down" in name).mul_(0.5)
        return digest


class Hoarding(Copy):
    """Cannot drop what it has cached."""

    def forget(self) -> bool:
        return False


@pytest.fixture
def loaded() -> Loaded:
    return fresh()


def names_of(loaded: Loaded, folder: Path) -> tuple[str, ...]:
    loaded.model.save(folder, loaded.tokenizer)
    return save.saved_names(folder)


def over(loaded: Loaded, engine: Any, names: Sequence[str], decode: Any) -> VllmSampler:
    return VllmSampler(ModelWeights(loaded.model), loaded.model.head_weight_VH.shape[0], nats("float32"), engine, names, decode)


def sampler_over(kind: type[Copy], loaded: Loaded, folder: Path) -> tuple[VllmSampler, Copy]:
    names = names_of(loaded, folder)
    engine = kind(loaded, names)
    return over(loaded, engine, names, lambda tokens_T: f"{len(tokens_T)} tokens"), engine


def requests(n: int = 2, **changes: Any) -> list[SampleRequest]:
    params = replace(PARAMS, **changes)
    return [SampleRequest(f"p{i}", Encoded(torch.tensor([5, 6, 7 + i])), n, params, seed=0) for i in range(2)]


def drawn(sampler: Any, asked: Sequence[SampleRequest]) -> dict[tuple[str, int], Rollout]:
    sampler.submit(asked)
    return {(r.prompt_id, r.sample): r for r in sampler.collect()}


def test_new_weights_are_sent_once_and_proven(loaded: Loaded, tmp_path: Path) -> None:
    sampler, engine = sampler_over(Copy, loaded, tmp_path)
    sampler.load(PolicyVersion(0, loaded.model.digest()), ModelWeights(loaded.model))
    assert engine.sent == 0
    version = step(loaded.model)
    sampler.load(version, ModelWeights(loaded.model))
    sampler.load(version, ModelWeights(loaded.model))
    assert engine.sent == 1
    assert all(int(v) == version.version for v in drawn(sampler, requests())["p0", 0].version_T)


def test_adapters_are_merged_on_the_way(tmp_path: Path) -> None:
    adapted = fresh(lora=LORA)
    sampler, engine = sampler_over(Copy, adapted, tmp_path)
    sampler.load(step(adapted.model, 0.1), ModelWeights(adapted.model))
    assert engine.sent == 1
    saved = save.as_saved(adapted.model, names_of(adapted, tmp_path / "again"))
    assert not any("lora" in name for name in saved)
    assert all(torch.equal(t, saved[name]) for name, t in engine.twin.module.state_dict().items() if name in saved)


def test_a_digest_that_is_not_the_models_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    sampler, engine = sampler_over(Copy, loaded, tmp_path)
    honest = loaded.model.digest()
    step(loaded.model)
    with pytest.raises(SelfTestError, match="not those of policy version 4"):
        sampler.load(PolicyVersion(4, honest), ModelWeights(loaded.model))
    assert engine.sent == 0


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Deaf, "differ by .* nats on a token of a fixed sequence"),
        (Careless, "what arrived at the sampler is not what was sent"),
        (Garbling, "differ by .* nats on a token of a fixed sequence"),
        (Hoarding, "keeps cached prompts of the old weights"),
    ],
)
def test_weights_that_did_not_arrive_are_found(kind: type[Copy], what: str, loaded: Loaded, tmp_path: Path) -> None:
    sampler, _ = sampler_over(kind, loaded, tmp_path)
    version = step(loaded.model)
    for _ in range(2):  # and they are not taken for proven the second time
        with pytest.raises(SelfTestError, match="weight sync: .*" + what):
            sampler.load(version, ModelWeights(loaded.model))


def test_another_model_is_found_at_the_start(loaded: Loaded, tmp_path: Path) -> None:
    names = names_of(loaded, tmp_path)
    engine = Copy(loaded, names)
    step(loaded.model)
    with pytest.raises(SelfTestError, match="differ by"):
        over(loaded, engine, names, str)


def test_the_digest_sees_names_shapes_values_and_what_was_left() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    others = [{"c": base["a"], "b": base["b"]}, {**base, "a": torch.zeros(3, 2)}, {**base, "b": torch.zeros(4)}, {"a": base["a"]}]
    assert len({digest_of(w.items()) for w in (base, *others)}) == 5
    assert digest_of(base.items()) == digest_of(reversed(base.items()))
    tally = Tally()
    next(tally.over(base.items()))
    assert tally.digest() == digest_of({"a": base["a"]}.items())


def test_rows_have_seeds_of_their_own_and_greedy_ones_go_by_themselves(loaded: Loaded, tmp_path: Path) -> None:
    sampler, engine = sampler_over(Copy, loaded, tmp_path)
    greedy = [replace(r, n=1, first_sample=2, params=replace(PARAMS, temperature=0.0)) for r in requests()]
    found = drawn(sampler, [*requests(), *greedy])
    assert sorted(found) == [(p, s) for p in ("p0", "p1") for s in range(3)]
    assert [len(batch) for batch in engine.batches] == [4, 2]
    assert len({a.seed for batch in engine.batches for a in batch}) == 6
    assert all(0 <= a.seed < 1 << 63 for batch in engine.batches for a in batch)
    rollout = found["p0", 0]
    assert (rollout.finish_reason, rollout.text, rollout.error) == ("stop", "3 tokens", "")
    assert rollout.logprobs_T.tolist() == [-1.0, -2.0, -0.5]
    assert rollout.tokens_T.tolist() == [7, engine.batches[0][0].seed % 50 + 10, END]


def test_a_completion_that_failed_is_a_value(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, engine = sampler_over(Copy, loaded, tmp_path)
    answers = [Answer((7,), (math.nan,), False), Answer((), (), False, "vLLM ended the completion by 'abort'")]
    monkeypatch.setattr(engine, "draw", lambda asked: answers)
    found = drawn(sampler, requests(n=1))
    assert [r.finish_reason for r in found.values()] == ["error", "error"]
    assert [r.error for r in found.values()] == ["a log-probability is not finite", "vLLM ended the completion by 'abort'"]


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (requests(stop=("x",))[0], "ends at texts"),
        (requests(explore=0.1)[0], "mixes distributions"),
        (replace(requests(top_p=0.9)[0], keep_support=True), "what could have been drawn"),
        (replace(requests()[0], prompt=Encoded(torch.zeros(0, dtype=torch.int64))), "no tokens"),
        (replace(requests()[0], n=0), "at least one"),
        (replace(requests()[0], prompt=Encoded(torch.tensor([5]), (MediaRef("d", 1),))), "has images"),
    ],
)
def test_requests_that_it_cannot_draw_are_refused(request_: SampleRequest, what: str, loaded: Loaded, tmp_path: Path) -> None:
    sampler, engine = sampler_over(Copy, loaded, tmp_path)
    with pytest.raises(ValueError, match=f"prompt 'p0': .*{what}"):
        sampler.submit([request_])
    assert not list(sampler.collect())
    assert not engine.batches


# ------------------------------------------------------------------------------------------------------------- what is refused


def test_without_vllm_one_message_says_how_to_get_it(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'keel-align\[vllm\]'"):
        make_sampler(loaded, str, RolloutConfig(engine="vllm"), 32)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("tiny:llama", "heads of 32 numbers or more, and this model's have 16"),
        ("tiny:llava?hidden=128", "images"),
        ("tiny:qwen3_moe?hidden=128", "mixture of experts"),
    ],
)
def test_models_that_it_cannot_take_are_refused(spec: str, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        make_sampler(fresh(spec), str, RolloutConfig(engine="vllm"), 32)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (("sampler.vllm.cache_gb=2",), "sampler.vllm.cache_gb would have no effect"),
        (("sampler.engine=vllm", "sampler.path=plain"), "sampler.path would have no effect"),
        (("sampler.engine=vllm", "sampling.stop=[x]"), "ends a completion at tokens"),
        (("sampler.engine=vllm", "sampling.top_p=0.9"), r"sampling.top_p: .*vLLM does not tell"),
        (("sampler.engine=vllm", "sampling.min_tokens=2"), r"sampling.min_tokens: .*vLLM does not tell"),
        (("sampler.engine=vllm", "exploration.share=0.1", "algorithm.correction.kind=truncate"), "exploration is drawn by the local"),
    ],
)
def test_settings_without_effect_are_refused(settings: tuple[str, ...], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_config(RLRecipe, None, [*RL, *settings])


def test_settings_of_the_engine_are_taken() -> None:
    recipe = load_config(RLRecipe, None, [*RL, "sampler.engine=vllm", "sampler.vllm.cache_gb=0.5", "sampler.max_rows=7"])
    assert (recipe.sampler.vllm.cache_gb, recipe.sampler.max_rows) == (0.5, 7)
    RolloutConfig(engine="vllm").check_sampling(SamplingConfig(top_p=0.9), told=False)


# ------------------------------------------------------------------------------------------------------------------- with vLLM

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM")


@dataclass
class Pair:
    """A trained model and vLLM's copy of it."""

    loaded: Loaded
    sampler: Any

    def gap(self, params: SamplingParams, found: dict[tuple[str, int], Rollout]) -> float:
        """The largest difference from the trainer on a drawn token."""
        worst = 0.0
        for (prompt, _), rollout in found.items():
            before_T = next(r.prompt.tokens_T for r in requests() if r.prompt_id == prompt)
            ids_1T = torch.cat([before_T, rollout.tokens_T])[None]
            with torch.no_grad():
                logits_TV = self.loaded.model.logits(self.loaded.model.run_plain(ids_1T, torch.ones_like(ids_1T))[0])
            forbidden = list(params.banned_tokens)
            logits_TV[:, forbidden] = -math.inf
            logits_TV[len(before_T) - 1 : len(before_T) - 1 + params.min_tokens, list(params.stop_tokens)] = -math.inf
            ours_TV = (logits_TV / (params.temperature or 1.0)).log_softmax(-1)[len(before_T) - 1 : -1]
            ours_T = ours_TV.gather(1, rollout.tokens_T[:, None])[:, 0]
            worst = max(worst, float((ours_T - rollout.logprobs_T).abs().max()))
        return worst


@pytest.fixture(scope="module", params=[None, LORA], ids=["full", "lora"])
def pair(request: pytest.FixtureRequest) -> Pair:
    loaded = fresh(lora=request.param)
    return Pair(loaded, make_sampler(loaded, str, RolloutConfig(engine="vllm"), 48))


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 0.0},
        {"banned_tokens": tuple(range(10, 200)), "temperature": 1.3},
        {"stop_tokens": tuple(range(3, 300)), "min_tokens": 4},
    ],
)
def test_vllm_draws_by_the_trainers_probabilities(pair: Pair, changes: dict[str, Any]) -> None:
    """Before and after updates; and asked twice it draws the same, whatever else is asked."""
    params = replace(PARAMS, **changes)
    for seed in range(3):
        found = drawn(pair.sampler, requests(n=6, **changes))
        assert pair.gap(params, found) < 1e-4
        again = drawn(pair.sampler, requests(n=6, **changes)[1:])
        assert all(torch.equal(found[key].tokens_T, r.tokens_T) for key, r in again.items())
        for rollout in found.values():
            tokens = rollout.tokens_T.tolist()
            assert not set(tokens) & set(params.banned_tokens)
            assert (tokens[-1] in params.stop_tokens) == (rollout.finish_reason == "stop")
            assert not set(tokens[:-1]) & set(params.stop_tokens)
            assert len(tokens) == params.max_tokens if rollout.finish_reason == "length" else len(tokens) > params.min_tokens
        pair.sampler.load(step(pair.loaded.model, 0.02, seed), ModelWeights(pair.loaded.model))


@needs_vllm
@pytest.mark.slow
def test_what_vllm_holds_is_a_copy(pair: Pair) -> None:
    """The trainer's weights move while its own stay, until they are loaded."""
    before = drawn(pair.sampler, requests(temperature=0.0, n=1))
    version = step(pair.loaded.model, 0.05, 9)
    stale = drawn(pair.sampler, requests(temperature=0.0, n=1))
    assert all(torch.equal(before[key].logprobs_T, r.logprobs_T) for key, r in stale.items())
    assert pair.gap(PARAMS, stale) > 0.1
    pair.sampler.load(version, ModelWeights(pair.loaded.model))
    found = drawn(pair.sampler, requests(temperature=0.0, n=1))
    assert pair.gap(replace(PARAMS, temperature=0.0), found) < 1e-4
    local = LocalSampler(pair.loaded.model, str)
    assert all(torch.equal(found[key].tokens_T, r.tokens_T) for key, r in drawn(local, requests(temperature=0.0, n=1)).items())


@needs_vllm
@pytest.mark.slow
def test_vllm_draws_as_often_as_it_says(pair: Pair) -> None:
    """First tokens of many draws against the distribution that they are drawn from: chi-squared over the likely ones and the rest."""
    n = 2000
    found = drawn(pair.sampler, requests(n=n, max_tokens=1, temperature=1.5)[:1])
    prompt_1T = requests()[0].prompt.tokens_T[None]
    with torch.no_grad():
        logits_V = pair.loaded.model.logits(pair.loaded.model.run_plain(prompt_1T, torch.ones_like(prompt_1T))[0])[-1]
    p_V = (logits_V / 1.5).softmax(-1)
    counts_V = torch.bincount(torch.cat([r.tokens_T for r in found.values()]), minlength=len(p_V)).float()
    likely = p_V * n >= 10
    expected = torch.cat([p_V[likely], p_V[~likely].sum()[None]]) * n
    observed = torch.cat([counts_V[likely], counts_V[~likely].sum()[None]])
    chi, free = float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1
    assert chi < free + 5 * math.sqrt(2 * free)


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), ("lora={r: 4}",)], ids=["full", "lora"])
def test_rl_runs_on_it(lora: tuple[str, ...], stage: Callable[..., Any], rows: Callable[[Path], list[Any]], tmp_path: Path) -> None:
    settings = ("model=tiny:llama?hidden=128", "sampler.engine=vllm", "loop.steps=2", "loop.eval_every=1", "optim.lr=1e-3", *lora)
    stage("grpo", tmp_path, *settings)
    trained = [row for row in rows(tmp_path / "metrics.jsonl") if "grad_norm" in row]
    assert len(trained) == 2
    for row in trained:
        assert row["sampling/sampling_logp_difference/max"] < 1e-3
        assert row["grad_norm"] > 0


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "gemma2", "gemma3", "mistral", "granite"])
def test_new_weights_reach_every_layer(arch: str) -> None:
    """The proofs at the start and after an update; heads that are the embedding too. One vLLM after the other in a process."""
    loaded = fresh(f"tiny:{arch}?seed=1&hidden=128&std=0.1")
    sampler = make_sampler(loaded, str, RolloutConfig(engine="vllm", vllm=VllmConfig(cache_gb=0.2)), 48)
    for seed in range(2):
        sampler.load(step(loaded.model, 0.02, seed), ModelWeights(loaded.model))
    found = drawn(sampler, requests(temperature=0.7))
    assert Pair(loaded, sampler).gap(replace(PARAMS, temperature=0.7), found) < 1e-4


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize(("cache_gb", "longest"), [(1e-5, 48), (0.2, 9000)])
def test_a_vllm_that_does_not_start_says_why(cache_gb: float, longest: int) -> None:
    with pytest.raises(ConfigError, match="vLLM does not start with this model: ") as caught:
        make_sampler(fresh(), str, RolloutConfig(engine="vllm", vllm=VllmConfig(cache_gb=cache_gb)), longest)
    assert "sampler.vllm.cache_gb" in caught.value.hint
