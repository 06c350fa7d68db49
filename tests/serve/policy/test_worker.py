"""The worker with a model in it: images end to end, and requests that break on their way to tokens."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fakes import client_of, finish, front_of
from PIL import Image

from keel.core.config import dump
from keel.serve.policy import frames
from keel.serve.policy.config import ServePolicyConfig
from keel.serve.policy.engine import RefusedError
from keel.serve.policy.frames import Row
from keel.serve.policy.requests import Asked, read_request
from keel.serve.policy.worker_settings import worker_settings
from keel.verbs.serve_policy.worker import make

CONFIG = ServePolicyConfig(model="fake", threads=1)


class Wire:
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []

    def send(self, said: Sequence[Mapping[str, Any]]) -> None:
        self.sent += said


class Loaded:
    """A worker in this process, and what it says to rows."""

    def __init__(self, model: str) -> None:
        self.wire = Wire()
        settings = worker_settings(model, CONFIG.queue, CONFIG.model_options, CONFIG.render, tools=CONFIG.tools, threads=CONFIG.threads)
        assert settings["model_options"] == dump(CONFIG.model_options)
        self.worker, self.about = make(settings, self.wire)  # type: ignore[arg-type]

    def say(self, *rows: Row) -> dict[str, Any]:
        """By row: its text, or ('refused' or 'error', why)."""
        self.wire.sent.clear()
        self.worker.turn([{"ask": frames.plain(row)} for row in rows])
        while not self.worker.idle:
            self.worker.turn([])
        said: dict[str, Any] = {}
        for frame in self.wire.sent:
            if "refused" in frame:
                said[frame["refused"]] = ("refused", frame["message"])
            elif frame["piece"].get("error"):
                said[frame["piece"]["name"]] = ("error", frame["piece"]["error"])
            else:
                name = frame["piece"]["name"]
                said[name] = said.get(name, "") + frame["piece"].get("text", "")
        return said

    def asked(self, content: Any, **more: Any) -> Asked:
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 4, **more}
        return read_request("chat", body, "fake", self.about, CONFIG.queue)

    def row(self, name: str, content: Any, **more: Any) -> Row:
        return Row(name, **{k: getattr(self.asked(content, **more).rows[0], k) for k in ("messages", "temperature", "max_tokens", "top")})


@pytest.fixture(scope="module")
def text() -> Loaded:
    return Loaded("tiny:llama?seed=1")


@pytest.fixture(scope="module")
def eyes() -> Loaded:
    return Loaded("tiny:llava?seed=1&std=0.3")


def test_a_request_that_breaks_leaves_the_others_their_answers(text: Loaded) -> None:
    good = text.row("good", "Hello")
    alone = text.say(good)
    broken = Row("broken", messages=({"role": "user", "content": "\ud800"},), max_tokens=4, temperature=0.0)
    assert text.say(broken, good) == {"broken": ("error", "it cannot be rendered (TypeError)"), **alone}


def picture(colour: str, size: int = 30) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}}


def question(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [*parts, {"type": "text", "text": "What colour?"}]


def first_logprob(loaded: Loaded, row: Row) -> float:
    loaded.say(row)
    return next(f["piece"]["tokens"][0]["logprob"] for f in loaded.wire.sent if f.get("piece", {}).get("tokens"))


def test_what_is_in_an_image_reaches_the_model(eyes: Loaded) -> None:
    assert eyes.about.images
    told = {c: first_logprob(eyes, eyes.row("r", question(picture(c)), logprobs=True)) for c in ("red", "blue", "#ff0000")}
    assert told["red"] == pytest.approx(told["#ff0000"], abs=1e-5)
    assert abs(told["red"] - told["blue"]) > 1e-3


def test_the_likeliest_token_is_drawn_at_temperature_0_and_its_log_probability_told(text: Loaded) -> None:
    """With no others asked for: both are zeros on their way."""
    for i in range(8):
        text.say(text.row("r", f"Question {i}", logprobs=True, seed=i))
        whole = [f["piece"] for f in text.wire.sent if f.get("piece", {}).get("tokens")]
        text.say(text.row("r", f"Question {i}", logprobs=True, top_logprobs=1, seed=i + 1))
        beside = [f["piece"] for f in text.wire.sent if f.get("piece", {}).get("tokens")]
        assert len(whole) == 4
        assert [p["ids"] for p in whole] == [p["ids"] for p in beside]
        assert all(t["logprob"] == t["top"][0][1] for p in beside for t in p["tokens"])


@pytest.mark.parametrize("data", ["AA", "", "!!!", base64.b64encode(b"\x89PNG\r\n\x1a\nbroken").decode()])
def test_what_is_no_image_is_refused_and_ends_nobody(eyes: Loaded, data: str) -> None:
    bad = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}
    said = eyes.say(eyes.row("bad", question(bad)), eyes.row("good", question(picture("red"))))
    assert said["bad"][0] == "refused", said["bad"]
    assert isinstance(said["good"], str)


def test_prompts_that_wait_are_bounded_by_their_tokens(text: Loaded) -> None:
    """A single one always has room; what has begun, and the probe of readiness, are never refused."""
    rows = [text.row(f"r{i}", "Hello " * 20) for i in range(3)]
    worker: Any = text.worker
    before, worker._waiting_tokens = worker._waiting_tokens, 1
    said = text.say(rows[0], rows[1], replace(rows[2], said=(5, 6)), Row("probe", prompt="Hello", max_tokens=1, probe=True))
    busy = [f for f in text.wire.sent if f.get("busy")]
    worker._waiting_tokens = before
    assert [f["refused"] for f in busy] == ["r1"]
    assert {name for name, one in said.items() if isinstance(one, str)} == {"r0", "r2", "probe"}


def test_images_go_when_no_answer_shows_them_any_more(eyes: Loaded) -> None:
    """However an answer ends: a server that has run for a month holds no more than one that has just begun."""
    images: Any = eyes.worker._renderer.images
    same = [eyes.row(name, question(picture("green"))) for name in ("a", "b")]
    eyes.worker.turn([{"ask": frames.plain(row)} for row in same])
    assert len(images.media) == 1
    eyes.worker.turn([{"cancel": "a"}])
    assert len(images.media) == 1
    eyes.worker.turn([{"cancel": "b"}])
    eyes.say(eyes.row("c", question(picture("red"))))
    assert len(images.media) == 0
    long = eyes.row("long", question(picture("blue"), {"type": "text", "text": "word " * 5000}))
    assert eyes.say(long)["long"][0] == "refused"
    assert (len(images.media), images._sources, images._expanded) == (0, {}, {})


class Here:
    """The worker as an engine of a front, in this process."""

    alive, restarts = True, 0

    def __init__(self, loaded: Loaded) -> None:
        self._loaded, self.about = loaded, loaded.about

    async def ask(self, row: Row) -> AsyncIterator[frames.Piece]:
        self._loaded.say(row)
        for frame in list(self._loaded.wire.sent):
            if "refused" in frame:
                raise RefusedError(frame["message"])
            yield frames.piece_from(frame["piece"])


def test_openai_s_client_sends_images_and_reads_what_was_seen(eyes: Loaded) -> None:
    openai = pytest.importorskip("openai")

    async def run() -> None:
        async with client_of(front_of(Here(eyes))) as there:  # type: ignore[arg-type]
            client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=there, max_retries=0)

            async def asked(*parts: dict[str, Any], **more: Any) -> Any:
                messages = [{"role": "user", "content": question(*parts)}]
                return await client.chat.completions.create(model="fake", messages=messages, temperature=0, max_tokens=4, **more)

            told = [
                (await asked(*parts, logprobs=True)).choices[0].logprobs.content[0].logprob
                for parts in ([picture("red")], [picture("blue")], [picture("red"), picture("blue")])
            ]
            assert min(abs(told[0] - told[1]), abs(told[0] - told[2])) > 1e-3
            whole, stream = await asked(picture("red")), await asked(picture("red"), stream=True)
            assert "".join([p.choices[0].delta.content or "" async for p in stream]) == whole.choices[0].message.content
            with pytest.raises(openai.BadRequestError, match="image"):
                await asked({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})

    finish(run())
