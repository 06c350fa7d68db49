"""The report of diversity, counted by hand."""

from __future__ import annotations

import pytest

from keel.feedback.diversity import diversity, spread
from keel.types import Candidate, Prompt, Task


def task(name: str, asked: str, answers: list[Candidate], **meta: object) -> Task:
    return Task(name, Prompt(name, text=asked, meta=meta), tuple(answers), "ranking", "ranking-v1")


def test_counts_by_hand() -> None:
    tasks = [
        task("a", "one two", [Candidate("1", "x y", {"source": "hot"}), Candidate("2", "x z", {"source": "hot"})], category="k", level=1),
        task("b", "你好吗", [Candidate("3", "好", {"source": "negative", "negative": "truncated"})], category="m", level=2),
        task("c", "a b c d e f g", [Candidate("4", "p q r s", {"model": "m1", "error_types": ["object", "count"]})], category="k"),
    ]
    found = diversity([*tasks, tasks[0]])  # an answer in two tasks counts once
    assert (found["prompts"], found["tasks"], found["answers"]) == (3, 4, 4)
    assert found["tasks_by_kind"] == {"k": 2, "m": 1}
    assert found["languages"] == {"prompts": {"en": 2, "zh": 1}, "answers": {"en": 3, "zh": 1}}
    assert found["sources"] == {"hot": 2, "negative": 1, "m1": 1}
    assert found["errors"] == {"planted": {"truncated": 1}, "by_data": {"object": 1, "count": 1}}
    assert found["difficulty"]["by_data"] == {"1": 1, "2": 1, "(none)": 1}
    assert found["difficulty"]["words_by_third"] == [2.0, 1.0, 4.0]
    assert found["words"]["prompts"]["half"] == 3.0
    # of "x y" and "x z": x in common of x, y, z, xy, xz
    assert found["distance"] == pytest.approx(1 - 1 / 5)
    assert found["answers_a_prompt"] == {"1": 2, "2": 1}


def test_nothing_is_said_of_what_is_not_there() -> None:
    found = diversity([task("a", "q", [Candidate("1", "x")])])
    assert found["tasks_by_kind"] == found["difficulty"]["by_data"] == found["errors"]["by_data"] == {}
    assert found["distance"] is None
    assert found["difficulty"]["words_by_third"] == []
    assert spread([]) == {}
    assert spread([1, 2, 3, 4, 5])["quarter"] == 2.0
