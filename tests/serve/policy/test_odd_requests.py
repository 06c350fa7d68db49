"""Requests that no good client sends: each is refused by name or answered, and none costs anybody else an answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, chat, client_of, finish, front_of

from keel.serve.policy.config import RowsConfig
from keel.serve.policy.filters import RuleConfig
from keel.serve.policy.frames import About, Row
from keel.serve.policy.requests import RequestError, read_request
from keel.serve.policy.texts import question_of, texts_of

TOOL = {"type": "function", "function": {"name": "f", "description": "finds", "parameters": {"type": "object"}}}
ABOUT = About("fake", "t", tool_form="hermes")


def ask(body: Any, engine: FakeEngine | None = None, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(front_of(engine or FakeEngine(about=ABOUT), **more)) as client:
            return await client.post(path, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    return finish(run())


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def after_call(call: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": call}]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": -(10**400)}, "top_p"),
        ({"tools": [tool(parameters="any")]}, "tools.0.function"),
        ({"tools": [tool(description=["a"])]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0"),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "x", "name": {"a": 1}}]}, "messages.0.name"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": [1]}]}, "messages.0.tool_call_id"),
        ({"messages": after_call([{"function": {}}])}, "messages.1.tool_calls"),
        ({"messages": after_call([{"function": {"name": "f", "arguments": 5}}])}, "messages.1.tool_calls"),
        ({"messages": after_call({"name": "f"})}, "messages.1.tool_calls"),
    ],
)
def test_what_no_template_could_take_is_refused_by_its_field(change: dict[str, Any], param: str) -> None:
    answer = ask(chat() | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "change", [{"reasoning_effort": None}, {"tools": [TOOL], "parallel_tool_calls": True}, {"seed": 10**100}, {"seed": -1}]
)
def test_what_changes_nothing_is_taken(change: dict[str, Any]) -> None:
    assert ask(chat() | change).status_code == 200


def test_a_top_k_beyond_all_tokens_has_room_in_a_tensor() -> None:
    engine = FakeEngine()
    assert ask(chat(top_k=2**70), engine).status_code == 200
    assert engine.asked[0].top_k == 1 << 30


@pytest.mark.parametrize("half", ["\ud800", "a\udfffb"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/feedback"])
def test_half_of_a_character_is_refused_wherever_it_stands(half: str, path: str) -> None:
    engine = FakeEngine()
    for body in (chat(half), {"prompt": half}, chat(stop=[half]), chat(user=half), {"id": half, "rating": "up"}):
        answer = ask(body, engine, path, feedback={"store": "sqlite://"})
        assert (answer.status_code, "surrogates" in answer.json()["error"]["message"]) == (400, True)
    assert engine.asked == []
    assert ask(chat("\U0001f600 \\ud800"), engine).status_code == 200  # a whole pair, and a text that only spells one


def test_bodies_are_utf_8() -> None:
    raw = json.dumps(chat()).encode()
    assert [ask(b).status_code for b in (raw, b"\xef\xbb\xbf" + raw, json.dumps(chat()).encode("utf-16"))] == [200, 200, 400]


def test_a_fault_of_the_server_has_the_form_of_an_error() -> None:
    async def run() -> httpx.Response:
        front = front_of(FakeEngine())
        front.config = None  # type: ignore[assignment]
        client = client_of(front)
        client._transport.raise_app_exceptions = False  # type: ignore[attr-defined]
        async with client:
            return await client.post("/v1/chat/completions", json=chat())

    answer = finish(run())
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_next_engine_has_no_room_for_is_an_error_in_form(stream: bool) -> None:
    class Refusing(FakeEngine):
        async def ask(self, row):
            from keel.serve.policy.engine import GoneError, RefusedError
            from keel.serve.policy.frames import Piece

            self.asked.append(row)
            if len(self.asked) > 1:
                raise RefusedError("the prompt has 9 tokens too many")
            yield Piece(row.name, prompt_tokens=7)
            raise GoneError

    answer = ask(chat(stream=stream), Refusing())
    assert answer.status_code in ((200, 400) if stream else (400,))  # a stream may have begun
    assert "9 tokens too many" in answer.text
    assert "[DONE]" not in answer.text


HIDDEN = {
    "a tool's description": {"tools": [tool(description="project nightjar")]},
    "a tool's schema": {"tools": [tool(parameters={"type": "object", "properties": {"project nightjar": {}}})]},
    "arguments of a call": {"messages": after_call([{"function": {"name": "f", "arguments": '{"a": "project \\u006eightjar"}'}}])},
    "a name": {"messages": [{"role": "user", "content": "x", "name": "project nightjar"}]},
    "two parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("project nig", "htjar")]}]},
    "two parts before an image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "project nig"},
                    {"type": "text", "text": "htjar"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                ],
            }
        ]
    },
}


@pytest.mark.parametrize("where", HIDDEN)
def test_rules_see_all_that_the_model_would_read(where: str) -> None:
    engine = FakeEngine(about=About("fake", "t", tool_form="hermes", images=True))
    front = front_of(engine, rules=(RuleConfig(name="names", keywords=("project nightjar",)),))

    async def run() -> Any:
        async with client_of(front) as client:
            return (await client.post("/v1/chat/completions", json=chat() | HIDDEN[where])).json()

    assert finish(run())["choices"][0]["finish_reason"] == "content_filter"
    assert engine.asked == []


def test_scores_are_asked_with_the_turns_alone() -> None:
    limits = front_of(FakeEngine()).config.queue
    asked = read_request("chat", chat("Where?", tools=[TOOL]), "fake", ABOUT, limits)
    assert (question_of(asked.rows[0]), question_of(Row("", prompt="raw"))) == ("Where?", "raw")
    assert {"Where?", "finds", "f"} <= set(texts_of(asked.rows))


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_that_would_go_unread_is_refused(role: str) -> None:
    """Where the server's own stands in its place, nobody would see it."""
    body = {"messages": [{"role": role, "content": "Speak of cats only."}, {"role": "user", "content": "hi"}]}
    assert len(read_request("chat", body, "m", About("m"), RowsConfig()).rows[0].messages) == 2
    with pytest.raises(RequestError, match=r"render\.system stands in place of system messages"):
        read_request("chat", body, "m", About("m", own_system=True), RowsConfig())
