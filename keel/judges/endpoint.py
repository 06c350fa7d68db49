"""A judge behind OpenAI's chat protocol: several calls at once, a rate, pauses that the server asks for, a journal, a budget."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

from keel.core.errors import ConfigError, UserError
from keel.judges import read
from keel.judges.ask import Question, Said, digest, failed
from keel.judges.budget import Budget, cost_of, most_tokens
from keel.judges.config import EndpointConfig
from keel.judges.journal import Call, Journal, key_of
from keel.judges.parse import UnreadableError, distribution
from keel.judges.templates import Template, Written, load_template, write

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_PAUSE_S = 0.5
_TOP = 20  # log-probabilities that the protocol gives at most


@dataclass(frozen=True, slots=True)
class Ready:
    """A call before it is made."""

    question: Question
    template: Template
    written: Written
    body: dict[str, Any]
    key: str


class CallError(Exception):
    """No reply to one call. ``paid``: it may have been charged all the same."""

    def __init__(self, message: str, paid: bool = False) -> None:
        super().__init__(message)
        self.paid = paid


class EndpointJudge:
    """A `Judge`. Pauses and clock can be others for tests. Raises UserError where httpx or the key is missing."""

    def __init__(
        self,
        name: str,
        config: EndpointConfig,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.config = name, config
        self._httpx = _httpx()
        self._headers = _headers(config)
        self._templates = {kind: load_template(config.templates.of(kind)) for kind in ("pairwise", "pointwise", "ranking", "rubric")}
        self.journal = Journal(Path(config.journal).expanduser())
        self.budget = Budget(config.budget, self.journal.spent())
        self._pause, self._clock = pause, clock
        self._next = -math.inf  # when the next call may begin

    @property
    def identity(self) -> str:
        c = self.config
        templates = {kind: t.hash for kind, t in self._templates.items()}
        parameters = {kind: self._parameters(kind) for kind in self._templates}
        return digest({"url": c.url, "model": c.model, "templates": templates, "parameters": parameters})

    @property
    def family(self) -> str:
        return self.config.family

    def price(self, questions: Sequence[Question]) -> float | None:
        """What is not in the journal, every reply at its longest."""
        total = 0.0
        for ready in (self._ready(q) for q in questions):
            if self.journal.get(ready.key) is None:
                cost = self._most(ready)
                if cost is None:
                    return None
                total += cost
        return total

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        ready = [self._ready(q) for q in questions]
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._all(ready))
        with ThreadPoolExecutor(1) as other:  # a loop runs in this thread (a notebook): ours needs another
            return other.submit(asyncio.run, self._all(ready)).result()

    def _mode(self, kind: str) -> str:
        return "json" if kind == "ranking" else self.config.verdict

    def _parameters(self, kind: str) -> dict[str, Any]:
        c, mode = self.config, self._mode(kind)
        one = {"max_tokens": 1} if mode == "logprobs" else {"max_tokens": 16 if mode == "label" else c.max_tokens}
        if mode == "logprobs":  # at temperature 1, since some servers tell what is left after it
            return {"temperature": 1.0, "logprobs": True, "top_logprobs": _TOP, **one}
        return {"temperature": c.temperature, **one} | ({"response_format": {"type": "json_object"}} if mode == "json" else {})

    def _ready(self, question: Question) -> Ready:
        template = self._templates[question.kind]
        written = write(template, question, "json" if self._mode(question.kind) == "json" else "label")
        if self._mode(question.kind) == "logprobs" and len(written.labels) > _TOP:
            raise ConfigError(
                f"a scale of {len(written.labels)} steps has more labels than the {_TOP} tokens that servers tell", "verdict=json"
            )
        parameters = self._parameters(question.kind)
        body = {"model": self.config.model, "messages": [{"role": r, "content": c} for r, c in written.messages], **parameters}
        key = key_of(self.config.url, self.config.model, template.hash, parameters, question)
        return Ready(question, template, written, body, key)

    async def _all(self, ready: Sequence[Ready]) -> list[Said]:
        gate = asyncio.Semaphore(self.config.concurrency)
        limits = self._httpx.Limits(max_connections=self.config.concurrency, max_keepalive_connections=self.config.concurrency)
        async with self._httpx.AsyncClient(headers=self._headers, timeout=self.config.timeout_s, limits=limits) as client:

            async def one(call: Ready) -> Said:
                async with gate:
                    return await self._one(client, call)

            unique = {call.key: call for call in ready}  # the same call twice is made once
            made = dict(zip(unique, await asyncio.gather(*map(one, unique.values())), strict=True))
        seen = set[str]()
        found: list[Said] = []
        for call in ready:
            said = made[call.key]
            found.append(replace(said, cost=0.0, made=False) if call.key in seen else said)
            seen.add(call.key)
        return found

    async def _one(self, client: Any, ready: Ready) -> Said:
        if (kept := self._kept(ready)) is not None:
            return kept
        if not self.budget.may_begin():
            return failed(f"budget: {self.budget.spent:g} of {self.budget.limit:g} is spent", made=False)
        try:
            reply, tokens = await self._post(client, ready)
        except CallError as error:
            if not error.paid:
                return failed(f"call: {error}")
            return await self._fail(ready, f"call: {error}", Call(None, None, self._most(ready)))
        call = Call(reply, tokens, cost_of(self.config.price, tokens))
        try:
            said = self._read(ready, reply)
        except UnreadableError as error:
            return await self._fail(ready, str(error), call)
        await asyncio.to_thread(self.journal.keep, ready.key, call)  # before anybody uses it
        self.budget.add(call.cost)
        return Said(**said, text=reply["text"], tokens=tokens, cost=call.cost)

    async def _fail(self, ready: Ready, error: str, call: Call) -> Said:
        await asyncio.to_thread(self.journal.keep_failure, ready.key, error, call)
        self.budget.add(call.cost)
        text = call.reply["text"] if isinstance(call.reply, dict) else ""
        return failed(error, text=text, tokens=call.tokens, cost=call.cost)

    def _kept(self, ready: Ready) -> Said | None:
        """What the journal has. A reply that today's code reads otherwise is asked for again."""
        call = self.journal.get(ready.key)
        if call is None:
            return None
        try:
            return Said(**self._read(ready, call.reply), text=call.reply["text"], tokens=call.tokens, cost=0.0, made=False)
        except UnreadableError:
            return None

    def _read(self, ready: Ready, reply: dict[str, Any]) -> dict[str, Any]:
        match self._mode(ready.question.kind):
            case "logprobs":
                if reply.get("top") is None:
                    raise UnreadableError("log-probabilities: the server gives none (verdict=label or json needs none)")
                return read.of_labels(ready.template, ready.question, distribution(reply["top"], ready.written.labels))
            case "label":
                return read.of_label(ready.template, ready.question, reply["text"])
            case _:
                return read.of_json(ready.template, ready.question, reply["text"])

    def _most(self, ready: Ready) -> float | None:
        """What a call costs at most."""
        characters = sum(len(text) for _, text in ready.written.messages)
        return cost_of(self.config.price, most_tokens(characters, ready.body["max_tokens"]))

    async def _post(self, client: Any, ready: Ready) -> tuple[dict[str, Any], tuple[int, int] | None]:
        """The reply and its tokens. Raises CallError after the last attempt, or at once for a refusal that will not change."""
        url, headers = f"{self.config.url.rstrip('/')}/chat/completions", {"Idempotency-Key": ready.key}
        why, wait = "", 0.0
        for attempt in range(self.config.attempts):
            if attempt:
                await self._pause(min(wait or _FIRST_PAUSE_S * 2 ** (attempt - 1), self.config.longest_pause_s))
            await self._turn()
            wait = 0.0
            try:
                response = await client.post(url, json=ready.body, headers=headers)
            except self._httpx.ConnectError as error:
                why = f"the server at {url} does not answer: {error}"
                continue
            except self._httpx.TransportError as error:
                why = f"no reply ({type(error).__name__})"
                await self._fail(ready, f"call: {why}", Call(None, None, self._most(ready)))  # it was sent, so it may be charged
                continue
            if response.status_code == 200:
                return _reply(response)
            why = f"the server answers {response.status_code}: {response.text[:200].strip()}"
            if response.status_code not in _AGAIN:
                break
            wait = asked_pause(response.headers.get("Retry-After", ""))
        raise CallError(why)

    async def _turn(self) -> None:
        """Wait for this call's turn, where there is a rate."""
        if self.config.per_minute is None:
            return
        now = self._clock()
        begin = max(now, self._next)
        self._next = begin + 60.0 / self.config.per_minute
        if begin > now:
            await self._pause(begin - now)


def _reply(response: Any) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Text, log-probabilities of the first token, and tokens of a chat completion. Raises CallError for another shape: it was paid."""
    try:
        found = response.json()
        choice = found["choices"][0]
        text = choice["message"]["content"]
        first = (((choice.get("logprobs") or {}).get("content")) or [None])[0]
        top = None if first is None else _top(first)
        usage = found.get("usage") or {}
        tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CallError(f"the reply is not of the chat protocol: {type(error).__name__} {error}", paid=True) from None
    counted = all(isinstance(t, int) and not isinstance(t, bool) and t >= 0 for t in tokens)
    return {"text": text if isinstance(text, str) else "", "top": top}, cast("tuple[int, int]", tokens) if counted else None


def _top(first: dict[str, Any]) -> dict[str, float]:
    rows = first.get("top_logprobs") or [first]
    found: dict[str, float] = {}
    for row in rows:
        found[row["token"]] = max(row["logprob"], found.get(row["token"], -math.inf))
    return {token: logprob for token, logprob in found.items() if logprob != -math.inf}


def asked_pause(text: str, now: Callable[[], float] = time.time) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 for none."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (TypeError, ValueError):
        return 0.0


def _headers(config: EndpointConfig) -> dict[str, str]:
    if not config.key_env:
        return {}
    key = os.environ.get(config.key_env)
    if not key:
        raise UserError(f"key_env: the environment has no {config.key_env}", f"set {config.key_env}, or leave key_env out")
    return {"Authorization": f"Bearer {key}"}


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise UserError("a judge behind a server needs httpx", "pip install 'keel-align[judge]'") from None
    return httpx
