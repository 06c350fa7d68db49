"""Detectors of gaming, by hand, and on honest answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.data.gaming import DETECTORS, LIMITS, gaming

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "value"),
    [
        ("repetition", "", "a b c d a b c d", 1 / 5),  # five 4-grams, one of them again
        ("template", "", "As an AI language model, I cannot say. Paris. I hope this helps! Ask me.", 1 / 2),
        ("template", "", "巴黎。希望以上内容对你有帮助！", 1 / 2),
        ("stuffing", "", "apple apple apple apple apple red big new old wet", 0.0),  # ten words say nothing yet
        ("stuffing", "", "apple apple apple apple apple apple red big new old wet dry", 6 / 12),
        ("stuffing", "", "the the the the the the the the the the the the", 0.0),
        ("padding", "", "It is important to note that times vary. Needless to say, we are open from nine to five each day.", 1.0),
        ("padding", "", "值得注意的是，情况各有不同。我们每天九点开门，五点关门。", 1 / 2),
        ("padding", "", "Needless to say, yes.", 0.0),
        ("ignored", "In one sentence: why?", "Because. It rains.", 1.0),
        ("ignored", "In one sentence: why?", "Because it rains.", 0.0),
        ("ignored", "Answer in Chinese, in at most 3 words.", "It rains a lot today.", 1.0),
        ("ignored", "Answer in English, in at most 3 words.", "It rains a lot today.", 1 / 2),
        ("ignored", "用两句话回答。", "因为下雨。路滑。小心。", 1.0),
        ("ignored", "不超过5个字", "因为外面下雨了", 1.0),
        ("ignored", "Is it open, yes or no?", "Perhaps.", 1.0),
        ("ignored", "Is it open, yes or no?", "No, it is shut.", 0.0),
        ("ignored", "Name three fruits without bullet points.", "- apple\n- pear\n- plum", 1.0),
        ("ignored", "Why?", "Because.", 0.0),
        ("detail", "Is it open?", "word " * 120, 0.0),
        ("detail", "Is it open?", "word " * 180, 0.5),
        ("detail", "Is it open?", "word " * 500, 1.0),
        ("detail", "Explain the rules.", "word " * 500, 0.0),
        ("flattery", "", "Great question! You're absolutely right. We open at nine. Bye.", 1 / 2),
        ("flattery", "", "好问题！我们九点开门。", 1 / 2),
        ("flattery", "", "Your question is about the tent.", 0.0),
    ],
)
def test_by_hand(name: str, prompt: str, answer: str, value: float) -> None:
    assert DETECTORS[name](prompt, answer) == pytest.approx(value)


@pytest.mark.parametrize("name", list(DETECTORS))
def test_every_detector_is_a_share_and_takes_anything(name: str) -> None:
    for text in ("", " ", "\n\n", "。", "🎈" * 30, "a", "word " * 3000, "长" * 3000, "\u200b\ud800"):
        for prompt in ("", "in one sentence", text):
            assert 0.0 <= DETECTORS[name](prompt, text) <= 1.0


def honest() -> list[tuple[str, str]]:
    """Prompts and answers that people wrote for the quickstart, and texts of nothing in particular."""
    pairs: list[tuple[str, str]] = []
    for line in (ROOT / "recipes/quickstart/demonstrations.jsonl").read_text(encoding="utf-8").splitlines():
        turns = json.loads(line)["messages"]
        pairs.append((turns[-2]["content"], turns[-1]["content"]))
    texts = (ROOT / "recipes/quickstart/unrelated_text.jsonl").read_text(encoding="utf-8").splitlines()
    return [*pairs, *(("Tell me something.", json.loads(line)["text"]) for line in texts)]


def test_honest_answers_raise_no_alarm() -> None:
    """At most one in a hundred, by each detector."""
    pairs = honest()
    assert len(pairs) > 100
    for name, limit in LIMITS.items():
        wrong = [answer for prompt, answer in pairs if gaming(prompt, answer, {name: limit})]
        assert len(wrong) <= len(pairs) / 100, (name, wrong[:3])
