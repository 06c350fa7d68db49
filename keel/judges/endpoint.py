"""A judge behind OpenAI's chat protocol: several calls at once, a rate, pauses that the server asks for, a journal, a budget."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DataError, UserError
from keel.judges import read
from keel.judges.ask import Question, Said, digest, failed
from keel.judges.budget import Budget, cost_of, most_tokens
from keel.judges.chat import CallError, asked_pause, reply_of
from keel.judges.config import EndpointConfig
from keel.judges.journal import Call, Journal, key_of
from keel.judges.parse import UnreadableError, distribution
from keel.judges.pictures import sent
from keel.judges.templates import Template, Written, load_template, write

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 529})
_LATE = frozenset({504, 524})  # a gateway gave up while the server behind it was at work
_FIRST_PAUSE_S = 0.5
_TOP = 20  # log-probabilities that the protocol gives at most


@dataclass(frozen=True, slots=True)
class Ready:
    """A call before it is made. Its images are read when it is sent: all of a job's would fill the memory."""

    question: Question
    template: Template
    written: Written
    parameters: dict[str, Any]
    key: str

    def body(self, model: str) -> bytes:
        """What is sent. Raises RefusedError (a DataError) for an image that cannot be read."""
        messages = [{"role": role, "content": sent(content)} for role, content in self.written.messages]
        whole = {"model": model, "messages": messages, **self.parameters}
        return json.dumps(whole).encode()  # ASCII: half a surrogate pair in a text breaks nothing


@dataclass(slots=True)
class Bill:
    """What the attempts of one call came to: what each of them cost, or may have cost without a reply (None: unknown)."""

    costs: list[float | None] = field(default_factory=list[float | None])
    sent: bool = False

    @property
    def total(self) -> float | None:
        """None where one of them is unknown."""
        return None if any(c is None for c in self.costs) else math.fsum(c for c in self.costs if c is not None)


class EndpointJudge:
    """A `Judge`. Pauses, clock and httpx's transport can be others for tests. Raises UserError where httpx or the key is missing."""

    def __init__(
        self,
        name: str,
        config: EndpointConfig,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: Any = None,
    ) -> None:
        self.name, self.config = name, config
        self._httpx = _httpx()
        self._unsent = tuple(getattr(self._httpx, name) for name in ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"))
        self._transport = transport
        _check_address(self._httpx, config.url)
        self._headers = _headers(config)
        self._templates = {kind: load_template(config.templates.of(kind)) for kind in ("pairwise", "pointwise", "ranking", "rubric")}
        self.journal = Journal(Path(config.journal).expanduser())
        self.budget = Budget(config.budget, self.journal.spent(), self.journal.spent)
        self._pause, self._clock = pause, clock
        self._next = -math.inf  # when the next call may begin

    @property
    def identity(self) -> str:
        c = self.config
        templates = {kind: t.hash for kind, t in self._templates.items()}
        parameters = {kind: self._parameters(kind) for kind in self._templates}
        images = {"images": True} if c.images else {}
        return digest({"url": c.url, "model": c.model, "templates": templates, "parameters": parameters, **images})

    @property
    def family(self) -> str:
        return self.config.family

    @property
    def sees_images(self) -> bool:
        return self.config.images

    def price(self, questions: Sequence[Question]) -> float | None:
        """What is not in the journal, every reply at its longest, each call answered at once."""
        total = 0.0
        for ready in {r.key: r for r in map(self._ready, questions)}.values():
            if self._kept(ready) is None:
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
        written = write(template, question, "json" if self._mode(question.kind) == "json" else "label", sees=self.sees_images)
        if self._mode(question.kind) == "logprobs" and len(written.labels) > _TOP:
            raise ConfigError(
                f"a scale of {len(written.labels)} steps has more labels than the {_TOP} tokens that servers tell", "verdict=json"
            )
        parameters = self._parameters(question.kind)
        key = key_of(self.config.url, self.config.model, template.hash, parameters, question)
        return Ready(question, template, written, parameters, key)

    async def _all(self, ready: Sequence[Ready]) -> list[Said]:
        gate = asyncio.Semaphore(self.config.concurrency)
        limits = self._httpx.Limits(max_connections=self.config.concurrency, max_keepalive_connections=self.config.concurrency)
        settings = {"headers": self._headers, "timeout": self.config.timeout_s, "limits": limits, "transport": self._transport}
        lost: list[Exception] = []
        async with self._httpx.AsyncClient(**settings) as client:

            async def one(call: Ready) -> Said:
                async with gate:
                    if lost:
                        raise lost[0]  # nothing more is begun; what is in flight still gets into the journal, where that can be
                    try:
                        return await self._one(client, call)
                    except Exception as error:
                        lost.append(error)
                        raise

            unique = {call.key: call for call in ready}  # the same call twice is made once
            done = await asyncio.gather(*map(one, unique.values()), return_exceptions=True)
        if lost:
            raise lost[0]
        made = {key: said for key, said in zip(unique, done, strict=True) if isinstance(said, Said)}
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
        bill = Bill()
        try:
            reply, tokens = await self._post(client, ready, bill)
        except CallError as error:
            if error.paid:
                await self._fail(ready, str(error), self._unanswered(ready), bill)
            return failed(str(error), cost=bill.total, made=bill.sent)
        cost = cost_of(self.config.price, tokens)
        call = Call(reply, tokens, cost, None if cost is not None else self._most(ready))
        try:
            said = self._read(ready, reply)
        except UnreadableError as error:
            await self._fail(ready, str(error), call, bill)
            return failed(str(error), text=reply["text"], tokens=tokens, cost=bill.total)
        await asyncio.to_thread(self.journal.keep, ready.key, call)  # before anybody uses it
        self._charge(call, bill)
        return Said(**said, text=reply["text"], tokens=tokens, cost=bill.total)

    async def _fail(self, ready: Ready, error: str, call: Call, bill: Bill) -> None:
        await asyncio.to_thread(self.journal.keep_failure, ready.key, error, call)
        self._charge(call, bill)

    def _charge(self, call: Call, bill: Bill) -> None:
        bill.costs.append(call.cost)
        self.budget.add(call.counted)

    def _unanswered(self, ready: Ready) -> Call:
        """An attempt that was sent and not answered: it may be charged, at its highest."""
        return Call(None, None, self._most(ready))

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
        """What a call costs at most; None = unknown, also where nobody said what an image may come to."""
        images = len(ready.written.images)
        if images and self.config.image_tokens is None:
            return None
        shown, written = most_tokens(ready.written.texts, ready.parameters["max_tokens"])
        return cost_of(self.config.price, (shown + images * (self.config.image_tokens or 0), written))

    async def _post(self, client: Any, ready: Ready, bill: Bill) -> tuple[dict[str, Any], tuple[int, int] | None]:
        """The reply and its tokens. Raises CallError after the last attempt, at once for a refusal that will not change, and before the
        attempt that there is no money for. Attempts that may be charged are put down, and on the bill."""
        url, headers = f"{self.config.url.rstrip('/')}/chat/completions", {"Idempotency-Key": ready.key, "Content-Type": "application/json"}
        try:
            body = await asyncio.to_thread(ready.body, self.config.model) if ready.written.images else ready.body(self.config.model)
        except DataError as error:
            raise CallError(f"images: {error.message}") from None
        why, wait = "", 0.0
        for attempt in range(self.config.attempts):
            await self._afford(why)
            if attempt:
                await self._pause(min(wait or _FIRST_PAUSE_S * 2 ** (attempt - 1), self.config.longest_pause_s))
            await self._turn()
            await self._afford(why)  # others spend while one waits
            wait, bill.sent = 0.0, True
            try:
                response = await client.post(url, content=body, headers=headers)
            except self._unsent as error:
                why = f"the server at {url} does not answer: {str(error) or type(error).__name__}"
                continue
            except self._httpx.LocalProtocolError:  # its text has the headers, and the key in them
                why = "the request is none that HTTP knows"
                break
            except self._httpx.RequestError as error:
                why = f"no reply ({type(error).__name__})"
                await self._fail(ready, f"call: {why}", self._unanswered(ready), bill)
                continue
            if response.status_code == 200:
                return reply_of(response)
            why = f"the server answers {response.status_code}: {response.text[:200].strip()}"
            if response.status_code in _LATE:
                await self._fail(ready, f"call: {why}", self._unanswered(ready), bill)
            elif response.status_code not in _AGAIN:
                break
            wait = asked_pause(response.headers.get("Retry-After", ""))
        raise CallError(f"call: {why}")

    async def _afford(self, why: str) -> None:
        """Raises CallError once the budget is spent, whoever spent it: the journal is asked, which other jobs may share."""
        if self.budget.limit is not None and not await asyncio.to_thread(self.budget.may_begin):
            before = f" (before that, {why})" if why else ""
            raise CallError(f"budget: {self.budget.spent:g} of {self.budget.limit:g} is spent{before}")

    async def _turn(self) -> None:
        """Wait for this call's turn, where there is a rate."""
        if self.config.per_minute is None:
            return
        now = self._clock()
        begin = max(now, self._next)
        self._next = begin + 60.0 / self.config.per_minute
        if begin > now:
            await self._pause(begin - now)


def _headers(config: EndpointConfig) -> dict[str, str]:
    if not config.key_env:
        return {}
    key = os.environ.get(config.key_env)
    if not key:
        raise UserError(f"key_env: the environment has no {config.key_env}", f"set {config.key_env}, or leave key_env out")
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"key_env: what {config.key_env} holds is no key: it has signs that no header can have", "set it again")
    return {"Authorization": f"Bearer {key}"}


def _check_address(httpx: Any, url: str) -> None:
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"url: {url} is no address: {error}", "e.g. http://127.0.0.1:8000/v1") from None
    if not found.host or not 0 < (found.port or 80) < 65536:
        raise ConfigError(f"url: {url} names no server, or no port that there is", "e.g. http://127.0.0.1:8000/v1")


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise UserError("a judge behind a server needs httpx", "pip install 'keel-align[judge]'") from None
    return httpx
