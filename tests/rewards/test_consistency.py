"""An answer held against a reference: hand-computed numbers, what is a failure, and the sum with what a picture says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import checked
from keel.core.errors import ConfigError
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.detectors.words import WordsConfig, by_words, of_row
from keel.rewards.sources.hallucination import HallucinationReward, HallucinationSource
from keel.rewards.text import TextSource
from keel.rewards.verifiers.consistency import ConsistencyReward, consistency, content_words, cosine, f_measure
from keel.types import Encoded, Prompt, Rollout, empty_group


@pytest.fixture
def words(tmp_path: Path) -> WordsConfig:
    (tmp_path / "objects.txt").write_text("dog, 狗\ncat, 猫\nball\n", encoding="utf-8")
    return WordsConfig(objects=str(tmp_path / "objects.txt"))


def row(reference: Any = "a dog and a ball", objects: Any = ("dog", "ball")) -> Prompt:
    return Prompt("p", text="?", meta={"reference": reference, "objects": list(objects)})


def test_parts_by_hand() -> None:
    assert content_words("The dogs and a dog, 两只狗的") == {"dog": 2, "两": 1, "只": 1, "狗": 1}
    assert cosine({"dog": 2, "cat": 1}, {"dog": 1}) == pytest.approx(2 / math.sqrt(5))
    assert cosine({}, {"dog": 1}) == 0.0
    assert f_measure({"dog"}, {"dog", "ball", "cat"}) == pytest.approx(0.5)
    assert f_measure((), ()) == 1.0
    assert f_measure({"dog"}, ()) == 0.0


def test_the_weighted_mean_by_hand(words: WordsConfig) -> None:
    judge = consistency(ConsistencyReward(name="c", words=words))
    assert judge(row(), "A ball and a dog.") == pytest.approx(1.0)
    assert judge(row(), "a dog") == pytest.approx(0.6 / math.sqrt(2) + 0.4 * 2 / 3)
    assert judge(row(), "a dog and a cat") == pytest.approx(0.6 * 0.5 + 0.4 * 0.5)
    assert judge(row(), "") == 0.0  # silence tells nothing
    assert judge(row(["a cat", "a dog and a ball"]), "dog, ball") == pytest.approx(1.0)  # the nearest reference
    assert judge(row("狗和猫", ("狗", "猫")), "猫和狗") == pytest.approx(1.0)


def test_one_sure_object_is_not_the_best_answer(words: WordsConfig) -> None:
    judge = consistency(ConsistencyReward(name="c", words=words, cosine=0))
    assert judge(row(), "a dog") < judge(row(), "a dog, a ball and a cat") < judge(row(), "a dog and a ball")


def test_what_cannot_be_compared_is_a_failure(words: WordsConfig, tmp_path: Path) -> None:
    judge = consistency(ConsistencyReward(name="c", words=words))
    for prompt, told in (
        (row(None), "no reference in 'reference'"),
        (Prompt("p", text="?", meta={"reference": "x"}), "no list of objects"),
    ):
        score = judge(prompt, "a dog")
        assert math.isnan(score)
        assert told in score.error  # type: ignore[attr-defined]
    (tmp_path / "mine.py").write_text("def half(prompt, text):\n    return 0.5\n\ndef far(prompt, text):\n    return 7\n")
    half = consistency(ConsistencyReward(name="c", words=words, similarity=f"{tmp_path}/mine.py:half"))
    assert half(row(None), "a dog and a ball") == pytest.approx(0.6 * 0.5 + 0.4)
    far = consistency(ConsistencyReward(name="c", words=words, similarity=f"{tmp_path}/mine.py:far"))
    assert "not in [-1, 1]" in far(row(), "a dog").error  # type: ignore[attr-defined]
    for given in ({}, {"words": {}}, {"words": words, "cosine": 0, "entities": 0}, {"words": words, "similarity": "x.py:f", "truth": "t"}):
        with pytest.raises(ConfigError):
            checked(ConsistencyReward, {"name": "c", **given})


def test_a_reward_of_the_text_and_one_of_the_picture_are_one_sum(words: WordsConfig) -> None:
    """0.3 of a text's reward and 0.7 of what the picture says, whose errors stay due at their tokens."""
    pieces = ["", "a", " dog", " cat", "."]

    def decode(tokens_T: torch.Tensor) -> str:
        return "".join(pieces[int(t)] for t in tokens_T)

    def rollout(*ids: int) -> Rollout:
        tokens_T, n = torch.tensor(ids), len(ids)
        return Rollout(
            "p", 0, 0, tokens_T, torch.ones(n, dtype=torch.bool), torch.zeros(n), torch.zeros(n).long(), "stop", decode(tokens_T)
        )

    text = TextSource("text", consistency(ConsistencyReward(name="text", words=words)))
    picture = HallucinationReward(name="picture", detector="truth", words=words)
    seen = HallucinationSource("picture", picture, by_words(words, of_row("objects")), decode)
    group = empty_group(row("a dog", ("dog",)), Encoded(torch.tensor([1])), [rollout(1, 2), rollout(1, 3, 4)])
    (scored,) = apply_rewards((group,), (Reward(text, 0.3), Reward(seen, 0.7)))
    assert scored.rewards_G.tolist() == pytest.approx([0.3 + 0.7, 0.3 * 0 + 0.7 * -2.0])
    assert scored.parts["text"].tolist() == pytest.approx([1.0, 0.0])
    assert scored.parts["picture"].tolist() == pytest.approx([1.0, -2.0])
    assert scored.moved[1].tolist() == pytest.approx([0.0, -1.4, 1.4])
