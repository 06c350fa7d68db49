"""OpenAI's requests -> what is to be drawn. What is not supported is refused by name, never ignored. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keel.serve.policy.config import RowsConfig
from keel.serve.policy.frames import About, Row
from keel.serve.policy.pictures import image_fault

Kind = Literal["chat", "text"]
_COMMON = frozenset(
    {"model", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "stream", "stream_options", "logprobs", "user"}
)
_CHAT = _COMMON | {"messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "metadata"}
_TEXT = _COMMON | {"prompt", "echo"}
# Fields that change nothing at these values, which clients send by themselves.
_EMPTY: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
}
_ROLES = ("system", "user", "assistant", "tool")
_MOST_STOPS = 16
_MOST_TOP = 20
_ALL = 1 << 30  # more tokens than any model has: a top_k beyond it cuts nothing off, and has room in a tensor
_LARGEST = 1e300  # numbers beyond it may have no float
SEEDS = 2**63
_NUMBER = (int, float)


class RequestError(Exception):
    """A request that cannot be answered; ``param`` is the field, as OpenAI's errors name it."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood. ``rows``: its choices in order, without names and seeds."""

    kind: Kind
    rows: tuple[Row, ...]
    stream: bool
    usage_in_stream: bool
    user: str
    tool_names: tuple[str, ...]
    seed: int | None
    model: str
    size: int = 0  # bytes of its body


def json_of(raw: bytes) -> Any:
    """The JSON of a body. Raises RequestError; also for text that is none: half of a surrogate pair is no character to a tokenizer."""
    try:
        found = json.loads(raw.decode("utf-8-sig"))
        if b"\\u" in raw:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError("the body holds half of a pair of surrogates (\\ud800 to \\udfff), which is no character") from None
    except (ValueError, RecursionError):
        raise RequestError("the body is no JSON in UTF-8") from None
    return found


def read_request(kind: Kind, body: Any, model: str, about: About, limits: RowsConfig, size: int = 0) -> Asked:
    """The request that a body of ``size`` bytes makes. ``model``: the name that is served. Raises RequestError naming the field."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    _known(body, _CHAT if kind == "chat" else _TEXT)
    named = _get(body, "model", str, model)
    if named != model:
        raise RequestError(f"the model {named!r} does not exist here; there is {model!r}", "model", 404, "model_not_found")
    tools = _tools(body, about) if kind == "chat" else ()
    wanted = _get(body, "max_tokens", int, None)
    wanted = _get(body, "max_completion_tokens", int, wanted)
    most = min(limits.max_tokens, wanted) if wanted is not None else limits.max_tokens
    if wanted is not None and wanted < 1:
        raise RequestError(f"must be at least 1, is {wanted}", "max_tokens")
    temperature = float(_get(body, "temperature", _NUMBER, 1.0))
    _between("temperature", temperature, 0.0, 2.0)
    if 0 < temperature < 1e-3:
        raise RequestError(f"{temperature} is too small to divide by; 0 takes the likeliest token", "temperature")
    top_p = float(_get(body, "top_p", _NUMBER, 1.0))
    if not 0 < top_p <= 1:
        raise RequestError(f"must be above 0 and at most 1, is {top_p}", "top_p")
    top_k = min(max(0, _get(body, "top_k", int, 0)), _ALL)
    n, seed = _get(body, "n", int, 1), _get(body, "seed", int, None)
    prompts = _prompts(body) if kind == "text" else [None]
    if n < 1 or n * len(prompts) > limits.choices:
        raise RequestError(f"from 1 to {limits.choices} answers a request, not {n * len(prompts)}", "n")
    stream = _get(body, "stream", bool, False)
    options = _get(body, "stream_options", dict, {})
    messages = _messages(body, about) if kind == "chat" else ()
    _fits(messages, size * n * len(prompts), limits)
    common: dict[str, Any] = {"messages": messages, "tools": tools, "max_tokens": most, "temperature": temperature, "top_p": top_p}
    common |= {"top_k": top_k, "stop": _stops(body), "top": _top(body, kind)}
    rows = tuple(Row("", prompt=prompt, sample=i * n + k, **common) for i, prompt in enumerate(prompts) for k in range(n))
    names = tuple(tool["function"]["name"] for tool in tools)
    return Asked(kind, rows, stream, bool(options.get("include_usage")), _get(body, "user", str, ""), names, seed, named, size)


def _fits(messages: Sequence[Mapping[str, Any]], size: int, limits: RowsConfig) -> None:
    """Raises RequestError (413) for what would have no room on an idle server either."""
    if size > limits.waiting_mb * 1e6:
        said = f"{size / 1e6:.1f} MB, as often as it has answers; there is room for {limits.waiting_mb:g} MB"
        raise RequestError(said, "n", 413, "request_too_large")
    if fault := image_fault(messages, limits):
        raise RequestError(fault, "messages", 413, "request_too_large")


def _known(body: Mapping[str, Any], known: frozenset[str]) -> None:
    for name, value in body.items():
        if name in known or value is None:
            continue  # null says what leaving it out says
        if name not in _EMPTY:
            raise RequestError("is not known here", name, code="unknown_parameter")
        if not any(value == empty and isinstance(value, bool) == isinstance(empty, bool) for empty in _EMPTY[name]):
            raise RequestError("is not supported here; leave it out", name, code="unsupported_parameter")


def _get(body: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    """The value of a field, the default where it is missing or null. Raises RequestError for one of another type."""
    value = body.get(name)
    if value is None:
        return default
    wrong_bool = isinstance(value, bool) and kind is not bool
    if not isinstance(value, kind) or wrong_bool or (kind is _NUMBER and not abs(value) <= _LARGEST):
        wanted = {str: "a text", bool: "true or false", int: "a whole number", dict: "an object", list: "a list"}.get(kind, "a number")
        raise RequestError(f"must be {wanted}, is {json.dumps(value)[:80]}", name)
    return value


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RequestError(f"must be between {low:g} and {high:g}, is {value:g}", name)


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    given = body.get("stop")
    stops = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(f"must be a text or up to {_MOST_STOPS} of them, none empty", "stop")
    return tuple(stops)


def _top(body: Mapping[str, Any], kind: Kind) -> int | None:
    """How many of the likeliest tokens are told; None where no log-probabilities are wanted."""
    if kind == "text":
        top = _get(body, "logprobs", int, None)
        if top is not None:
            _between("logprobs", top, 0, _MOST_TOP)
        if _get(body, "echo", bool, False):
            raise RequestError("is not supported here; leave it out", "echo", code="unsupported_parameter")
        return top
    top = _get(body, "top_logprobs", int, None)
    if top is not None:
        _between("top_logprobs", top, 0, _MOST_TOP)
        if not _get(body, "logprobs", bool, False):
            raise RequestError("needs logprobs: true", "top_logprobs")
    return (top or 0) if _get(body, "logprobs", bool, False) else None


def _prompts(body: Mapping[str, Any]) -> list[str]:
    given = body.get("prompt")
    prompts = [given] if isinstance(given, str) else given
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise RequestError("must be a text or a list of texts (token ids are not read here)", "prompt")
    return prompts


def _tools(body: Mapping[str, Any], about: About) -> tuple[Mapping[str, Any], ...]:
    given, choice = _get(body, "tools", list, []), body.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise RequestError("must be auto or none: the model cannot be made to call a tool", "tool_choice", code="unsupported_parameter")
    parallel = _get(body, "parallel_tool_calls", bool, True)
    if not given or choice == "none":
        return ()
    if not parallel:
        raise RequestError("must be true: the model cannot be kept to one call", "parallel_tool_calls", code="unsupported_parameter")
    if about.details.get("url"):
        raise RequestError("tools are not passed on to another server: engine=keel offers them", "tools", code="unsupported_parameter")
    if not about.tool_form:
        raise RequestError("the chat template of this model knows no tools", "tools", code="unsupported_parameter")
    for i, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function" or not isinstance(function.get("name"), str):
            raise RequestError("must be {type: function, function: {name, ...}}", f"tools.{i}")
        if not isinstance(function.get("parameters", {}), dict | None) or not isinstance(function.get("description", ""), str | None):
            raise RequestError("description must be a text, parameters a JSON schema (an object)", f"tools.{i}.function")
    return tuple(given)


def _messages(body: Mapping[str, Any], about: About) -> tuple[dict[str, Any], ...]:
    given = _get(body, "messages", list, [])
    if not given:
        raise RequestError("holds no message", "messages")
    if not about.chat:
        raise RequestError("this model has no chat template: ask /v1/completions", "messages")
    messages = tuple(_message(one, f"messages.{i}", about) for i, one in enumerate(given))
    if about.own_system and any(message["role"] == "system" for message in messages):
        raise RequestError("render.system stands in place of system messages here: leave one of the two out", "messages")
    return messages


def _message(one: Any, where: str, about: About) -> dict[str, Any]:
    if not isinstance(one, dict):
        raise RequestError("must be an object", where)
    role = "system" if one.get("role") == "developer" else one.get("role")
    if role not in _ROLES:
        raise RequestError(f"must be one of {', '.join(_ROLES)}, is {json.dumps(role)[:40]}", f"{where}.role")
    calls = one.get("tool_calls")
    if calls is not None:
        _check_calls(calls, f"{where}.tool_calls")
    content = one.get("content")
    if content is None and role == "assistant" and calls:
        content = ""
    if isinstance(content, list):
        content = _parts(content, f"{where}.content", about)
    elif not isinstance(content, str):
        raise RequestError("must be a text or a list of parts", f"{where}.content")
    more = {name: one[name] for name in ("tool_calls", "tool_call_id", "name", "reasoning_content") if one.get(name) is not None}
    for name in more.keys() - {"tool_calls"}:
        if not isinstance(more[name], str):
            raise RequestError("must be a text", f"{where}.{name}")
    return {"role": role, "content": content, **more}


def _check_calls(calls: Any, where: str) -> None:
    for call in calls if isinstance(calls, list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        known = function if isinstance(function, dict) else {}
        if not isinstance(known.get("name"), str) or not isinstance(known.get("arguments", ""), str | dict):
            raise RequestError("must be a list of {id, type: function, function: {name, arguments}}", where)


def _parts(parts: Sequence[Any], where: str, about: About) -> str | list[dict[str, Any]]:
    """Parts as they are rendered; text alone becomes one text. Images come as data: the server reads no addresses and no files."""
    found: list[dict[str, Any]] = []
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            found.append({"type": "text", "text": part["text"]})
        elif kind == "image_url":
            image = part.get("image_url")
            source = image.get("url") if isinstance(image, dict) else None
            if not about.images:
                raise RequestError("this model reads text only", f"{where}.{i}", code="unsupported_parameter")
            if not isinstance(source, str) or not source.startswith("data:image/"):
                raise RequestError("an image must come as a data:image/... URL; none is fetched", f"{where}.{i}.image_url")
            found.append({"type": "image", "source": source})
        else:
            raise RequestError(f"parts are text and image_url, not {json.dumps(kind)[:40]}", f"{where}.{i}.type")
    if all(part["type"] == "text" for part in found):
        return "".join(part["text"] for part in found)
    return found
