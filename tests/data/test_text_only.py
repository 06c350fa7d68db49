from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig, WithoutImageConfig
from keel.data.dataset import load
from keel.data.text_only import ANSWERS, with_questions_alone
from keel.types import Demonstration, ImagePart, Message, Pair, Prompt, TextPart


def demo(n: int, question: str | None = None, image: bool = True) -> Demonstration:
    words = TextPart(question if question is not None else f"What is in picture {n}?")
    content: Any = (ImagePart(f"{n}.png"), words) if image else words.text
    prompt = Prompt(f"p{n}", (Message("user", content),), source_id=f"f:{n}", meta={"ground_truth": "cat", "topic": "x"})
    return Demonstration(f"r{n}", prompt, (Message("assistant", "A cat."),))


def added(records: Any, share: float = 0.5, seed: int = 0, **config: Any) -> list[Any]:
    found, n = with_questions_alone(records, WithoutImageConfig(share=share, **config), seed, "here")
    new: list[Any] = [r for r in found if not isinstance(r, Prompt) and r.record_id.endswith("~no_image")]
    assert len(new) == n == len(found) - len(records)
    return new


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (0.1, 2), (0.5, 10), (1.0, 20)])
def test_a_share_of_the_rows_with_images(share, n):
    records = [*(demo(i) for i in range(20)), *(demo(i, image=False) for i in range(100, 110))]
    assert len(added(records, share)) == n


def test_the_question_stays_and_the_image_and_the_truth_go():
    record = demo(1)
    found, _ = with_questions_alone([demo(0, image=False), record, demo(2, image=False)], WithoutImageConfig(share=1.0), 0, "here")
    new = found[2]  # behind the record that it was made of
    assert found[1] is record
    assert isinstance(new, Demonstration)
    assert new.prompt.messages == (Message("user", "What is in picture 1?"),)
    assert new.completion[0].text in ANSWERS[:3]
    assert new.prompt.meta == {"topic": "x", "without_image": True}
    assert new.prompt.prompt_id != record.prompt.prompt_id
    assert new.prompt.source_id == "f:1"


def test_the_answer_is_in_the_language_of_the_question():
    assert added([demo(1, "图里有什么动物？")], 1.0)[0].completion[0].text in ANSWERS[3:]
    own = ["No picture.", "没有图。"]
    assert added([demo(1, "图里有什么动物？")], 1.0, answers=own)[0].completion[0].text == "没有图。"
    assert added([demo(1)], 1.0, answers=own)[0].completion[0].text == "No picture."
    assert added([demo(1)], 1.0, answers=["没有图。"])[0].completion[0].text == "没有图。"  # there is no other


def test_what_is_drawn_does_not_depend_on_the_order_of_the_rows():
    records = [demo(i) for i in range(40)]
    want = sorted((r.record_id, r.completion[0].text) for r in added(records, 0.3))
    for seed in range(3):
        shuffled = random.Random(seed).sample(records, len(records))
        assert sorted((r.record_id, r.completion[0].text) for r in added(shuffled, 0.3)) == want
    assert sorted((r.record_id, r.completion[0].text) for r in added(records, 0.3, seed=1)) != want
    assert {r.record_id for r in added(records, 0.3)} <= {r.record_id for r in added(records, 0.6)}  # a larger share adds to a smaller


def test_one_question_is_asked_once_and_a_picture_alone_never():
    same = [demo(i, "What colour is it?") for i in range(10)]
    (one,) = added([*same, demo(99, " ")], 1.0)
    assert [r.record_id for r in added(same[::-1], 1.0)] == [one.record_id]  # of the same row, whatever the order


def test_of_a_pair_the_answer_that_saw_the_image_becomes_the_worse_one():
    prompt = demo(1).prompt
    pair = Pair("x", prompt, (Message("assistant", "A cat."),), (Message("assistant", "A dog."),), margin=2.0, weight=0.5)
    (new,) = added([pair], 1.0)
    assert new.chosen[0].text in ANSWERS
    assert (new.rejected[0].text, new.margin, new.label, new.weight) == ("A cat.", 0.0, 1.0, 0.5)


def test_records_without_an_answer_or_without_images_are_refused():
    with pytest.raises(DataError, match="prompt records"):
        added([demo(1).prompt], 1.0)
    with pytest.raises(DataError, match="shows no images"):
        added([demo(1, image=False)], 1.0)
    with pytest.raises(ValueError, match="must say something"):
        WithoutImageConfig(answers=[" "])


def test_the_setting_is_followed_and_counted(tmp_path):
    lines = [f'{{"image": "{i}.png", "caption": "c{i}", "id": "{i}"}}' for i in range(4)]
    lines += [f'{{"image": "{i}.png", "caption": "图{i}", "id": "{i}"}}' for i in range(4, 6)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    path = str(tmp_path / "a.jsonl")
    plain = load(DataConfig(path=path))
    found = load(DataConfig(path=path, without_image=WithoutImageConfig(share=0.5)))
    assert (found.counts["records"], found.counts["without_image"]) == (8, 2)  # three asked for, two different questions
    assert [r for r in found.records if "~no_image" not in r.record_id] == list(plain.records)  # type: ignore[union-attr]
    assert "without_image" not in plain.counts
    assert replace(plain, counts=found.counts, records=found.records) == found
    sides = found.split_by_prompt(0.5)
    assert sum(side.counts["without_image"] for side in sides) == 2  # each side counts its own
