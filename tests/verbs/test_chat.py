"""`keel chat` in the terminal and in a browser: two models, blind, votes that are stored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
ROOT = Path(__file__).resolve().parents[2]
WAIT = 180.0
MODELS = ("tiny:llama?seed=1", "tiny:llama?seed=2")
SETTINGS = ("max_tokens=8", "threads=1")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "keel.cli", "chat", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_conversation_in_the_terminal_leaves_its_votes(tmp_path: Path) -> None:
    from keel.feedback.db import Store
    from keel.types import Choice

    store = f"sqlite:///{tmp_path / 'votes.db'}"
    said = "Hello?\n1\n你好\nx\nno vote\n\n/names\n/quit\n"
    words = command(*MODELS, *SETTINGS, f"store={store}", "--json")
    done = subprocess.run(words, input=said, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=WAIT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found["wins"]) == [0, 1]
    assert (found["both_bad"], found["models"]) == (1, list(MODELS))
    first = done.stdout.index(MODELS[0])
    assert done.stdout.index("[1]") < first, "no name before the end"
    with Store(store) as opened:
        votes = opened.judgements("chat-votes")
        assert [v.answer.chosen for v in votes if isinstance(v.answer, Choice)][1] == "both_bad"
        task = opened.task(votes[0].task_id)
        assert [c.origin["model"] for c in task.candidates] == list(MODELS)
        won = {"first": 0, "second": 1}[votes[0].answer.chosen]  # type: ignore[union-attr]
        assert votes[0].display_order[0] == won, "the left one was chosen"
        assert found["wins"][won] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((MODELS[0], "store=sqlite:///x.db"), "store would have no effect"),
        ((*MODELS, MODELS[0]), "models"),
        (("no/such/folder",), "no/such/folder"),
        ((MODELS[0], "temprature=1"), "temprature"),
        (("http://127.0.0.1:1",), "which model"),
    ],
)
def test_a_mistake_is_one_message(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(command(*words), input="", capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=WAIT)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert said in done.stderr


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    words = command(*MODELS, *SETTINGS, "--page", "--port", "0", "--no-browser", f"store=sqlite:///{tmp_path / 'votes.db'}")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment())
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
    tab.wait_for_function("document.querySelectorAll('fieldset.votes').length === 2")
    tab.click("#reveal")
    names = tab.locator("#names")
    names.wait_for()
    assert all(model in names.inner_text() for model in MODELS)
    tab.goto(page + "?lang=zh")
    assert tab.locator("#send").inner_text() == "提问"
    assert trouble == []
    context.close()
