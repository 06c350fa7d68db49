"""What conversations came to, by hand."""

from __future__ import annotations

import json

import pytest
import torch

from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.conversations import changes, measured, worth
from keel.types import Conversation, Encoded, Group, Message, Prompt, Rollout, messages_told


def group(name: str, *talks: Conversation | None) -> Group:
    """A prompt's conversations; None: one that failed."""
    one_T = torch.ones(1, dtype=torch.int64)
    rollouts = tuple(
        Rollout(name, 0, i, one_T, one_T.bool(), one_T.float(), one_T, "error" if talk is None else "stop", conversation=talk)
        for i, talk in enumerate(talks)
    )
    valid = torch.tensor([talk is not None for talk in talks])
    return Group(Prompt(name), Encoded(one_T), rollouts, torch.zeros(len(talks)), {}, valid)


def talk(*rewards: float | None, whole: float | None = None, ended: str = "done", calls: int = 0, bad: int = 0) -> Conversation:
    said = tuple(m for _ in rewards for m in (Message("assistant", "a"), Message("user", "u")))
    return Conversation(said, rewards, whole, {}, ended, calls, bad)  # type: ignore[arg-type]


HELD = (
    group("p", talk(0.0, 1.0, calls=3, bad=1), talk(-0.5, ended="turns")),
    group("q", talk(None, None, None, whole=0.5), None),
    group("r", talk(None, ended="tokens"), talk(None, None)),  # cut before the world was asked: 0; and one that it gave nothing for
)


def test_measures_by_hand() -> None:
    assert worth(HELD) == {"p": [1.0, -0.5], "q": [0.5], "r": [0.0]}
    found = measured(HELD, 0.0, 0.95)
    assert (found["conversations"], found["failed"], found["calls"], found["bad_calls"]) == (5, 1, 3, 1)
    assert found["success"]["mean"] == pytest.approx(2 / 4)
    assert found["reward"]["mean"] == pytest.approx(1.0 / 4)
    assert found["turns"] == {"mean": pytest.approx(9 / 5), "max": 3}
    assert found["cut"] == {"turns": pytest.approx(0.2), "tokens": pytest.approx(0.2), "answer": 0.0}
    assert measured(HELD, 0.5, 0.95)["success"]["mean"] == pytest.approx(1 / 4)
    assert found["success"]["low"] < 0.5 < found["success"]["high"]


def test_changes_are_paired_by_prompt() -> None:
    better = (group("p", talk(1.0)), group("q", talk(0.75)), group("s", talk(9.0)))
    found = changes(HELD, better, 0.0, 0.95)
    assert found["reward"]["mean"] == pytest.approx(((1.0 - 0.25) + (0.75 - 0.5)) / 2)
    assert found["success"]["mean"] == pytest.approx((0.5 + 0.0) / 2)
    assert changes(HELD, better[2:], 0.0, 0.95) == {}


def test_nothing_held_is_no_zero() -> None:
    found = measured((group("p", None),), 0.0, 0.95)
    assert found["failed"] == 1
    assert not {"success", "reward", "turns"} & found.keys()


def test_turns_are_kept_with_the_answers() -> None:
    call = {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"n": 5}}}]}
    said = (Message("assistant", "", call), Message("tool", "5", {"name": "add"}), Message("assistant", "last"))
    turns = tuple(Conversation(said, (None, 1.0)).told())
    answer = Answer("last", rules={"environment": 1.0}, tokens=4, turns=turns)
    row = PromptAnswers("p", "Say.", (answer,), (Answer("plain"),))
    assert PromptAnswers.from_row(json.loads(json.dumps(row.to_row()))) == row
    assert messages_told(answer.turns) == said
    assert answer.shown == 'assistant: add({"n": 5})\ntool: 5\nassistant: last'
    assert row.after[0].shown == "plain"
    older = {"prompt_id": "p", "prompt": "Say.", "after": [{"text": "last", "turns": [["assistant", "first"], ["user", "go on"]]}]}
    assert PromptAnswers.from_row(older).after[0].shown == "assistant: first\nuser: go on"
