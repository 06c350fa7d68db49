"""`keel chat` in the terminal and in a browser: two models, blind, votes that are stored."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.feedback.db import Store
from keel.serve.policy.frames import Piece, Row
from keel.types import Choice

pytest.importorskip("starlette", reason="the extra serve is not installed")
ROOT = Path(__file__).resolve().parents[2]
WAIT = 600.0  # a bound for what hangs
MODELS = ("tiny:llama?seed=1", "tiny:llama?seed=2")


def command(words: list[str]) -> int:
    """The exit code of a command, in a thread of its own: a browser of another test may have a loop in this one."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(main, words).result()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Models that are not loaded: each says its name's words. What the settings ask for is written down."""
    from keel.serve.policy.frames import About
    from keel.verbs.chat import run

    asked: list[Any] = []

    class Engine:
        alive, restarts = True, 0

        def __init__(self, model: str) -> None:
            self.about = About(model, "t")

        async def start(self) -> None: ...

        async def stop(self) -> None: ...

        async def ask(self, row: Row) -> AsyncIterator[Piece]:
            asked.append(row)
            yield Piece(row.name, prompt_tokens=1)
            yield Piece(row.name, (0,), "\x1b[2J" + self.about.model.upper(), end="stop")

    monkeypatch.setattr(run, "engine_of", lambda config, model: Engine(model))
    return asked


def test_a_conversation_in_the_terminal_leaves_its_votes(
    tmp_path: Path, scripted: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{tmp_path / 'votes.db'}"
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello?\n1\n你好\nx\nno vote\n\n/new\nAgain\n\n/quit\n"))
    assert command(["chat", "model-a", "model-b", f"store={store}", "temperature=0.5", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert sorted(found["wins"]) == [0, 1]
    assert (found["both_bad"], found["models"]) == (1, ["model-a", "model-b"])
    assert out.index("[1]") < out.index("model-a"), "no name before the end"
    assert "\x1b" not in out, "what a model writes does not steer the terminal"
    turns = [len(row.messages) for row in scripted]
    assert turns == [1, 1, 3, 3, 5, 5, 1, 1]
    assert {row.temperature for row in scripted} == {0.5}
    with Store(store) as opened:
        votes = opened.judgements("chat-votes")
        assert [v.answer.chosen for v in votes if isinstance(v.answer, Choice)][1] == "both_bad"
        task = opened.task(votes[0].task_id)
        assert [c.origin["model"] for c in task.candidates] == ["model-a", "model-b"]
        won = {"first": 0, "second": 1}[votes[0].answer.chosen]  # type: ignore[union-attr]
        assert votes[0].display_order[0] == won, "the left one was chosen"
        assert found["wins"][won] == 1


def test_one_model_streams(scripted: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello?\n"))
    assert command(["chat", "tiny:llama?seed=1", "max_tokens=8"]) == 0
    assert "TINY:LLAMA?SEED=1" in capsys.readouterr().out
    assert scripted[0].max_tokens == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((MODELS[0], "store=sqlite:///x.db"), "store would have no effect"),
        ((*MODELS, MODELS[0]), "models"),
        ((MODELS[0], "temprature=1"), "temprature"),
        (("http://127.0.0.1:1",), "which model"),
        (("http://127.0.0.1:1#m", "system=Be brief."), "would have no effect on http://127.0.0.1:1#m"),
    ],
)
def test_a_mistake_is_one_message(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["chat", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    words = [sys.executable, "-m", "keel.cli", "chat", *MODELS, "max_tokens=8", "threads=1", "--page", "--port", "0", "--no-browser"]
    words.append(f"store=sqlite:///{tmp_path / 'votes.db'}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("chat: http://127.0.0.1:"), line
    yield line.removeprefix("chat: ").strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT) == 0


def test_the_page_asks_both_takes_a_vote_and_tells_the_names_when_it_is_asked(page: str, browser: Any, tmp_path: Path) -> None:
    context = browser.new_context(locale="en-GB")
    tab = context.new_page()
    tab.set_default_timeout(WAIT * 1000)
    trouble: list[str] = []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.goto(page)
    assert MODELS[0] not in tab.content()
    tab.fill("#question", "<img src=x onerror=\"document.title='owned'\"> Hello?")
    tab.press("#question", "Enter")
    tab.wait_for_selector("[data-vote=right]")
    assert all(text.strip() for text in tab.locator(".words").all_inner_texts())
    assert "owned" not in tab.title()
    assert tab.locator(".question").inner_text().startswith("<img")
    tab.click("[data-vote=right]")
    tab.get_by_text("Your vote is stored.").wait_for()
    assert tab.locator("[data-vote=right]").get_attribute("aria-pressed") == "true"
    tab.fill("#question", "And then?")
    tab.click("#send")
    tab.locator("fieldset.votes").nth(1).wait_for()
    tab.click("#reveal")
    names = tab.locator("#names")
    names.wait_for()
    assert all(model in names.inner_text() for model in MODELS)
    tab.goto(page + "?lang=zh")
    assert tab.locator("#send").inner_text() == "提问"
    assert trouble == []
    context.close()
