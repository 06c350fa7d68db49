"""Weights that come between two tokens: which token is of which weights, and what the tokens before leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.weights import ModelWeights
from keel.rollout.config import RolloutConfig
from keel.rollout.engines import server_sampler
from keel.rollout.plain import PlainDecoder
from keel.rollout.server.engine import Engine
from keel.rollout.server.http import EngineServer
from keel.rollout.server.sampler import ServerSampler
from keel.rollout.server.turns import Turns
from keel.types import Encoded, PolicyVersion, SampleRequest, SamplingParams

PROMPTS = (torch.tensor([5, 6, 7]), torch.tensor([9, 8, 7, 6, 5]))
LONG = SamplingParams(max_tokens=24)
AFTER = 4  # tokens by which the new weights come


def fresh() -> Loaded:
    return load_model("tiny:llama?std=0.1", ModelOptions(precision="fp32", device="cpu"), seed=3)


def requests() -> list[SampleRequest]:
    return [SampleRequest(f"p{i}", Encoded(prompt), 3, LONG, 7) for i, prompt in enumerate(PROMPTS)]


def moved(loaded: Loaded) -> PolicyVersion:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in loaded.model.trainable():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return PolicyVersion(5, loaded.model.digest())


@pytest.fixture
def flying(tmp_path: Path) -> Iterator[tuple[Loaded, ServerSampler, EngineServer]]:
    loaded, server = fresh(), EngineServer(("127.0.0.1", 0), Engine())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    of = {"urls": [f"http://127.0.0.1:{server.server_address[1]}"], "folder": str(tmp_path), "patience_s": 0.01}
    try:
        yield loaded, server_sampler(loaded, str, RolloutConfig.model_validate({"engine": "server", "server": of}), True), server
    finally:
        server.shutdown()
        server.server_close()


@torch.no_grad()
def expected(old: Loaded, new: Loaded, prompt: torch.Tensor, tokens: torch.Tensor) -> list[float]:
    """Log-probabilities of the tokens where the weights change behind ``AFTER`` of them: by transformers' own cache, which keeps what the
    old weights have made of the tokens before."""
    decoder, found = PlainDecoder(old.model), list[float]()
    logits_1V = decoder.start([Encoded(prompt)], torch.zeros(1, dtype=torch.int64), len(tokens))
    for k, token in enumerate(tokens.tolist()):
        found.append(float(logits_1V[0].log_softmax(-1)[token]))
        if k + 1 == AFTER:
            decoder._model = new.model
        logits_1V = decoder.step(torch.tensor([token]))
    return found


def test_tokens_behind_the_change_are_of_the_new_weights_over_the_old_ones_cache(
    flying: tuple[Loaded, ServerSampler, EngineServer],
) -> None:
    loaded, sampler, server = flying
    steps, reached, real = [0], threading.Event(), server.engine.give_way

    def give_way() -> None:
        steps[0] += 1
        if steps[0] == AFTER:
            reached.set()
            turns = server.turns
            with turns._changed:  # the weights are waiting at the door
                assert turns._changed.wait_for(lambda: turns._short > 0, 30)
        real()

    server.engine.give_way = give_way
    drawing = sampler.begin(requests())
    assert reached.wait(30)
    version = moved(loaded)
    sampler.load(version, ModelWeights(loaded.model))  # it comes back while the rollouts are under way
    found = drawing.rollouts()
    assert len(found) == 6
    old = fresh()
    for r in found:
        assert r.version_T.tolist() == [0] * AFTER + [5] * (len(r) - AFTER)
        ours = expected(old, loaded, PROMPTS[int(r.prompt_id[1])], r.tokens_T)
        assert r.logprobs_T.tolist() == pytest.approx(ours, abs=1e-4)
        plain = old.model, loaded.model
        tokens_T = torch.cat([PROMPTS[int(r.prompt_id[1])], r.tokens_T])
        own = [ModelWeights(m).probe(tokens_T)[-len(r) :] for m in plain]
        assert min(float((o - r.logprobs_T).abs().max()) for o in own) > 1e-2, "neither model alone draws so"


def test_without_in_flight_weights_wait_and_rollouts_are_of_one_version(flying: tuple[Loaded, ServerSampler, EngineServer]) -> None:
    loaded, sampler, server = flying
    sampler.in_flight = False
    with server.turns.taken():
        drawing = sampler.begin(requests())
        version = moved(loaded)
        loading = threading.Thread(target=lambda: sampler.load(version, ModelWeights(loaded.model)))
        loading.start()
    loading.join(60)
    assert {int(v) for r in drawing.rollouts() for v in r.version_T} == {0}


def test_rollouts_begun_before_an_update_may_reach_an_engine_behind_it(flying: tuple[Loaded, ServerSampler, EngineServer]) -> None:
    loaded, sampler, _ = flying
    late = sampler._handed()
    sampler.load(moved(loaded), ModelWeights(loaded.model))
    found = [r for some in sampler.engines[0].draw(requests(), late, True) for r in some]
    assert {int(v) for r in found for v in r.version_T} == {5}


def test_short_work_goes_between_the_steps_of_long_work_and_long_work_waits() -> None:
    turns, order, steps = Turns(), list[str](), 3

    def other(name: str, short: bool) -> threading.Thread:
        def work() -> None:
            with turns.taken(short):
                order.append(name)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    threads: list[threading.Thread] = []
    with turns.taken():
        for k in range(steps):
            order.append(f"step {k}")
            if k == 1:
                threads = [other("long", False), other("short", True)]
                with turns._changed:
                    assert turns._changed.wait_for(lambda: turns._short == 1, 30)
            turns.give_way()
    for thread in threads:
        thread.join(30)
    assert order == ["step 0", "step 1", "short", "step 2", "long"]
