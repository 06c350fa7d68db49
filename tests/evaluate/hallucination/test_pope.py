"""POPE: the published script's numbers, and what mode fixed mends."""

from __future__ import annotations

from typing import Any

import pytest

from keel.core.errors import DataError
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.pope import original, run
from keel.evaluate.hallucination.result import Result, to_json

LABELS = ["yes", "no", "yes", "no"]


def measured(write: Any, answers: list[Any], labels: list[Any], **settings: Any) -> Result:
    files = {"file": write("answers.jsonl", answers), "truth": write("labels.jsonl", labels)}
    return run(HallucinationConfig(measure="pope", draws=100, **files, **settings))


def rows(answers: list[str | None]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    labels = [{"question_id": i, "image": f"{i}.jpg", "text": f"Is there a {i}?", "label": x} for i, x in enumerate(LABELS)]
    return [{"question_id": i, "answer": a} for i, a in enumerate(answers) if a is not None], labels


def rate(result: Result, name: str) -> float | None:
    value = to_json(result)["rates"][name]
    return None if value is None else value["mean"]


def test_numbers_of_the_script() -> None:
    """yes/yes TP, "NO" to no FP, no/yes FN, no/no TN."""
    found = original(["Yes.", "NO", "There is no dog. Yes", "no, none"], LABELS)
    assert found == {
        "TP": 1, "FP": 1, "TN": 1, "FN": 1, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5,
    }  # fmt: skip


def test_the_script_pairs_by_order_and_cuts() -> None:
    """The rate of yes counts the answer that has no label; a label other than no is yes."""
    found = original(["yes", "no", "yes"], ["No", "no"])
    assert (found["TP"], found["TN"], found["FP"], found["FN"]) == (1, 1, 0, 0)
    assert found["yes_ratio"] == pytest.approx(2 / 3)


def test_what_the_script_cannot_divide_is_none() -> None:
    found = original(["no", "no"], ["no", "no"])
    assert (found["precision"], found["recall"], found["f1"], found["accuracy"]) == (None, None, None, 1.0)


def test_original_mode_says_what_was_cut(write: Any) -> None:
    answers, labels = rows(["yes", "no", "yes", "no"])
    result = measured(write, answers, labels[:3], mode="original")
    assert result.counts == {"answers": 4, "labels": 3, "paired": 3}
    assert result.printed["accuracy"] == 1.0
    assert "1 answers or labels" in result.notes[0]


def test_no_answer_is_yes_in_the_script_and_wrong_in_mode_fixed(write: Any) -> None:
    """Answers: a true yes, a true no, nothing, nothing. The script sees three yes."""
    answers, labels = rows(["Yes", "No.", "", ""])
    before = measured(write, answers, labels, mode="original").printed
    assert (before["TP"], before["FP"], before["TN"], before["FN"]) == (2, 1, 1, 0)
    after = measured(write, answers, labels)
    assert rate(after, "accuracy") == 0.5
    assert rate(after, "precision") == 1.0
    assert rate(after, "recall") == 0.5
    assert rate(after, "f1") == pytest.approx(2 / 3)
    assert rate(after, "yes_rate") == 0.5
    assert rate(after, "hallucination") == 0.0
    assert after.coverage is not None
    assert after.coverage.mean == 0.5
    assert after.named["empty"] == ["2", "3"]


def test_a_missing_answer_is_named_and_wrong(write: Any) -> None:
    answers, labels = rows(["Yes", None, "Yes", "I cannot tell"])
    result = measured(write, answers, labels)
    assert (result.named["missing"], result.named["unreadable"]) == (["1"], ["3"])
    assert rate(result, "accuracy") == 0.5
    assert result.counts["answered"] == 2


def test_silence_does_not_win(write: Any) -> None:
    answers, labels = rows(["", "", "", ""])
    result = measured(write, answers, labels)
    assert rate(result, "hallucination") is None
    assert rate(result, "accuracy") == 0.0
    assert result.coverage is not None
    assert result.coverage.mean == 0.0
    assert result.types["object"].coverage is not None
    assert result.types["object"].coverage.mean == 0.0


def test_saying_yes_always_is_all_hallucination(write: Any) -> None:
    answers, labels = rows(["Yes"] * 4)
    result = measured(write, answers, labels)
    assert (rate(result, "hallucination"), rate(result, "recall"), rate(result, "yes_rate")) == (1.0, 1.0, 1.0)


def test_answers_are_joined_by_id_not_by_order(write: Any) -> None:
    answers, labels = rows(["Yes", "No", "Yes", "No"])
    turned = [answers[1], answers[0], *answers[2:]]
    assert rate(measured(write, turned, labels), "accuracy") == 1.0
    assert measured(write, turned, labels, mode="original").printed["accuracy"] == 0.5


def test_answers_without_ids_go_by_order_and_by_question(write: Any) -> None:
    _, labels = rows([])
    answers = [{"question": r["text"], "answer": a} for r, a in zip(labels, ["Yes", "No", "Yes", "Yes"])]
    result = measured(write, answers, labels)
    assert (rate(result, "accuracy"), result.ways["joined by"]) == (0.75, "order")
    with pytest.raises(DataError, match=r"answers.jsonl:1: question: not that of .*labels.jsonl:1"):
        measured(write, answers[::-1], labels)
    with pytest.raises(DataError, match="3 answers without ids, 4 labels"):
        measured(write, answers[:3], labels)


def test_splits_and_types_have_their_own_rates(write: Any) -> None:
    labels = [
        {"id": "a", "label": "no", "category": "random"},
        {"id": "b", "label": "no", "category": "adversarial", "type": "attribute"},
        {"id": "c", "label": "yes", "type": "relation"},
    ]
    result = measured(write, [{"id": i, "answer": "yes"} for i in "abc"], labels)
    assert set(result.parts) == {"random", "adversarial"}
    assert set(result.types) == {"object", "attribute", "relation"}
    assert result.types["relation"].coverage is not None
    assert result.types["relation"].rate is None


def test_labels_may_stand_beside_the_answers(write: Any) -> None:
    file = write("both.jsonl", [{"id": 1, "answer": "No", "label": "no"}, {"id": 2, "text": "Is it?", "response": "Yes", "label": "no"}])
    assert rate(run(HallucinationConfig(file=file, measure="pope")), "hallucination") == 0.5


@pytest.mark.parametrize(
    ("answers", "labels", "told"),
    [
        ([{"id": 1, "answer": "x"}] * 2, [{"id": 1, "label": "no"}], r"answers.jsonl:2: the id 1 stands at .*answers.jsonl:1 already"),
        ([{"id": 2, "answer": "x"}], [{"id": 1, "label": "no"}], r"answers.jsonl:1: the id not in .*labels.jsonl: 2"),
        ([{"id": 1, "answer": "x"}], [{"id": 1, "label": "maybe"}], r"labels.jsonl:1: label: must be yes or no, is 'maybe'"),
        ([{"id": 1, "reply": "x"}], [{"id": 1, "label": "no"}], r"answers.jsonl:1: none of the fields answer, response"),
        ([{"id": 1, "answer": 3}], [{"id": 1, "label": "no"}], r"answers.jsonl:1: answer: must be text, this is a number"),
        ([{"id": 1.5, "answer": "x"}], [{"id": 1, "label": "no"}], r"answers.jsonl:1: id: an id is a whole number or text"),
        ([{"id": 1, "answer": "x"}, {"answer": "y"}], [{"id": 1, "label": "no"}], r"answers.jsonl:2: no id"),
        (["x"], [{"id": 1, "label": "no"}], r"answers.jsonl:1: a row must be a JSON object"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(write: Any, answers: list[Any], labels: list[Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        measured(write, answers, labels)
