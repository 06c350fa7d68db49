"""The process that holds a model: reads rows from its socket, decodes them side by side, sends back what is new of each.

One thread does everything, so that a worker which answers is one that generates. It ends when its front is gone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import select
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.errors import DataError
from keel.core.hashing import stable_hash
from keel.render.renderer import Renderer
from keel.rollout.continuous import ContinuousSampler, RowAsk, RowToken
from keel.serve.policy import frames
from keel.serve.policy.frames import About, Piece, Row, TokenText
from keel.serve.policy.prompts import prompt_of
from keel.serve.policy.text_stream import TextStream
from keel.serve.policy.tool_calls import form_of
from keel.types import SamplingParams

log = logging.getLogger("keel")
Send = Callable[[Sequence[Mapping[str, Any]]], None]


class Channel:
    """Lines over a socket. ``read`` blocks only when it is told to; None at the end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def send(self, said: Sequence[Mapping[str, Any]]) -> None:
        """Frames, in one piece. Raises OSError when the front is gone."""
        self._sock.sendall(b"".join(map(frames.line, said)))

    def read(self, block: bool) -> list[dict[str, Any]] | None:
        """All frames that are there."""
        found: list[dict[str, Any]] = []
        while select.select([self._sock], [], [], None if block and not found else 0)[0]:
            data = self._sock.recv(1 << 20)
            if not data:
                return None
            *lines, self._rest = (self._rest + data).split(b"\n")
            found += [json.loads(x) for x in lines]
        return found


@dataclass(slots=True)
class _Open:
    """An answer that is being drawn."""

    row: Row
    ask: RowAsk
    stream: TextStream
    count: int  # tokens so far
    limit: int  # of them


class Worker:
    """Rows that wait, rows that are decoded. ``turn`` takes what has come in, then makes one step."""

    def __init__(
        self,
        sampler: ContinuousSampler,
        renderer: Renderer,
        send: Send,
        rows: int,
        prefill_tokens: int,
        waiting_tokens: int,
        count_words: bool,
    ) -> None:
        self._sampler, self._renderer, self._out = sampler, renderer, send
        self._rows, self._prefill_tokens, self._waiting_tokens, self._count_words = rows, prefill_tokens, waiting_tokens, count_words
        self._waiting: deque[tuple[Row, RowAsk]] = deque()
        self._open: dict[str, _Open] = {}
        self._images: Counter[str] = Counter()  # how many rows show an image
        self._saying: list[Mapping[str, Any]] = []  # what goes out together: the front wakes once a step, not once a row

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._open

    def turn(self, incoming: Sequence[Mapping[str, Any]]) -> None:
        """Take up and drop what ``incoming`` says, then one token for every row."""
        for frame in incoming:
            if "ask" in frame:
                self._take(frames.row_from(frame["ask"]))
            elif "cancel" in frame:
                self._cancel(frame["cancel"])
        self._flush()  # who was taken up hears of it before the step
        new = list(self._joining())
        if new or self._open:
            done = {token.name for token in self._sampler.advance(new) if self._told(token)}
            for name in done:
                self._forget(self._open.pop(name).ask)
            self._sampler.drop(done)
            self._flush()

    def _send(self, frame: Mapping[str, Any]) -> None:
        self._saying.append(frame)

    def _flush(self) -> None:
        if self._saying:
            said, self._saying = self._saying, []
            self._out(said)

    def _take(self, row: Row) -> None:
        try:
            prompt = prompt_of(row)
            encoded = self._renderer.prompt(prompt, reserve=1)
            room = self._room(len(encoded))
            params = SamplingParams(
                max_tokens=max(1, min(row.max_tokens, room)), temperature=row.temperature, top_p=row.top_p, top_k=row.top_k
            )
        except DataError as error:
            self._keep_images()
            self._send({"refused": row.name, "message": error.message, "hint": error.hint})
            return
        except Exception as error:  # one request that nobody foresaw must not end the answers of all others
            log.exception("a request cannot be rendered")
            self._send({"piece": frames.plain(Piece(row.name, end="error", error=f"it cannot be rendered ({type(error).__name__})"))})
            return
        ask = RowAsk(row.name, encoded, params, stable_hash(row.seed, "", 0, row.sample), row.said, row.top)
        self._images.update(ref.digest for ref in encoded.media)
        if self._full(row, len(encoded)):
            self._forget(ask)
            self._send({"refused": row.name, "busy": True, "message": "too many tokens are waiting: ask again later"})
            return
        said = self._renderer.codec.encode(prompt.last_user_text) if self._count_words else ()
        self._send({"piece": frames.plain(Piece(row.name, prompt_tokens=len(encoded), words=tuple(said)))})
        if row.probe:
            self._waiting.appendleft((row, ask))
        else:
            self._waiting.append((row, ask))

    def _room(self, prompt_tokens: int) -> int:
        """How many tokens of an answer the model's context has room for."""
        limit, _ = self._renderer.limits.completion(prompt_tokens)
        return 1 << 30 if limit is None else limit

    def _cancel(self, name: str) -> None:
        left = [(row, ask) for row, ask in self._waiting if row.name == name]
        self._waiting = deque((row, ask) for row, ask in self._waiting if row.name != name)
        for _, ask in left:
            self._forget(ask)
        open_ = self._open.pop(name, None)
        if open_ is not None:
            self._forget(open_.ask)
            self._sampler.drop({name})

    def _forget(self, ask: RowAsk) -> None:
        """The row is over: images that no other row shows go, or a server would keep all that it was ever shown."""
        for ref in ask.prompt.media:
            self._images[ref.digest] -= 1
        self._images = +self._images
        self._keep_images()

    def _keep_images(self) -> None:
        if self._renderer.images is not None:
            self._renderer.images.keep_only(self._images)

    def _full(self, row: Row, tokens: int) -> bool:
        """Is there no room to wait in? A prompt that waits alone has room, and so have answers that have begun."""
        waiting = sum(len(ask.prompt) for _, ask in self._waiting)
        return not row.probe and not row.said and waiting > 0 and waiting + tokens > self._waiting_tokens

    def _joining(self) -> Iterator[RowAsk]:
        """As many as there is room for, with so many tokens as one step may read; at least one."""
        tokens = 0
        while self._waiting:
            row, ask = self._waiting[0]
            size = len(ask.prompt) + len(ask.said)
            full = len(self._open) >= self._rows and not row.probe
            if full or (tokens and tokens + size > self._prefill_tokens):
                return
            tokens += size
            self._waiting.popleft()
            stream = TextStream(self._renderer.decode, row.stop)
            for token in row.said:
                stream.add(token)  # it was told before
            self._open[row.name] = _Open(row, ask, stream, len(row.said), ask.params.max_tokens)
            yield ask

    def _told(self, token: RowToken) -> bool:
        """Send what a token brings. Is the row over?"""
        one = self._open[token.name]
        if token.error:
            self._send({"piece": frames.plain(Piece(token.name, end="error", error=token.error))})
            return True
        one.count += 1
        text = one.stream.add(token.token)
        ended = token.token in self._renderer.stop_tokens or one.stream.stopped
        end: frames.End = "stop" if ended else "length" if one.count >= one.limit else ""
        if end and not one.stream.stopped:
            text += one.stream.finish()
            end = "stop" if one.stream.stopped else end
        tokens = (self._token_text(token),) if token.logprob is not None else ()
        self._send({"piece": frames.plain(Piece(token.name, (token.token,), text, tokens, end))})
        return bool(end)

    def _token_text(self, token: RowToken) -> TokenText:
        assert token.logprob is not None
        word = self._renderer.tokenizer.decode
        return TokenText(word([token.token]), token.logprob, tuple((word([i]), p) for i, p in token.top))


def serve(channel: Channel, worker: Worker) -> None:
    """Until the front is gone."""
    while (incoming := channel.read(block=worker.idle)) is not None:
        worker.turn(incoming)


def about(renderer: Renderer, model: str, fast: bool, tools: str, details: Mapping[str, Any]) -> About:
    """What the front is told of the model. ``tools``: the setting; ``details``: what else."""
    vocabulary = json.dumps(sorted(renderer.tokenizer.get_vocab().items()))
    template = renderer.template
    form = "" if tools == "off" or template is None else form_of(template.source) if tools == "auto" else tools
    return About(
        model,
        hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        renderer.limits.context,
        form,
        template is not None,
        own_system=renderer.config.system is not None,
        images=renderer.images is not None,
        fast=fast,
        details={"template_sha256": renderer.template_hash, **details},
    )
