"""Workers that end, hang, never start: processes without models, so that only what the engine does is looked at."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fakes import finish, front_of, until

from keel.core.errors import ModelError
from keel.serve.policy.config import ProbeConfig, RowsConfig
from keel.serve.policy.engine import GoneError, ProcessEngine
from keel.serve.policy.frames import Piece, Row
from keel.serve.policy.metrics import Metrics
from keel.serve.policy.router import Router

WORKER = [sys.executable, "-S", str(Path(__file__).with_name("worker_without_model.py"))]


def run(test: Callable[[ProcessEngine], Awaitable[None]], probe: ProbeConfig | None = None, **settings: object) -> None:
    async def main() -> None:
        engine = ProcessEngine({"model": "m", **settings}, probe or ProbeConfig(restart_s=0.01), WORKER)
        await engine.start()
        try:
            await test(engine)
        finally:
            await engine.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)

    finish(main())


async def said(engine: ProcessEngine, prompt: str, name: str = "r") -> str:
    return "".join([p.text async for p in engine.ask(Row(name, prompt=prompt, max_tokens=4))])


def router_of(engine: ProcessEngine, **probe: float) -> Router:
    return Router({"stable": engine}, RowsConfig(), ProbeConfig(restart_s=0.01, **probe), Metrics())  # type: ignore[arg-type]


def test_a_worker_that_ends_is_started_again() -> None:
    async def test(engine: ProcessEngine) -> None:
        assert await said(engine, "hello") == "abcd"
        first = engine.pid
        with pytest.raises(GoneError):
            await said(engine, "die")
        await until(lambda: engine.alive)
        assert (await said(engine, "hello"), engine.restarts) == ("abcd", 1)
        assert engine.pid != first

    run(test)


def test_an_answer_goes_on_behind_what_was_said_when_its_worker_was_killed() -> None:
    async def test(engine: ProcessEngine) -> None:
        pieces: list[Piece] = [p async for p in router_of(engine).draw(Row("r", prompt="die", max_tokens=4), "stable")]
        assert "".join(p.text for p in pieces) == "abcd"
        assert [p.ids for p in pieces] == [(), (0,), (1,), (2,), (3,)]
        assert engine.restarts == 1

    run(test)


def test_a_stuck_worker_is_not_ready_and_is_ended() -> None:
    async def test(engine: ProcessEngine) -> None:
        os.kill(engine.pid, signal.SIGSTOP)
        router = router_of(engine, ready_s=0.1)
        assert "no token came" in await router.ready()
        hanging = asyncio.create_task(said(engine, "hello"))
        with pytest.raises(GoneError):
            await hanging
        await until(lambda: engine.alive)
        assert await said(engine, "hello") == "abcd"

    run(test, ProbeConfig(restart_s=0.01, stuck_s=0.3))


def test_a_dead_worker_is_not_ready_and_is_when_it_is_back() -> None:
    async def test(engine: ProcessEngine) -> None:
        router = router_of(engine)
        assert await router.ready() == ""
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda: not engine.alive)
        router = router_of(engine)
        if not engine.alive:
            assert await router.ready() != "" or engine.alive
        await until(lambda: engine.alive)
        assert await router_of(engine).ready() == ""

    run(test)


def test_a_worker_that_cannot_start_says_why() -> None:
    async def main() -> None:
        engine = ProcessEngine({"model": "m", "fails": True}, ProbeConfig(), WORKER)
        with pytest.raises(ModelError, match="no such model"):
            await engine.start()

    finish(main())


def test_a_worker_that_hangs_while_it_loads_is_ended_and_named() -> None:
    async def main() -> None:
        engine = ProcessEngine({"model": "m-17", "hangs": True}, ProbeConfig(load_s=0.2), WORKER)
        with pytest.raises(ModelError, match=r"worker of m-17 \(process \d+\).* 0.2 s") as hung:
            await asyncio.wait_for(engine.start(), 60)
        assert "probe.load_s" in hung.value.hint
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)
        assert not engine.alive

    finish(main())


def test_a_request_that_kills_its_worker_is_not_tried_for_ever() -> None:
    async def main() -> None:
        from fakes import FakeEngine, chat, client_of

        class Deadly(FakeEngine):
            async def ask(self, row):
                self.asked.append(row)
                raise GoneError
                yield

        engine = Deadly()
        front = front_of(engine, probe={"moves": 2})
        async with client_of(front) as client:
            answer = await client.post("/v1/chat/completions", json=chat())
        assert (answer.status_code, len(engine.asked)) == (503, 3)

    finish(main())


def test_a_front_starts_without_torch() -> None:
    """It holds no model, and is there in a second."""
    rooms = ("serve.policy.app", "serve.policy.server", "serve.policy.chat_app", "verbs.serve_policy.run", "verbs.serve_policy.build")
    rooms += ("verbs.chat.run", "verbs.shared.user_votes", "verbs.drift.run")
    heavy = "{'torch', 'transformers', 'PIL'} & set(sys.modules)"
    lines = ["import sys", *(f"import keel.{room}" for room in rooms), f"assert not {heavy}, {heavy}"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=300)
