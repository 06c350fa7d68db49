"""A server of OpenAI's protocol as an engine: here another one of ours."""

from __future__ import annotations

import importlib.machinery
import sys
import types

import httpx
import pytest
from fakes import FakeEngine, chat, client_of, finish, front_of, until

from keel.core.config import checked
from keel.core.errors import ConfigError, ModelError
from keel.models.config import ModelOptions
from keel.serve.policy.app import make_app
from keel.serve.policy.config import ServePolicyConfig
from keel.serve.policy.frames import Row
from keel.serve.policy.launched import LaunchedEngine, command_of
from keel.serve.policy.remote import RemoteEngine
from keel.serve.policy.server import BodyLimits, Door
from keel.verbs.serve_policy.build import engine_of


def remote_of(engine: FakeEngine, model: str = "fake", start_s: float = 5.0) -> RemoteEngine:
    app = make_app(front_of(engine), Door("127.0.0.1", 80, "", BodyLimits(100_000)))
    return RemoteEngine("http://127.0.0.1/v1", model, start_s=start_s, transport=httpx.ASGITransport(app))


def test_what_it_says_is_passed_on_with_its_counts_and_log_probabilities() -> None:
    async def run() -> None:
        behind = FakeEngine()
        remote = remote_of(behind)
        await remote.start()
        async with client_of(front_of(remote)) as client:  # type: ignore[arg-type]
            body = chat(temperature=0.5, seed=3, stop=["#"], logprobs=True, top_logprobs=1)
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            text = (await client.post("/v1/completions", json={"model": "fake", "prompt": "a", "logprobs": 1})).json()
            long = await client.post("/v1/chat/completions", json=chat("too long"))
        assert answer["choices"][0]["message"]["content"] == text["choices"][0]["text"] == "All is well."
        assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
        assert [t["token"] for t in answer["choices"][0]["logprobs"]["content"]] == ["All", " is", " well", "."]
        assert (behind.asked[0].temperature, behind.asked[0].stop, behind.asked[0].seed) == (0.5, ("#",), 3)
        assert (long.status_code, "too many" in long.json()["error"]["message"]) == (400, True)
        await remote.stop()

    finish(run())


def test_a_server_without_the_model_or_none_at_all_is_told_at_the_start() -> None:
    async def run() -> None:
        with pytest.raises(ModelError, match="has no model 'other', but fake"):
            await remote_of(FakeEngine(), "other", start_s=0).start()

        def nobody(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("nobody")

        with pytest.raises(ModelError, match="lists no models"):
            await RemoteEngine("http://127.0.0.1", "m", start_s=0, transport=httpx.MockTransport(nobody)).start()

    finish(run())


def test_an_answer_that_has_not_begun_goes_to_another_arm() -> None:
    async def run() -> None:
        def broken(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json={"data": [{"id": "m"}]}) if request.method == "GET" else httpx.Response(500)

        new = RemoteEngine("http://127.0.0.1", "m", transport=httpx.MockTransport(broken))
        await new.start()
        front = front_of(FakeEngine(), new, canary={"model": "m", "engine": "http://127.0.0.1", "share": 1.0})  # type: ignore[arg-type]
        async with client_of(front) as client:
            answer = await client.post("/v1/chat/completions", json=chat())
        assert answer.json()["choices"][0]["message"]["content"] == "All is well."
        await until(lambda: not front.router.elsewhere)
        await new.stop()

    finish(run())


def test_a_server_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not installed"):
        command_of("sglang", "m", 1, "float32")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_another_server_computes_as_the_model_was_evaluated(
    engine: str, precision: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = types.ModuleType(engine)
    there.__spec__ = importlib.machinery.ModuleSpec(engine, None)
    monkeypatch.setitem(sys.modules, engine, there)
    options = checked(ModelOptions, {"precision": precision, "device": "cpu"})
    config = ServePolicyConfig(model="m", engine=engine, model_options=options, engine_arguments=["--more"])
    found = engine_of(config, engine, "m", [])
    assert isinstance(found, LaunchedEngine)
    assert found.command[-3:] == ["--dtype", dtype, "--more"]


def test_ends_of_lines_in_a_text_do_not_end_it() -> None:
    async def run() -> str:
        remote = remote_of(FakeEngine(words=("one\u2028", "two\x85", "three")))
        await remote.start()
        try:
            return "".join([piece.text async for piece in remote.ask(Row("r", prompt="x", max_tokens=9))])
        finally:
            await remote.stop()

    assert finish(run()) == "one\u2028two\x85three"
