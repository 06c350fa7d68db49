"""MMHal-Bench: ratings as the published script finds them, and as they are."""

from __future__ import annotations

from typing import Any

import pytest

from keel.core.errors import DataError
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.mmhal import informativeness, original, original_rating, rating, run
from keel.evaluate.hallucination.result import Result


@pytest.mark.parametrize(
    ("review", "script", "fixed"),
    [
        ("Fine.\nRating: 5", 5, 5),
        ("RATING: 0", 0, 0),
        ("Rating: 10", 1, None),  # the script sees a 1
        ("Rating : 4", 0, 4),
        ("**Rating:** 4", 0, 4),
        ("Rating: [[2]]", 0, 2),
        ("Rating: 4/6", 4, 4),
        ("Rating: 4.5", 4, None),
        ("评分：3", 0, 3),
        ("The rating is 3", 0, 3),
        ("Rating: 3 ... so Rating: 3", 3, 3),
        ("Rating: 3, or rating: 4", 0, None),
        ("It is good.", 0, None),
        ("", 0, None),
        ("Rating: 7", 0, None),
    ],
)
def test_ratings(review: str, script: int, fixed: int | None) -> None:
    assert original_rating(review) == script
    assert rating(review) == fixed


def test_informativeness() -> None:
    assert [informativeness(s) for s in range(7)] == [0, 1, 2, 0, 1, 2, 3]


def test_numbers_of_the_script() -> None:
    """96 reviews: the first of each eight rates 6, the second nothing (0), the others 2. Mean (6 + 0 + 12) / 8, below 3 are 7 of 8,
    informativeness (3 + 0 + 12) / 8 / 3."""
    reviews = ["Rating: 6", "no number", *["rating: 2"] * 6] * 12
    found = original(reviews)
    assert found["average_score"] == 18 / 8
    assert found["hallucination_rate"] == 7 / 8
    assert found["by_type"] == [6, 0, 2, 2, 2, 2, 2, 2]
    assert found["informativeness"] == pytest.approx(100 * 15 / 24)
    with pytest.raises(ValueError, match="95 reviews"):
        original(reviews[1:])


def measured(write: Any, rows: list[Any], **settings: Any) -> Result:
    return run(HallucinationConfig(file=write("reviews.json", rows), measure="mmhal", draws=100, **settings))


def means(rates: Any) -> dict[str, float | None]:
    return {k: None if v is None else v.mean for k, v in rates.items()}


ROWS = [
    {"question_type": "attribute", "gpt4_review": "Rating: 6", "model_answer": "Red."},
    {"question_type": "adversarial", "gpt4_review": "Rating: 1", "model_answer": "A cat."},
    {"question_type": "counting", "gpt4_review": "I cannot rate this.", "model_answer": "Two."},
    {"question_type": "relation", "gpt4_review": "Rating: 3", "model_answer": ""},
]


def test_what_was_not_rated_is_no_hallucination_and_no_zero(write: Any) -> None:
    """Rated 6, 1, 3: one of three; informativeness (3 + 1 + 0 + 0) / 3 / 4."""
    result = measured(write, ROWS)
    assert means(result.rates) == {"hallucination": pytest.approx(1 / 3), "score": pytest.approx(10 / 3), "rated": 0.75}
    assert result.coverage is not None
    assert result.coverage.mean == pytest.approx(4 / 12)
    assert (result.named["unreadable"], result.named["empty"]) == (["3"], ["4"])
    assert means(result.parts["adversarial"]) == {"hallucination": 1.0, "score": 1.0}
    rate = {k: t.rate.mean if t.rate else None for k, t in result.types.items()}
    assert rate == {"attribute": 0.0, "object": 1.0, "relation": 0.0}


def test_silence_does_not_win(write: Any) -> None:
    """Answers that say nothing are rated 3, not informative: no hallucination, and no coverage."""
    result = measured(write, [{**row, "gpt4_review": "Rating: 3", "model_answer": ""} for row in ROWS])
    assert means(result.rates)["hallucination"] == 0.0
    assert result.coverage is not None
    assert result.coverage.mean == 0.0


def test_replies_of_an_api_in_order(write: Any) -> None:
    replies = [{"choices": [{"message": {"content": f"Rating: {i % 7}"}}]} for i in range(96)]
    result = measured(write, replies, mode="original")
    assert result.printed["average_score"] == pytest.approx(sum(i % 7 for i in range(96)) / 96)
    assert set(result.parts) == {"attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other"}
    with pytest.raises(DataError, match=r"reviews.json: 95 reviews: the published script wants 96"):
        measured(write, replies[1:], mode="original")


def test_reviews_by_id_with_their_questions(write: Any) -> None:
    truth = write("questions.json", [{"id": i, "question_type": "relation"} for i in (1, 2, 3)])
    result = measured(write, [{"id": 3, "rating": 0}, {"id": 1, "rating": 5}], truth=truth)
    assert means(result.parts["relation"]) == {"hallucination": 0.5, "score": 2.5}
    assert result.named["missing"] == ["2"]
    with pytest.raises(DataError, match=r"the id not in .*questions.json: 9"):
        measured(write, [{"id": 9, "rating": 0}], truth=truth)
    with pytest.raises(DataError, match="1 reviews without ids, 3 questions"):
        measured(write, [{"rating": 0}], truth=truth)


def test_what_is_no_reply_is_told(write: Any) -> None:
    with pytest.raises(DataError, match=r"reviews.json:1: choices: no text"):
        measured(write, [{"choices": []}])
