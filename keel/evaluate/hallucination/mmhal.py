"""MMHal-Bench: a judge rates answers from 0 to 6 (Sun et al. 2023, arXiv 2309.14525). Ratings below 3 say that there is a hallucination.

Read here are the judge's texts. Beside the rate stands the informativeness of RLAIF-V (Yu et al. 2024), which a model that says nothing
loses: 0, 1, 2 within hallucinated answers; 0, 1, 2, 3 within clean ones; over 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.errors import DataError
from keel.data.rows import RawRow
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.files import by_id, missing, read_rows, text_of
from keel.evaluate.hallucination.result import Result, TypeRate, ratio

_TYPES: Mapping[str, str] = {"attribute": "attribute", "adversarial": "object", "counting": "object", "relation": "relation"}
_ORDER = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
_REVIEWS = ("gpt4_review", "review", "judgement", "judgment", "rating")
_RATING = re.compile(r"(?:rating|评分|评级)[\s*_\"'`]*(?:is\b|[:：=]|为|是)?[\s*_\"'`\[(]*(\d+(?:\.\d+)?)(?![\d.]*\d)", re.IGNORECASE)
QUESTIONS = 96


@dataclass(frozen=True, slots=True)
class Review:
    """What the judge said about one answer (None: nothing), and what the answer was (None: not known)."""

    name: str
    text: str | None
    type: str
    answer: str | None = None


def original_rating(review: str) -> int:
    """The rating as the published script finds it: "rating: 0" to "rating: 6" in small letters; 0 where none or several of them stand
    there. "Rating: 10" is 1."""
    found = [s for s in range(7) if f"rating: {s}" in review.lower()]
    return found[0] if len(found) == 1 else 0


def rating(review: str) -> int | None:
    """The one rating from 0 to 6 that a review gives; None where it gives none, several different ones, or another number."""
    found = set(_RATING.findall(review))
    return int(value) if len(found) == 1 and (value := found.pop()).isdecimal() and int(value) <= 6 else None


def informativeness(score: int) -> int:
    """0 to 3: the rating without its part on hallucination (RLAIF-V, ``summarize_gpt_mmhal_review.py``)."""
    return score - 3 if score >= 3 else score


def original(reviews: Sequence[str]) -> dict[str, Any]:
    """The numbers of the published scripts: the mean rating, the hallucination rate, the mean by type (by the place in the file, modulo 8)
    and RLAIF-V's informativeness in per cent. Not rounded (the scripts print two digits). Raises ValueError unless there are 96."""
    if len(reviews) != QUESTIONS:
        raise ValueError(f"{len(reviews)} reviews, not {QUESTIONS}")
    scores = [original_rating(r) for r in reviews]
    return {
        "average_score": sum(scores) / len(scores),
        "hallucination_rate": sum(s < 3 for s in scores) / len(scores),
        "by_type": [sum(scores[i::8]) / len(scores[i::8]) for i in range(8)],
        "informativeness": 100 * sum(informativeness(s) for s in scores) / len(scores) / 3,
    }


def score(reviews: Sequence[Review], scores: Sequence[int | None], draws: int) -> Result:
    """Rates of reviews with the ratings that were read (None: none). What was not rated has no rate, and a coverage of 0."""
    rated = [(r, s) for r, s in zip(reviews, scores, strict=True) if s is not None]
    informed = [(r.name, informativeness(s) / 3 if s is not None else 0.0, 1.0) for r, s in zip(reviews, scores)]
    types: dict[str, TypeRate] = {}
    parts = {}
    for name in dict.fromkeys(r.type for r in reviews if r.type):
        of = [(r, s) for r, s in rated if r.type == name]
        parts[name] = {
            "hallucination": ratio([(r.name, float(s < 3), 1.0) for r, s in of], draws),
            "score": ratio([(r.name, float(s), 1.0) for r, s in of], draws),
        }
    for kind in dict.fromkeys(_TYPES[r.type] for r in reviews if r.type in _TYPES):
        names = {r.name for r in reviews if _TYPES.get(r.type) == kind}
        rate = ratio([(r.name, float(s < 3), 1.0) for r, s in rated if r.name in names], draws)
        types[kind] = TypeRate(rate, ratio([i for i in informed if i[0] in names], draws))
    named = {
        "missing": [r.name for r in reviews if r.text is None],
        "unreadable": [r.name for r, s in zip(reviews, scores) if s is None and r.text is not None],
        "empty": [r.name for r in reviews if r.answer is not None and not r.answer.strip()],
    }
    return Result(
        rates={
            "hallucination": ratio([(r.name, float(s < 3), 1.0) for r, s in rated], draws),
            "score": ratio([(r.name, float(s), 1.0) for r, s in rated], draws),
            "rated": ratio([(r.name, float(s is not None), 1.0) for r, s in zip(reviews, scores)], draws),
        },
        coverage=ratio(informed, draws),
        counts={"reviews": len(reviews), "rated": len(rated), **{k: len(v) for k, v in named.items()}},
        named=named,
        types=types,
        parts=parts,
        rows=tuple({"id": r.name, "type": r.type, "rating": s} for r, s in zip(reviews, scores)),
    )


def run(config: HallucinationConfig) -> Result:
    """Reviews by the judge: the replies of an API in order, rows with ``gpt4_review``, or rows {id, review, question_type}; questions that
    were asked in ``truth``, where that is given. Raises DataError."""
    rows = read_rows(config.file)
    if config.mode == "original":
        texts = [_review(row) for row in rows]
        if len(texts) != QUESTIONS:
            wanted = f"the published script wants {QUESTIONS}, in the order of the benchmark"
            raise DataError(f"{config.file}: {len(texts)} reviews: {wanted}", "use mode=fixed")
        scores = [original_rating(t) for t in texts]
        found = score([Review(str(i + 1), t, _ORDER[i % 8]) for i, t in enumerate(texts)], scores, config.draws)
        return Result(
            found.rates,
            found.coverage,
            found.counts,
            found.named,
            found.types,
            found.parts,
            original(texts),
            {"types by": "order"},
            rows=found.rows,
        )
    reviews = _reviews(rows, config)
    return score(reviews, [None if r.text is None else rating(r.text) for r in reviews], config.draws)


def _reviews(rows: Sequence[RawRow], config: HallucinationConfig) -> list[Review]:
    ids = ("id", "question_id")
    if not config.truth:
        named = by_id(rows, ids) if any(k in r.values for r in rows for k in ids) else {str(i): r for i, r in enumerate(rows, start=1)}
        return [Review(n, _review(r), str(r.values.get("question_type") or ""), _answer(r)) for n, r in named.items()]
    asked = read_rows(config.truth)
    if any(k in r.values for r in rows for k in ids):
        of, answers = by_id(asked, ids), by_id(rows, ids)
        missing(answers, of, config.truth)
    else:
        if len(asked) != len(rows):
            raise DataError(f"{config.file}: {len(rows)} reviews without ids, {len(asked)} questions in {config.truth}", "give both an id")
        of, answers = ({str(i): r for i, r in enumerate(x, start=1)} for x in (asked, rows))
    return [
        Review(n, _review(answers[n]) if n in answers else None, str(q.values.get("question_type") or ""), _answer(answers.get(n, q)))
        for n, q in of.items()
    ]  # fmt: skip


def _review(row: RawRow) -> str:
    """The judge's text: of an API's reply, or of the row. A bare number is a rating. Raises DataError."""
    choices = row.values.get("choices")
    if isinstance(choices, list):
        try:
            content = choices[0]["message"]["content"]
        except (LookupError, TypeError):
            content = None
        if not isinstance(content, str):
            raise DataError(f"{row.place}: choices: no text at choices.0.message.content", "this is no reply of a chat API")
        return content
    value = row.values.get("rating")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"rating: {value}"
    return text_of(row, _REVIEWS)


def _answer(row: RawRow) -> str | None:
    value = row.values.get("model_answer")
    return value if isinstance(value, str) else None
