"""What answers make up, before and after: rates by hand, silence that does not win, words marked on the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.hallucination.answers import made_up
from keel.evaluate.report_made_up import made_up_view, pictures, pieces
from keel.evaluate.statistics import relative_change

HOW = {"draws": 200, "level": 0.95, "seed": 0}
CAT, TWO, RED = ("existence", 0, 5), ("count", 6, 9), ("attribute", 10, 13)


def answer(*errors: tuple[str, int, int], coverage: float = 1.0, text: str = "A cat, two dogs and a red ball") -> Answer:
    return Answer(text, errors=errors, coverage=coverage)


ROWS = (
    PromptAnswers("a", "?", (answer(CAT, TWO), answer(RED)), (answer(), answer(RED))),
    PromptAnswers("b", "?", (answer(CAT), answer()), (answer(), answer(coverage=0.5))),
)


def test_rates_are_shares_of_answers_and_the_change_is_relative() -> None:
    found = made_up(ROWS, **HOW)
    assert found is not None
    means = {name: (rate["before"]["mean"], rate["after"]["mean"]) for name, rate in found["rates"].items()}
    assert means["any"] == (0.75, 0.25)
    assert means["existence"] == (0.5, 0.0)
    assert means["count"] == (0.25, 0.0)
    assert means["attribute"] == (0.25, 0.25)
    assert means["errors_per_answer"] == (1.0, 0.25)
    # objects 0.5 once however many of an answer are wrong: (0.5, 0.3, 0.5, 0) and (0, 0.3, 0, 0)
    assert means["weighted"] == (pytest.approx(1.3 / 4), pytest.approx(0.3 / 4))
    assert found["rates"]["any"]["change"]["mean"] == pytest.approx(-2 / 3)
    assert found["coverage"]["difference"]["mean"] == pytest.approx(-0.125)
    assert found["rates"]["existence"]["change"]["n"] == 2


def test_silence_shows_beside_the_rates() -> None:
    silent = Answer("", errors=(), coverage=0.0)
    found = made_up([PromptAnswers("a", "?", (answer(CAT),), (silent,)), PromptAnswers("b", "?", (answer(),), (answer(),))], **HOW)
    assert found is not None
    assert found["rates"]["any"]["after"]["mean"] == 0
    assert found["silent"]["after"]["mean"] == 0.5
    assert found["coverage"]["after"]["mean"] == 0.5
    chinese = made_up([PromptAnswers("a", "?", (Answer("图中有一个红色圆形。", errors=()),), (Answer("一个", errors=()),))], **HOW)
    assert chinese is not None
    assert [chinese["silent"][side]["mean"] for side in ("before", "after")] == [0, 1]
    assert "coverage" not in chinese


def test_answers_that_nobody_looked_at_are_not_free_of_errors() -> None:
    assert made_up([PromptAnswers("a", "?", (Answer("text"),), (answer(),))], **HOW) is None


def test_a_relative_change_keeps_prompts_that_had_nothing_before() -> None:
    found = relative_change({"a": 2.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, draws=400)
    assert found is None  # some resamples have only b
    many = {str(i): 1.0 for i in range(20)}
    found = relative_change({**many, "b": 0.0}, {**dict.fromkeys(many, 0.5), "b": 1.0}, draws=400)
    assert found is not None
    assert found.mean == pytest.approx(11 / 20 - 1)
    assert found.low < found.mean < found.high
    assert found.n == 21


def test_rows_keep_errors_and_pictures() -> None:
    row = PromptAnswers("a", "?", (answer(CAT),), (Answer("no detector"),), images=("a.png",))
    assert PromptAnswers.from_row(row.to_row()) == row


def test_words_are_marked_where_the_detector_found_them() -> None:
    text = "A cat, two dogs"
    assert pieces(Answer(text, errors=(("count", 7, 10), ("existence", 0, 5))), text) == [
        ("A cat", "existence"),
        (", ", ""),
        ("two", "count"),
        (" dogs", ""),
    ]
    overlapping = pieces(Answer(text, errors=(("existence", 0, 5), ("attribute", 2, 10), ("relation", 3, 4))), text)
    assert overlapping == [("A cat", "existence"), (", two", "attribute"), (" dogs", "")]
    assert "".join(piece for piece, _ in overlapping) == text


def test_pictures_become_small_and_a_lost_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (400, 200), "red").save(tmp_path / "a.png")
    (url,) = pictures([str(tmp_path / "a.png"), str(tmp_path / "gone.png")])
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as small:
        assert small.size == (168, 84)
    assert "gone.png" in caplog.text
    assert pictures([url]) == [url]


def test_the_table_tells_changes_of_rates_and_points_of_coverage() -> None:
    noted: list[tuple[str, str, str, str]] = []
    view = made_up_view(made_up(ROWS, **HOW), lambda *parts: noted.append(parts))
    assert view is not None
    rows = {row["label"]: row for row in view["rows"]}
    assert rows["any error"]["change"].startswith("-67%")
    assert rows["truth that was told (coverage)"]["change"].startswith("-12 points")
    assert len(noted) == 3 * len(rows)
    assert made_up_view(None, lambda *_: None) is None
