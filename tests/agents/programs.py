"""Agents as people write them, with the standard library's client. Each is run in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from keel.types import Endpoint, Prompt

SAYS = ("Go on.", "再来一次，谢谢。", "Nice 🙂 more", "  two\n lines ")
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]},
    },
}


class RefusedError(Exception):
    """The endpoint's error."""


def post(endpoint: Endpoint, raw: bytes, key: str = "", path: str = "/chat/completions", **headers: str) -> Any:
    """The body of an answer. Raises RefusedError with status and message."""
    headers = {"Authorization": f"Bearer {key or endpoint.api_key}", "Content-Type": "application/json", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint.base_url + path, raw, headers), timeout=60) as reply:
            return reply.read()
    except urllib.error.HTTPError as error:
        found = json.loads(error.read())["error"]
        raise RefusedError(f"{error.code} {found['code']}: {found['message']}") from None


def ask(endpoint: Endpoint, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The choice that the policy makes."""
    body = {"model": endpoint.model, "messages": messages, **more}
    return json.loads(post(endpoint, json.dumps(body).encode()))["choices"][0]


def given(prompt: Prompt) -> list[dict[str, Any]]:
    return [{"role": m.role, "content": m.text} for m in prompt.messages]


def chat(prompt: Prompt, endpoint: Endpoint, seed: int, turns: int = 4) -> dict[str, float]:
    """One conversation, as the world `Chat` of the environments' tests leads it, without its tool."""
    messages, length = given(prompt), 0.0
    messages[-1]["content"] += f"\nThink of {random.Random(seed).choice(['red', 'blue'])}."
    for turn in range(1, turns + 1):
        said = ask(endpoint, messages)["message"]
        length += 0.1 * len(said["content"])
        messages += [said, {"role": "user", "content": SAYS[turn % len(SAYS)]}]
    return {"length": length, "end": 1.0}


def plain(prompt: Prompt, endpoint: Endpoint, turns: int = 3, short: float = 0.0) -> float:
    """The prompt of the data, and words behind each answer; an answer that is cut ends it. ``short`` is what a short one is worth."""
    messages, worth = given(prompt), 0.0
    for turn in range(turns):
        choice = ask(endpoint, messages)
        worth += short / (1 + len(choice["message"]["content"]))
        messages += [choice["message"], {"role": "user", "content": SAYS[turn % len(SAYS)]}]
        if choice["finish_reason"] == "length":
            break
    return 0.25 * (len(messages) // 2) + worth


def tools(prompt: Prompt, endpoint: Endpoint, turns: int = 4) -> float:
    """Calls of a tool are answered."""
    messages = given(prompt)
    for _ in range(turns):
        choice = ask(endpoint, messages, tools=[ADD])
        messages.append({k: v for k, v in choice["message"].items() if k != "refusal"})
        calls = choice["message"].get("tool_calls", [])
        assert (choice["finish_reason"] == "tool_calls") == bool(calls)
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            total = int(arguments["a"]) + int(arguments.get("b", 2))
            messages.append({"role": "tool", "tool_call_id": call["id"], "name": "add", "content": str(total)})
        if not calls:
            messages.append({"role": "user", "content": "Go on."})
    return 1.0


async def tree(prompt: Prompt, endpoint: Endpoint, at_once: bool = True) -> float:
    """Three drafts of the same request, each criticised by another persona, two revisions of the first, and a talk that goes on."""

    async def asked(messages: list[dict[str, Any]]) -> dict[str, Any]:
        if at_once:
            return await asyncio.to_thread(ask, endpoint, messages)
        return ask(endpoint, messages)

    async def critic(draft: str) -> str:
        said = [{"role": "system", "content": "You are a critic."}, {"role": "user", "content": f"Judge: {draft}"}]
        return (await asked(said))["message"]["content"]

    own = given(prompt)
    drafts = [c["message"] for c in await asyncio.gather(*(asked(own) for _ in range(3)))]
    told = await asyncio.gather(*(critic(d["content"]) for d in drafts))
    first = [*own, drafts[0]]
    await asyncio.gather(*(asked([*first, {"role": "user", "content": f"{SAYS[i]} {told[0]}"}]) for i in range(2)))
    await asked([*own, drafts[1], {"role": "user", "content": "Go on."}])
    return 0.5


def patient(prompt: Prompt, endpoint: Endpoint) -> float:
    """Works by itself for a while where the prompt says so."""
    messages = given(prompt)
    for turn in range(3):
        choice = ask(endpoint, messages)
        messages += [choice["message"], {"role": "user", "content": "Go on."}]
        if turn == 0:
            time.sleep(prompt.meta.get("sleep", 0.0))
    return 1.0


def limits(prompt: Prompt, endpoint: Endpoint, catch: bool = True, turns: int = 9, **more: Any) -> float:
    """Goes on until it is refused."""
    messages, made = given(prompt), 0
    for _ in range(turns):
        try:
            choice = ask(endpoint, messages, **more)
        except RefusedError:
            if not catch:
                raise
            break
        made += 1
        messages += [choice["message"], {"role": "user", "content": "Go on."}]
    return float(made)


def wrong(prompt: Prompt, endpoint: Endpoint) -> Any:
    """Goes wrong in the way that the prompt names."""
    how = prompt.meta["how"]
    if how == "never":
        return 1.0
    first = ask(endpoint, given(prompt))
    if how == "raises":
        raise RuntimeError("no more")
    if how == "dies":
        os._exit(3)
    if how == "hangs":
        os.system("sleep 1000 &")
        time.sleep(1000)
    if how == "nan":
        return float("nan")
    if how == "text":
        return "very good"
    if how == "none":
        return None
    if how == "loops":
        while True:
            try:
                ask(endpoint, given(prompt), temperature=0.3)
            except RefusedError:
                time.sleep(0.01)
    if how == "behind":  # a thread that asks when its agent is done
        threading.Thread(target=lambda: (time.sleep(0.2), ask(endpoint, given(prompt))), daemon=True).start()
    if how == "control":
        ask(endpoint, [*given(prompt), first["message"], {"role": "user", "content": "<|im_end|>"}])
    return 1.0


BAD: dict[str, tuple[bytes | None, dict[str, Any]]] = {  # what is sent in place of a request, or beside its messages
    "400 None: the body is no JSON": (b"{", {}),
    "400 None: the body must be a JSON object": (b"[]", {}),
    "400 None: messages: holds no message": (b"{}", {}),
    "400 None: messages.0.role": (b'{"messages": [{"role": "king", "content": "x"}]}', {}),
    "404 model_not_found": (None, {"model": "gpt"}),
    "400 None: temperature": (None, {"temperature": 0.5}),
    "400 None: top_p": (None, {"top_p": 0.5}),
    "400 None: top_k": (None, {"top_k": 5}),
    "400 None: stop": (None, {"stop": ["x"]}),
    "400 unsupported_parameter: seed": (None, {"seed": 1}),
    "400 unsupported_parameter: top_logprobs": (None, {"logprobs": True, "top_logprobs": 2}),
    "400 unsupported_parameter: logit_bias": (None, {"logit_bias": {"1": 2}}),
    "400 unknown_parameter: beams": (None, {"beams": 2}),
    "400 None: n": (None, {"n": 2}),
    "400 None: max_tokens": (None, {"max_tokens": 0}),
}


def careless(prompt: Prompt, endpoint: Endpoint) -> float:
    """Sends what is no request, and what the run does not draw; each has its error."""
    found: list[str] = []
    for raw, more in BAD.values():
        body = {"model": endpoint.model, "messages": given(prompt), **more}
        try:
            post(endpoint, raw or json.dumps(body).encode())
        except RefusedError as error:
            found.append(str(error))
    for key, path in (("keel-no", "/chat/completions"), ("", "/completions")):
        try:
            post(endpoint, b"{}", key, path)
        except RefusedError as error:
            found.append(str(error))
    expected = [*BAD, "401 invalid_api_key", "404 not_found"]
    assert len(found) == len(expected), found
    for error, wanted in zip(found, expected, strict=True):
        assert error.startswith(wanted), (error, wanted)
    ask(endpoint, given(prompt), temperature=1.0, top_p=1, n=1, user="me", max_completion_tokens=5, store=False)
    return 1.0


def streams(prompt: Prompt, endpoint: Endpoint) -> float:
    """A stream, chunked requests, log-probabilities."""
    body = {"model": endpoint.model, "messages": given(prompt), "stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    lines = [line[6:] for line in post(endpoint, json.dumps(body).encode()).decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    tokens = [t for c in chunks if c["choices"] and c["choices"][0]["logprobs"] for t in c["choices"][0]["logprobs"]["content"]]
    assert chunks[-1]["usage"]["completion_tokens"] == len(tokens) > 0
    assert all(t["logprob"] < 0 for t in tokens)
    messages = [*given(prompt), {"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
    body = {"model": endpoint.model, "messages": messages, "max_tokens": 7}
    pieces = json.dumps(body).encode()
    import http.client

    address = endpoint.base_url.split("/")[2]
    connection = http.client.HTTPConnection(address)
    head = {"Authorization": f"Bearer {endpoint.api_key}"}
    connection.request("POST", "/v1/chat/completions", iter([pieces[:20], pieces[20:]]), head, encode_chunked=True)
    reply = json.loads(connection.getresponse().read())
    assert reply["usage"]["completion_tokens"] <= 7
    connection.request("GET", "/v1/models", headers=head)  # over the same connection
    assert json.loads(connection.getresponse().read())["data"][0]["id"] == endpoint.model
    return sum(t["logprob"] for t in tokens)


def library(prompt: Prompt, endpoint: Endpoint, given_by: str = "endpoint") -> float:
    """OpenAI's own client, several conversations at once, one of them streamed."""
    from openai import OpenAI

    named = {"base_url": endpoint.base_url, "api_key": endpoint.api_key} if given_by == "endpoint" else {}
    with OpenAI(**named) as client, ThreadPoolExecutor(3) as pool:

        def talk(i: int) -> int:
            messages: Any = [{"role": "system", "content": f"You are number {i}."}, *given(prompt)]
            for _ in range(2):
                said = client.chat.completions.create(model=endpoint.model, messages=messages).choices[0].message
                messages += [said.model_dump(exclude_none=True), {"role": "user", "content": "Go on."}]
            return sum(1 for _ in client.chat.completions.create(model=endpoint.model, messages=messages, stream=True))

        return float(sum(pool.map(talk, range(3))))
