"""Engines in processes of their own: what they draw is what the trainer's own sampler draws; they may die; wrong weights are never used."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.errors import ConfigError, SelfTestError, UserError
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.weights import ModelWeights
from keel.rollout.config import RolloutConfig, SamplerConfig
from keel.rollout.engines import server_sampler
from keel.rollout.local import LocalSampler
from keel.rollout.server.client import EngineClient
from keel.rollout.server.engine import Engine
from keel.rollout.server.http import EngineServer
from keel.rollout.server.protocol import EngineError, Handed, RefusedError
from keel.rollout.server.sampler import ServerSampler, dealt
from keel.rollout.server.spawn import Spawned
from keel.types import Encoded, PolicyVersion, Rollout, SampleRequest, SamplingParams

PARAMS = SamplingParams(max_tokens=6, stop_tokens=(2,))


def requests(n: int = 3, attempt: int = 0) -> list[SampleRequest]:
    return [SampleRequest(f"p{i}", Encoded(torch.arange(5, 8 + i)), 2, PARAMS, 7, attempt) for i in range(n)]


def same(one: Sequence[Rollout], two: Sequence[Rollout]) -> bool:
    def order(found: Sequence[Rollout]) -> list[Rollout]:
        return sorted(found, key=lambda r: (r.prompt_id, r.attempt, r.sample))

    pairs = list(zip(order(one), order(two), strict=True))
    return all(torch.equal(a.tokens_T, b.tokens_T) and torch.equal(a.logprobs_T, b.logprobs_T) and a.text == b.text for a, b in pairs)


@pytest.fixture
def loaded() -> Loaded:
    """A model of each test's own: they change it."""
    return load_model("tiny:llama?std=0.1", ModelOptions(precision="fp32", device="cpu"), seed=3)


@pytest.fixture
def served(loaded: Loaded, tmp_path: Path) -> Iterator[tuple[ServerSampler, EngineServer]]:
    """A sampler over one engine in a thread of this process."""
    server = EngineServer(("127.0.0.1", 0), Engine())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    config = RolloutConfig.model_validate(
        {
            "engine": "server",
            "server": {"urls": [f"http://127.0.0.1:{server.server_address[1]}"], "folder": str(tmp_path), "patience_s": 0.01},
        }
    )
    try:
        yield server_sampler(loaded, str, config), server
    finally:
        server.shutdown()
        server.server_close()


def local(loaded: Loaded) -> LocalSampler:
    return LocalSampler(
        loaded.model, lambda tokens_T: loaded.tokenizer.decode(tokens_T.tolist(), skip_special_tokens=True), SamplerConfig()
    )


def moved(loaded: Loaded, by: float = 0.01) -> None:
    with torch.no_grad():
        for _, p in loaded.model.trainable():
            p.add_(by)


def test_an_engine_draws_what_the_trainers_own_sampler_draws(loaded: Loaded, served: tuple[ServerSampler, EngineServer]) -> None:
    sampler, _ = served
    own, weights = local(loaded), ModelWeights(loaded.model)
    for version in range(3):
        sampler.load(PolicyVersion(version, weights.digest()), weights)
        sampler.submit(requests(attempt=version))
        own.submit(requests(attempt=version))
        found = list(sampler.collect())
        assert same(found, list(own.collect()))
        assert all(bool((r.version_T == version).all()) for r in found)
        moved(loaded)


def test_what_is_under_way_is_of_the_weights_that_it_was_asked_of(loaded: Loaded, served: tuple[ServerSampler, EngineServer]) -> None:
    sampler, server = served
    own = local(loaded)
    own.submit(requests())
    expected = list(own.collect())
    with server.turns.taken():  # the engine is busy
        drawing = sampler.begin(requests())
        moved(loaded)
        loading = threading.Thread(target=lambda: sampler.load(PolicyVersion(1, loaded.model.digest()), ModelWeights(loaded.model)))
        loading.start()
    loading.join(60)
    assert not loading.is_alive()
    found = drawing.rollouts()
    assert same(found, expected)
    assert all(bool((r.version_T == 0).all()) for r in found)


def test_weights_that_were_not_announced_or_did_not_arrive_are_refused(
    loaded: Loaded, served: tuple[ServerSampler, EngineServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, _ = served
    moved(loaded)
    with pytest.raises(SelfTestError, match="not those of policy version 1"):
        sampler.load(PolicyVersion(1, "another"), ModelWeights(loaded.model))
    monkeypatch.setattr(Engine, "_set", lambda self, tensors: True)  # says that it took them
    with pytest.raises(SelfTestError, match="is not what was sent"):
        sampler.load(PolicyVersion(1, loaded.model.digest()), ModelWeights(loaded.model))


def test_an_engine_that_computes_another_model_is_refused(
    loaded: Loaded, served: tuple[ServerSampler, EngineServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, _ = served
    moved(loaded)
    monkeypatch.setattr(Engine, "logprobs", lambda self, tokens: [-1.0] * (len(tokens) - 1))
    with pytest.raises(SelfTestError, match="nats on a token of a fixed sequence"):
        sampler.load(PolicyVersion(1, loaded.model.digest()), ModelWeights(loaded.model))


def test_without_any_engine_the_run_ends_with_their_names(served: tuple[ServerSampler, EngineServer]) -> None:
    sampler, server = served
    server.shutdown()
    server.server_close()
    sampler.submit(requests())
    with pytest.raises(UserError, match=r"no engine draws rollouts: http://127\.0\.0\.1"):
        list(sampler.collect())
    assert sampler.lost == 1


def test_engines_say_what_they_refuse(served: tuple[ServerSampler, EngineServer]) -> None:
    _, server = served
    client = EngineClient(f"http://127.0.0.1:{server.server_address[1]}", 10)
    assert client.health()["digest"]
    with pytest.raises(EngineError, match="asked for are other"):
        list(client.draw(requests(), Handed("", "other", 0), False))
    here = Handed("", client.health()["digest"], 0)
    with pytest.raises(RefusedError, match="max_tokens is 0"):
        list(client.draw([SampleRequest("p", Encoded(torch.tensor([1])), 1, SamplingParams(max_tokens=0), 0)], here, False))
    with pytest.raises(EngineError, match=r"(?i)no such"):
        client.load(Handed("/nowhere", "", 0))
    with pytest.raises(ConfigError, match="no http"):
        EngineClient("127.0.0.1:80", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(EngineError, match="refused"):
            EngineClient(f"http://127.0.0.1:{closed.getsockname()[1]}", 1).health()


def test_a_training_that_begins_again_in_its_folder_hands_over_its_own_weights(
    loaded: Loaded, served: tuple[ServerSampler, EngineServer], tmp_path: Path
) -> None:
    """As a run that was killed after some updates does, before it has read its checkpoint."""
    sampler, _ = served
    own = local(loaded)
    own.submit(requests())
    expected = list(own.collect())
    start = {name: t.clone() for name, t in loaded.model.module.state_dict().items()}
    moved(loaded)
    sampler.load(PolicyVersion(1, loaded.model.digest()), ModelWeights(loaded.model))
    loaded.model.module.load_state_dict(start)
    of = {"urls": [e.url for e in sampler.engines], "folder": str(tmp_path), "patience_s": 0.01}
    again = server_sampler(loaded, str, RolloutConfig.model_validate({"engine": "server", "server": of}))
    again.submit(requests())
    assert same(list(again.collect()), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_requests_are_dealt_evenly_and_all_of_them(n: int) -> None:
    asked = requests(12)
    parts = dealt(asked, n)
    assert sorted(r.prompt_id for part in parts for r in part) == sorted(r.prompt_id for r in asked)
    loads = [sum(r.n * (len(r.prompt) + 6) for r in part) for part in parts]
    assert max(loads) - min(loads) <= 2 * (len(asked[-1].prompt) + 6)


@pytest.mark.slow
def test_an_engine_that_is_killed_costs_nothing(loaded: Loaded, tmp_path: Path) -> None:
    """Two processes: one is killed before it is asked, later both; what is drawn is the same."""
    config = RolloutConfig.model_validate({"engine": "server", "server": {"spawn": 2, "threads": 1, "folder": str(tmp_path)}})
    made: list[Spawned] = []
    real = Spawned.__init__

    def noted(self: Spawned, n: int) -> None:
        made.append(self)
        real(self, n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spawned, "__init__", noted)
        sampler = server_sampler(loaded, str, config)
    (spawned,) = made
    found: list[Any] = []
    for victims in (0, 1, 2):
        for process in spawned._processes[:victims]:
            os.kill(process.pid, signal.SIGKILL)
        sampler.submit(requests())
        found.append(list(sampler.collect()))
    assert all(same(found[0], other) for other in found[1:])
    assert sampler.lost >= 2
    spawned.stop()
    assert all(p.poll() is not None for p in spawned._processes)


@pytest.mark.stages
@pytest.mark.parametrize("lag", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_run_with_engines_is_the_run_without(stage: Callable[..., Any], tmp_path: Path, lag: int) -> None:
    overrides = ("algorithm.correction.kind=truncate", f"rollouts.lag={lag}", "loop.eval_every=2", "loop.probes=0")
    stage("grpo", tmp_path / "local", *overrides)
    stage("grpo", tmp_path / "server", *overrides, "sampler.engine=server", "sampler.server.threads=1")
    one, two = (tmp_path / name / "final" / "model.safetensors" for name in ("local", "server"))
    assert one.read_bytes() == two.read_bytes()
