"""One request on its way: its rows are drawn side by side, filtered before anything leaves, calls of tools told apart."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from keel.serve.policy.canary import ArmName, Ended
from keel.serve.policy.engine import BusyError, RefusedError
from keel.serve.policy.filters import RuleConfig, Score, StreamFilter
from keel.serve.policy.frames import Piece, TokenText
from keel.serve.policy.pace import Pace, per_token_s
from keel.serve.policy.replies import Choice
from keel.serve.policy.requests import SEEDS, Asked, RequestError
from keel.serve.policy.router import LostError, Router
from keel.serve.policy.texts import question_of
from keel.serve.policy.tool_calls import CallSplitter, Form

log = logging.getLogger("keel")


class FailedError(Exception):
    """The request failed after it was accepted; ``status`` for one whose answer has not begun."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.message, self.status = message, status


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one choice."""

    index: int
    text: str = ""
    tokens: tuple[TokenText, ...] = ()
    finish: str = ""


class Answer:
    """Rows of one request from when they were accepted until each has ended. ``choices`` grow; ``prompt_tokens`` counts a prompt once."""

    def __init__(self, asked: Asked, arm: ArmName, router: Router, rules: Sequence[RuleConfig], score: Score | None, form: str) -> None:
        """Takes its room. Raises FullError. ``rules`` of output."""
        router.take(arm, len(asked.rows), asked.size)
        self.arm: ArmName = arm
        self.asked, self._router, self._rules, self._score = asked, router, rules, score
        self._form: Form | None = "hermes" if form == "hermes" else "json" if form == "json" else None
        seed = asked.seed % SEEDS if asked.seed is not None else secrets.randbelow(SEEDS)
        self.rows = tuple(replace(row, name=secrets.token_hex(8), seed=seed) for row in asked.rows)
        self.choices = [Choice() for _ in self.rows]
        self.ids = [list[int]() for _ in self.rows]
        self._paces = [Pace() for _ in self.rows]
        self.words: tuple[int, ...] = ()
        self.prompt_tokens = 0
        self.began, self.first_token_s = time.monotonic(), 0.0
        self._queue: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()
        self._taken = [asyncio.Event() for _ in self.rows]
        self._failed: Exception | None = None
        self._tasks = [asyncio.create_task(self._row(i)) for i in range(len(self.rows))]
        for task in self._tasks:
            task.add_done_callback(self._row_is_over)
        self._canary = router.canary if arm == "canary" else None
        if self._canary is not None:
            self._canary.sent()

    def _row_is_over(self, task: asyncio.Task[None]) -> None:
        self._router.give(self.arm, self.asked.size)
        self._queue.put_nowait(None)
        if self._canary is not None and all(t.done() for t in self._tasks):
            self._canary.left()

    async def accepted(self) -> None:
        """Until every prompt was read. Raises RequestError, FailedError."""
        for event in self._taken:
            await event.wait()
        if self._failed is not None:
            raise self._failed

    async def deltas(self) -> AsyncIterator[Delta]:
        """All that is new, until each choice has ended. Raises FailedError; left early, nothing more is drawn."""
        over = 0
        try:
            while over < len(self.rows):
                event = await self._queue.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    over += 1
                else:
                    yield event
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nobody wants it any more."""
        for task in self._tasks:
            task.cancel()

    async def whole(self) -> None:
        """Until each choice has ended. Raises FailedError."""
        async with aclosing(self.deltas()) as deltas:  # type: ignore[type-var]
            async for _ in deltas:
                pass

    async def _row(self, index: int) -> None:
        try:
            async with asyncio.timeout(self._router.limits.timeout_s):
                await self._draw(index)
        except BusyError as error:
            self._fail(RequestError(str(error), status=429, code="queue_full"))
        except RefusedError as error:
            self._fail(RequestError(str(error), "messages" if self.asked.kind == "chat" else "prompt"))
        except TimeoutError:
            self._fail(FailedError(f"no answer within {self._router.limits.timeout_s:g} seconds", 504))
        except LostError as error:
            self._fail(FailedError(str(error), 503))
        except FailedError as error:
            self._fail(error)
        except Exception as error:  # whoever asked is told; the log has the traceback
            log.exception("a request failed")
            self._fail(FailedError(f"{type(error).__name__}: {error}"))
        finally:
            self._taken[index].set()

    def _fail(self, error: Exception) -> None:
        self._failed = self._failed or error
        self._queue.put_nowait(error)

    async def _draw(self, index: int) -> None:
        row, choice, ids = self.rows[index], self.choices[index], self.ids[index]
        look = StreamFilter(self._rules)
        calls = CallSplitter(self._form) if self._form is not None and self.asked.tool_names else None
        held: list[TokenText] = []  # where rules look, tokens leave with the end: they are the text too
        async with aclosing(self._router.draw(row, self.arm)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if piece.prompt_tokens is not None:
                    self._read(index, piece)
                    continue
                if piece.end == "error":
                    raise FailedError(piece.error)
                ids += piece.ids
                choice.ids += len(piece.ids)
                self._paces[index].add(piece)
                if piece.counted is not None:
                    self._count(index, *piece.counted)
                if not self.first_token_s:
                    self.first_token_s = time.monotonic() - self.began
                    if self._canary is not None and row.name not in self._router.elsewhere:
                        self._canary.heard()
                held += piece.tokens
                text = look.add(piece.text)
                if piece.end:
                    text += await look.finish(question_of(row), self._score)
                choice.written += text
                if look.hit is not None:
                    text += calls.finish(())[0] if calls is not None else ""
                    choice.note = look.hit.name
                    self._tell(Delta(index, text + look.hit.message, finish="content_filter"))
                    return
                shown = calls.add(text) if calls is not None else text
                if piece.end:
                    self._end(index, shown, calls, held, piece.end)
                    return
                if self._rules:
                    self._tell(Delta(index, shown))
                else:
                    self._tell(Delta(index, shown, tuple(held)))
                    held.clear()

    def _read(self, index: int, piece: Piece) -> None:
        first = all(row.prompt != self.rows[index].prompt for row in self.rows[:index])
        self.prompt_tokens += (piece.prompt_tokens or 0) if index == 0 or (self.asked.kind == "text" and first) else 0
        self.words = self.words or piece.words
        self._taken[index].set()

    def _count(self, index: int, prompt: int, drawn: int) -> None:
        """What an engine without ids says at the end."""
        self.choices[index].ids = drawn
        if index == 0 or self.asked.kind == "text":
            self.prompt_tokens += prompt

    def _end(self, index: int, shown: str, calls: CallSplitter | None, held: Sequence[TokenText], end: str) -> None:
        finish = end
        if calls is not None:
            rest, found = calls.finish(self.asked.tool_names)
            shown += rest
            if found:
                self.choices[index].calls, finish = found, "tool_calls"
        self._tell(Delta(index, shown, tuple(held), finish))

    def _tell(self, delta: Delta) -> None:
        choice = self.choices[delta.index]
        choice.text += delta.text
        choice.tokens += delta.tokens
        choice.finish = delta.finish
        if delta.text or delta.tokens or delta.finish:
            self._queue.put_nowait(delta)

    @property
    def seconds(self) -> float:
        """Since it was accepted."""
        return time.monotonic() - self.began

    def outcome(self, ok: bool) -> Ended:
        """For the canary's windows."""
        return Ended(ok, any(c.finish == "content_filter" for c in self.choices), per_token_s(self._paces))
