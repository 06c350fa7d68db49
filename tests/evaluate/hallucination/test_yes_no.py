"""Yes, no or neither, as people read it and as POPE's script reads it."""

from __future__ import annotations

import pytest

from keel.evaluate.hallucination.yes_no import original_says_no, says_yes


@pytest.mark.parametrize(
    "answer",
    [
        "Yes", "yes.", "Yes, there is a dog in the image.", "**Yes**",
        "There is a dog on the sofa.", "The dog is brown.", "The answer is yes.",
        "<think>no, wait</think>Yes.", "是的，图中有一只狗。", "有一只狗。",
        "对", "I can see a dog.", "Yes. No cat is there.", "答案是：是",
        "Yes, I'm sure.", "True",
    ],
)  # fmt: skip
def test_yes(answer: str) -> None:
    assert says_yes(answer) is True


@pytest.mark.parametrize(
    "answer",
    [
        "No", "NO", "no\n", "No!", "No, there is no dog.", "There is no dog.",
        "There isn't a dog in the image.", "Not that I can see.", "None",
        "The image does not show a dog.", "不是", "没有狗。", "图中没有狗。",
        "否", "The answer is no.", "**No**, it is a cat.", "False", "不，没有。",
    ],
)  # fmt: skip
def test_no(answer: str) -> None:
    assert says_yes(answer) is False


@pytest.mark.parametrize(
    "answer",
    [
        "", " ", "I cannot tell.", "I'm not sure whether there is a dog.",
        "Yes or no", "yes/no", "It is unclear.", "I'm sorry, I can't see images.",
        "无法确定", "不确定", "看不清", "<think>yes", "dog", "It may be a dog.", "I don't know.", "Yes or no? It is hard to tell.",
    ],
)  # fmt: skip
def test_neither(answer: str) -> None:
    assert says_yes(answer) is None


@pytest.mark.parametrize("answer", ["No", "no", "There is no dog.", "not", "No, it is.", "It is, no"])
def test_the_script_reads_no(answer: str) -> None:
    assert original_says_no(answer)


@pytest.mark.parametrize("answer", ["", "NO", "No!", "no\n", "Not at all", "There isn't one.", "None", "Sure. No dog.", "I cannot tell"])
def test_the_script_reads_all_else_as_yes(answer: str) -> None:
    assert not original_says_no(answer)
