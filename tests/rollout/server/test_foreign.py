"""vLLM and SGLang as engines, played by stand-ins that speak as they do: what is asked, what is proven, what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from stand_ins import SPEC, SglangStandIn, StandIn, VllmStandIn

from keel.core.config import load as load_config
from keel.core.errors import ConfigError, ModelError, SelfTestError, UserError
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.weights import ModelWeights
from keel.rollout.config import RolloutConfig
from keel.rollout.engines import server_sampler
from keel.rollout.server.handover import hand_over
from keel.rollout.server.sampler import ServerSampler
from keel.rollout.server.sglang_http import SglangClient
from keel.rollout.server.versions import Versions
from keel.rollout.server.vllm_http import VllmClient
from keel.rollout.server.vllm_worker import Weights, saved
from keel.types import Encoded, PolicyVersion, Rollout, SampleRequest, SamplingParams
from keel.verbs.rl.recipe import RLRecipe

PARAMS = SamplingParams(max_tokens=6, temperature=0.8, stop_tokens=(2,))
KINDS = {"vllm": VllmStandIn, "sglang": SglangStandIn}
RL = ("model=tiny:llama", "data.path=x.jsonl", "rewards=[{type: rules, name: r, path: x.yaml}]", "algorithm.correction.kind=truncate")


def requests(attempt: int = 0, n: int = 2) -> list[SampleRequest]:
    return [SampleRequest(f"p{i}", Encoded(torch.arange(5, 8 + i)), n, PARAMS, 7, attempt) for i in range(2)]


def fresh(lora: LoraConfig | None = None) -> Loaded:
    return load_model(SPEC, ModelOptions(precision="fp32", device="cpu"), lora)


@pytest.fixture(scope="module")
def stands() -> Iterator[dict[str, tuple[StandIn, str]]]:
    """One of each kind; tests leave them as they were."""
    vllm, sglang = VllmStandIn(), SglangStandIn()
    with vllm.served() as one, sglang.served() as two:
        yield {"vllm": (vllm, one), "sglang": (sglang, two)}


def sampler_of(kind: str, url: str, loaded: Loaded, folder: Path, in_flight: bool = False) -> ServerSampler:
    server = {"kind": kind, "urls": [url], "folder": str(folder), "patience_s": 0.01}
    return server_sampler(
        loaded, lambda ids: f"{len(ids)}", RolloutConfig.model_validate({"engine": "server", "server": server}), in_flight
    )


def moved(loaded: Loaded, version: int) -> PolicyVersion:
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for _, p in loaded.model.trainable():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return PolicyVersion(version, loaded.model.digest())


def gap(loaded: Loaded, rollout: Rollout, prompt: torch.Tensor) -> float:
    """The greatest difference to the trainer's own log-probabilities."""
    tokens_1T = torch.cat([prompt, rollout.tokens_T])[None]
    with torch.no_grad():
        logits_TV = loaded.model.logits(loaded.model.run_plain(tokens_1T, torch.ones_like(tokens_1T))[0])
    ours_TV = (logits_TV / PARAMS.temperature).log_softmax(-1)[len(prompt) - 1 : -1]
    return float((ours_TV.gather(1, rollout.tokens_T[:, None])[:, 0] - rollout.logprobs_T).abs().max())


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_draws_by_the_weights_that_were_sent(kind: str, lora: Any, stands: Any, tmp_path: Path) -> None:
    stand_in, url = stands[kind]
    loaded = fresh(lora)
    sampler = sampler_of(kind, url, loaded, tmp_path)
    for version in (1, 2):
        sampler.load(moved(loaded, version), ModelWeights(loaded.model))
        sampler.submit(requests(version))
        found = list(sampler.collect())
        assert sorted((r.prompt_id, r.sample) for r in found) == [(f"p{i}", s) for i in range(2) for s in range(2)]
        assert {int(v) for r in found for v in r.version_T} == {version}
        prompts = {r.prompt_id: r.prompt.tokens_T for r in requests()}
        assert max(gap(loaded, r, prompts[r.prompt_id]) for r in found) < 1e-4
        assert all(r.text == f"{len(r)}" for r in found)
        assert len({r.tokens_T.tolist().__repr__() for r in found}) > 1, "each has a seed of its own"
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["model.safetensors"], "the folder is one saved model"
    assert not stand_in.dead


def test_vllm_is_asked_for_ids_and_salted_by_the_weights(stands: Any, tmp_path: Path) -> None:
    stand_in, url = stands["vllm"]
    loaded, stand_in.asked = fresh(), []
    sampler = sampler_of("vllm", url, loaded, tmp_path)
    for version in (1, 2):
        sampler.load(moved(loaded, version), ModelWeights(loaded.model))
        sampler.submit(requests(version, 1)[:1])
        list(sampler.collect())
    bodies = [body for body in stand_in.bodies("/v1/completions") if "seed" in body]
    assert len({body["cache_salt"] for body in bodies}) == 2
    asked = {name: bodies[0][name] for name in ("prompt", "max_tokens", "temperature", "stop_token_ids", "ignore_eos", "return_token_ids")}
    expected: dict[str, Any] = {"prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0.8, "stop_token_ids": [2]}
    assert asked == expected | {"ignore_eos": True, "return_token_ids": True}


def test_tokens_carry_the_version_that_drew_them(tmp_path: Path) -> None:
    """Weights come in when the request has two tokens."""
    stand_in, loaded = VllmStandIn(), fresh()
    stand_in.held, stand_in.drawn = threading.Event(), 2
    with stand_in.served() as url:
        sampler = sampler_of("vllm", url, loaded, tmp_path, in_flight=True)
        drawing = sampler.begin([SampleRequest("p", Encoded(torch.tensor([5, 6])), 1, SamplingParams(5), 7)])
        assert stand_in.begun.wait(30)
        sampler.load(moved(loaded, 3), ModelWeights(loaded.model))
        stand_in.held.set()
        (rollout,) = drawing.rollouts()
    assert rollout.version_T.tolist() == [0, 0, 3, 3, 3]


def test_versions_of_requests_that_are_over_have_not_begun_or_span_three() -> None:
    versions = Versions()
    versions.load(1, lambda: ("a", {}, ()))
    with versions.begun() as over, versions.begun() as waiting, versions.begun() as long:
        versions.load(2, lambda: ("b", {f"cmpl-{long.name}-0": 3}, [f"cmpl-{over.name}-0"]))
        versions.load(3, lambda: ("c", {f"cmpl-{long.name}-0": 4, f"cmpl-{waiting.name}-0": 1}, []))
        assert versions.told(waiting, 3) == [2, 3, 3]
        assert versions.told(long, 6) == [1, 1, 1, 2, 3, 3]
        assert versions.told(over, 2) == [1, 1]
    with versions.begun() as late:
        assert versions.told(late, 1) == [3]
    assert (versions.renumber("c", 9), versions.renumber("b", 10), versions.version) == (True, False, 9)


def test_what_was_under_way_when_a_load_failed_is_drawn_again() -> None:
    versions = Versions()
    versions.load(1, lambda: ("a", {}, ()))

    def fails() -> Any:
        raise OSError

    with versions.begun() as ticket:
        with pytest.raises(OSError):
            versions.load(2, fails)
        with pytest.raises(Exception, match="not acknowledged"):
            versions.told(ticket, 1)
    assert not versions.still(lambda: "a")


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_was_started_again_draws_nothing_that_is_used(kind: str, stands: Any, tmp_path: Path) -> None:
    """It answers, with weights of its own; it is given the newest ones, and what it drew before is drawn again."""
    stand_in, url = stands[kind]
    loaded = fresh()
    sampler = sampler_of(kind, url, loaded, tmp_path)
    stand_in.twin.take(saved_by_another(tmp_path / "other"))
    stand_in.digest = stand_in.version = "another's"
    sampler.submit(requests())
    found = list(sampler.collect())
    assert sampler.lost == 1
    prompts = {r.prompt_id: r.prompt.tokens_T for r in requests()}
    assert max(gap(loaded, r, prompts[r.prompt_id]) for r in found) < 1e-4


def saved_by_another(folder: Path) -> Path:
    other = load_model(SPEC.replace("seed=1", "seed=3"), ModelOptions(precision="fp32", device="cpu"))
    folder.mkdir()
    other.model.save(folder, other.tokenizer)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_is_gone_is_named(kind: str, tmp_path: Path) -> None:
    stand_in, loaded = KINDS[kind](), fresh()
    with stand_in.served() as url:
        sampler = sampler_of(kind, url, loaded, tmp_path)
        stand_in.dead = True
        sampler.submit(requests())
        with pytest.raises(UserError, match="no engine draws rollouts: http://127"):
            list(sampler.collect())


def wrong(stand_in: VllmStandIn, how: str) -> None:
    if how == "mode":
        stand_in.mode = "raw_logprobs"
    elif how == "no extension":
        message = "Worker failed with error ''CPUWorker' object has no attribute 'keel_about''"
        stand_in.routes["/collective_rpc"] = lambda body: (500, {"error": {"message": message, "code": 500}})
    elif how == "no dev mode":
        del stand_in.routes["/collective_rpc"]
    elif how == "old worker":
        call = stand_in.routes["/collective_rpc"]
        stand_in.routes["/collective_rpc"] = lambda body: call(body) if body["method"] == "keel_about" else (200, {"results": [{}]})


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("mode", "--logprobs-mode processed_logprobs"),
        ("no extension", "--worker-extension-cls keel.rollout.server.vllm_worker.Weights"),
        ("no dev mode", "VLLM_SERVER_DEV_MODE=1"),
        ("old worker", "another version of Keel"),
    ],
)
def test_a_server_without_what_a_training_needs_is_told_how_to_start(how: str, what: str, tmp_path: Path) -> None:
    stand_in = VllmStandIn()
    wrong(stand_in, how)
    with stand_in.served() as url, pytest.raises(UserError, match=what):
        sampler_of("vllm", url, fresh(), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_did_not_arrive_are_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it took them."""
    stand_in, loaded = KINDS[kind](), fresh()
    with stand_in.served() as url:
        sampler = sampler_of(kind, url, loaded, tmp_path)
        take = stand_in.twin.take

        def deaf(folder: Path) -> str:
            state = {k: t.clone() for k, t in stand_in.twin.loaded.model.module.state_dict().items()}
            digest = take(folder)
            stand_in.twin.loaded.model.module.load_state_dict(state)
            return digest

        monkeypatch.setattr(stand_in.twin, "take", deaf)
        with pytest.raises(SelfTestError, match="nats on a token of a fixed sequence"):
            sampler.load(moved(loaded, 1), ModelWeights(loaded.model))


@pytest.mark.parametrize(("client", "answer"), [(VllmClient, {"choices": [{}]}), (SglangClient, {"meta_info": {}})])
def test_answers_without_what_is_needed_are_errors(client: Any, answer: Any) -> None:
    stand_in = StandIn()
    stand_in.routes |= {"/v1/completions": lambda body: (200, answer), "/generate": lambda body: (200, answer)}
    with stand_in.served() as url, pytest.raises(Exception, match="no log-probabilities of a prompt"):
        client(url, 5, 2, str).logprobs([5, 6])


def test_what_is_handed_over_is_all_that_lies_there(tmp_path: Path) -> None:
    """A base in several files becomes one, without the index that names the others."""
    for k in (1, 2):
        save_file({f"old{k}": torch.zeros(1)}, tmp_path / f"model-0000{k}-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    hand_over({"new": torch.ones(2)[::2]}, tmp_path)
    assert [name for name, _ in saved(tmp_path)] == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


class Runner:
    """The parts of vLLM's model runner that the worker's extension touches."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.taken: list[str] = []

    def reload_weights(self, weights_iterator: Any, is_checkpoint_format: bool) -> None:
        self.taken = [name for name, _ in weights_iterator]

    def get_model(self) -> Any:
        return fresh().model.module


class Request:
    def __init__(self, n: int) -> None:
        self.output_token_ids = [1] * n


def test_the_worker_tells_digest_tokens_so_far_and_who_is_over(tmp_path: Path) -> None:
    loaded = fresh()
    loaded.model.save(tmp_path, loaded.tokenizer)
    worker, runner = Weights(), Runner()
    worker.model_runner = runner
    first = worker.keel_load(str(tmp_path))
    runner.requests["a"], runner.requests["b"] = Request(4), Request(1)
    del runner.requests["b"]
    second = worker.keel_load(str(tmp_path))
    assert (first["drawn"], first["ended"]) == ({}, [])
    assert (second["drawn"], second["ended"]) == ({"a": 4}, ["b"])
    weights = ModelWeights(loaded.model)
    assert second["digest"] == first["digest"]
    assert set(runner.taken) == set(weights.merged(runner.taken))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (("sampler.server={kind: vllm, urls: ['http://h:1'], folder: w}",), "would have no effect with engine=local"),
        (("sampler.engine=server", "sampler.server.kind=vllm"), "needs urls"),
        (
            ("sampler.engine=server", "sampler.server={kind: vllm, urls: ['http://h:1'], folder: w}", "sampler.path=plain"),
            "path would have",
        ),
        (
            ("sampler.engine=server", "sampler.server={kind: sglang, urls: ['http://h:1'], folder: w}", "sampling.top_p=0.9"),
            "SGLang does not",
        ),
        (("sampler.engine=server", "sampler.server={kind: vllm, urls: ['http://h:1'], folder: w}", "sampling.stop=[x]"), "vLLM ends"),
        (("rollouts={lag: 1, in_flight: true}",), "sampler.engine=server"),
        (("sampler.engine=server", "rollouts.in_flight=true"), "rollouts.lag=1"),
        (("sampler.engine=server", "rollouts={lag: 1, in_flight: true, journal: 'off'}"), "without its journal"),
        (
            (
                "sampler.engine=server",
                "sampler.server={kind: sglang, urls: ['http://h:1'], folder: w}",
                "rollouts={lag: 1, in_flight: true}",
            ),
            "SGLang gets new weights between rollouts only",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: tuple[str, ...], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_config(RLRecipe, None, [*RL, *settings])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ((), False),
        (("sampler.engine=server",), False),
        (("sampler.engine=vllm",), True),
        (("sampler.engine=server", "rollouts={lag: 1, in_flight: true}"), True),
        (("sampler.engine=server", "sampler.server={kind: vllm, urls: ['http://h:1'], folder: w}"), True),
        (("rollouts.journal=on",), True),
        (("sampler.engine=vllm", "rollouts.journal=off"), False),
    ],
)
def test_a_journal_is_kept_where_rollouts_would_not_be_drawn_alike(settings: tuple[str, ...], kept: bool) -> None:
    assert load_config(RLRecipe, None, [*RL, *settings]).journal is kept


def test_models_that_such_engines_do_not_draw_alike_are_refused(tmp_path: Path) -> None:
    small = load_model("tiny:llama", ModelOptions(precision="fp32", device="cpu"))
    with pytest.raises(ModelError, match="SGLang computes attention heads of 32"):
        sampler_of("sglang", "http://127.0.0.1:1", small, tmp_path)
