"""HallusionBench: accuracies by question, pair and figure, where errors come from, and what mode fixed mends."""

from __future__ import annotations

from typing import Any

import pytest

from keel.core.errors import DataError
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.hallusion import original_verdict, run, verdict
from keel.evaluate.hallucination.hallusion_stats import Question, causes
from keel.evaluate.hallucination.result import Result


def row(category: str, figure: int, question: int, visual: int, gt: int, **more: Any) -> dict[str, Any]:
    return {
        "category": category, "subcategory": "chart", "set_id": "0", "figure_id": str(figure), "question_id": str(question),
        "visual_input": str(visual), "gt_answer": str(gt), **more,
    }  # fmt: skip


# Two VD pairs over two figures, one VS pair whose figure 0 is no figure.
ROWS = [
    row("VD", 0, 0, 1, 1, verdict="1"),
    row("VD", 1, 0, 2, 0, verdict="0", same="1"),
    row("VD", 0, 1, 1, 0, verdict="1"),
    row("VD", 1, 1, 2, 1, verdict="1", same="0"),
    row("VS", 0, 0, 0, 1, verdict="2"),
    row("VS", 1, 0, 1, 0, verdict="0", same="0"),
]


def measured(write: Any, rows: Any, **settings: Any) -> Result:
    return run(HallucinationConfig(file=write("answers.json", rows), measure="hallusion", draws=100, **settings))


def means(rates: Any) -> dict[str, float | None]:
    return {k: None if v is None else v.mean for k, v in rates.items()}


def test_numbers_of_the_script(write: Any) -> None:
    """Right: questions 1, 3, 4 and 5 (not to know without a figure) of 6; pairs: one of 3; figures (VD 0, VD 1, VS 1): all, some, none.
    Easy (not edited) pairs: VD 0, VD 1 right, VS not; hard: one of 2. Yes said: rows 1, 2, 4, 5, 6 and not 3: 5/6, right 3/6. Errors: both
    have label no. Causes: row 2 both, row 6 vision."""
    printed = measured(write, ROWS, mode="original").printed
    assert printed == {
        "aAcc": 66.6667, "qAcc": 33.3333, "fAcc": 33.3333, "easy aAcc": 66.6667, "hard aAcc": 50.0,
        "figures": {"correct": 33.3333, "inconsistent": 33.3333, "wrong": 33.3333},
        "diff": pytest.approx(2 / 6), "fp": 1.0, "causes": {"LH": 0.0, "VI": 50.0, "Mix": 50.0},
    }  # fmt: skip


def test_easy_pairs_hold_the_questions_without_a_figure(write: Any) -> None:
    """VS: wrong without a figure, right with one: the easy pair is wrong."""
    rows = [*ROWS[:4], {**ROWS[4], "verdict": "0"}, {**ROWS[5], "verdict": "1"}]
    assert measured(write, rows, mode="original").printed["easy aAcc"] == 66.6667


def test_rates_of_mode_fixed(write: Any) -> None:
    """Definite: 5 of 6, wrong 2 of them; right by not knowing: 1 of 4. Easy per question: rows 1, 3, 5, 6: 3 of 4 (the script says 2 of 3
    pairs)."""
    result = measured(write, ROWS)
    rates = means(result.rates)
    assert rates["hallucination"] == pytest.approx(2 / 5)
    assert rates["a_acc"] == pytest.approx(4 / 6)
    assert rates["q_acc"] == pytest.approx(1 / 3)
    assert rates["f_acc"] == pytest.approx(1 / 3)
    assert rates["right_by_not_knowing"] == 0.25
    assert rates["says_yes"] == pytest.approx(4 / 5)
    assert rates["untrue_yes_among_wrong"] == 1.0
    assert means(result.parts["easy"])["a_acc"] == 0.75
    assert means(result.parts["easy"])["q_acc"] == pytest.approx(2 / 3)
    assert result.coverage is not None
    assert result.coverage.mean == pytest.approx(5 / 6)


def test_silence_does_not_win(write: Any) -> None:
    """Empty answers: the script, whose judge calls them uncertain, finds the question without a figure right; mode fixed finds none."""
    rows = [{**r, "verdict": "2", "model_prediction": ""} for r in ROWS]
    assert measured(write, rows, mode="original").printed["aAcc"] == pytest.approx(100 / 6, abs=1e-4)
    result = measured(write, rows)
    assert (means(result.rates)["a_acc"], means(result.rates)["hallucination"]) == (0.0, None)
    assert result.coverage is not None
    assert result.coverage.mean == 0.0
    assert len(result.named["empty"]) == 6


def test_a_thought_without_an_end_is_no_answer(write: Any) -> None:
    """It cannot be right by not knowing."""
    rows = [{**ROWS[4], "model_prediction": "<think>I cannot tell"}]
    assert measured(write, rows).rows[0]["right"] is False
    assert measured(write, [{**ROWS[4], "model_prediction": "I cannot tell"}]).rows[0]["right"] is True


def test_answers_are_read_where_nobody_judged(write: Any) -> None:
    said = ["Yes, it is.", "Yes", "No.", "Yes", "I cannot tell.", "no"]
    rows = [{k: v for k, v in r.items() if k != "verdict"} | {"model_prediction": a} for r, a in zip(ROWS, said)]
    result = measured(write, rows)
    assert [r["verdict"] for r in result.rows] == [1, 0, 1, 1, 2, 1]
    assert result.ways == {"verdicts": "read from the answers"}
    assert means(result.rates)["a_acc"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("text", "script", "fixed"),
    [("Correct.", 1, 1), ("incorrect", 0, 0), ("not correct", 1, 0), ("partially correct", 1, 2), ("unclear", 2, 2), ("Wrong", 2, 0),
     ("not entirely correct", 1, 0), ("correct in part, incorrect in part", 0, 2), ("correct, yet incorrect", 0, 2),
     ("I am unable to say", 2, 2), ("正确", 2, 1), ("不正确", 2, 0)],
)  # fmt: skip
def test_a_judges_words(text: str, script: int, fixed: int) -> None:
    assert original_verdict(text) == script
    assert verdict(text) == fixed


def test_words_of_a_judge_in_a_field_of_ones_own(write: Any) -> None:
    rows = [{**r, "said": "not correct"} for r in ROWS]
    assert [r["verdict"] for r in measured(write, rows, verdict="said").rows] == [0] * 6
    assert [r["verdict"] for r in measured(write, rows, verdict="said", mode="original").rows] == [1] * 6


def question(category: str, figure: str, visual: int, verdict: int, same: bool | None = None) -> Question:
    return Question(f"{category}{figure}", category, "chart", "0", figure, "0", visual, True, verdict, verdict == 1, same)


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        (question("VD", "0", 1, 1), question("VD", "1", 2, 0, True), "Mix"),
        (question("VD", "0", 1, 1), question("VD", "1", 2, 0, False), "VI"),
        (question("VD", "0", 1, 1), question("VD", "1", 2, 2), "VI"),
        (question("VS", "0", 0, 1), question("VS", "1", 1, 0, True), "VI"),
        (question("VS", "0", 0, 1), question("VS", "1", 2, 0, True), "LH"),
        (question("VS", "0", 0, 1), question("VS", "1", 2, 0, False), "VI"),
        (question("VS", "0", 0, 2), question("VS", "1", 2, 0, True), "VI"),
    ],
)
def test_where_one_error_comes_from(first: Question, second: Question, cause: str) -> None:
    found = causes([first, second])
    assert found == {name: 100.0 if name == cause else 0.0 for name in ("LH", "VI", "Mix")}


def test_wrong_without_a_figure_is_language_and_the_answer_with_one_may_follow() -> None:
    assert causes([question("VS", "0", 0, 0), question("VS", "1", 1, 0, True)]) == {"LH": 100.0, "VI": 0.0, "Mix": 0.0}
    assert causes([question("VS", "0", 0, 0), question("VS", "1", 1, 0, False)]) == {"LH": 50.0, "VI": 0.0, "Mix": 50.0}
    assert causes([question("VS", "0", 0, 0), question("VS", "1", 1, 0)]) is None


def test_questions_that_are_asked_and_not_answered(write: Any) -> None:
    truth = write("truth.json", [{k: v for k, v in r.items() if k not in ("verdict", "same")} for r in ROWS])
    result = measured(write, ROWS[:4], truth=truth)
    assert len(result.named["missing"]) == 2
    assert means(result.rates)["a_acc"] == pytest.approx(3 / 6)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([ROWS[0], ROWS[0]], r"answers.json:2: the question VD_chart_0_0_0 stands at .*:1 already"),
        ([ROWS[0], row("VD", 1, 0, 2, 0)], r"answers.json:2: verdict: no verdict, where other rows have one"),
        ([row("VX", 0, 0, 1, 1, verdict="1")], r"answers.json:1: category: must be VD or VS"),
        ([row("VD", 0, 0, 3, 1, verdict="1")], r"answers.json:1: visual_input must be 0, 1 or 2"),
        ([row("VD", 0, 0, 1, 1, verdict=7)], r"answers.json:1: verdict: must be 0 \(wrong\)"),
        ([row("VD", 0, 0, 1, 1)], r"answers.json:1: neither a verdict nor an answer"),
        ([{"category": "VD"}], r"answers.json:1: no id"),
    ],
)
def test_what_cannot_be_used_is_told(write: Any, rows: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        measured(write, rows)
