"""POPE: yes-or-no questions about objects (Li et al. 2023, arXiv 2305.10355).

A question has a label, yes or no. Positive is yes: precision, recall and F1 are those of saying yes. An untrue yes is the hallucination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.core.errors import DataError
from keel.data.rows import RawRow
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.files import by_id, missing, read_rows, text_of
from keel.evaluate.hallucination.result import Claim, Result, ratio, type_rates
from keel.evaluate.hallucination.yes_no import original_says_no, says_yes
from keel.evaluate.statistics import Interval

_IDS = ("id", "question_id")
_ANSWERS = ("answer", "response", "completion", "text")


@dataclass(frozen=True, slots=True)
class Question:
    """One question: is the right answer yes, and what was said (None: no answer)? ``cluster`` is its image, ``part`` a split such as
    ``adversarial``."""

    name: str
    cluster: str
    label: bool
    answer: str | None
    type: str = "object"
    part: str = ""


def original(answers: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """The numbers that the published script prints for answers and labels, which it pairs by their order. What the script cannot divide
    is None. The rate of yes is over all answers, also those beyond the last label."""
    said = [not original_says_no(a) for a in answers]
    right = [label != "no" for label in labels]
    pairs = list(zip(said, right))
    tp, fp, tn, fn = (pairs.count(p) for p in ((True, True), (True, False), (False, False), (False, True)))
    precision = tp / (tp + fp) if tp + fp else None
    recall = tp / (tp + fn) if tp + fn else None
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    accuracy = (tp + tn) / len(pairs) if pairs else None
    yes = said.count(True) / len(said) if said else None
    return {
        "TP": tp, "FP": fp, "TN": tn, "FN": fn, "accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "yes_ratio": yes,
    }  # fmt: skip


def rates(questions: Sequence[Question], read: Sequence[bool | None], draws: int) -> dict[str, Interval | None]:
    """Rates of questions whose answers say ``read`` (None: neither).

    An answer that says neither is wrong: it lowers accuracy and recall and is no yes. ``hallucination`` is the share of untrue yes among
    the answered questions whose label is no."""
    rows = list(zip(questions, read, strict=True))
    true_yes = [float(q.label and said is True) for q, said in rows]
    return {
        "hallucination": ratio([(q.cluster, float(said is True), 1.0) for q, said in rows if not q.label and said is not None], draws),
        "accuracy": ratio([(q.cluster, float(said is q.label), 1.0) for q, said in rows], draws),
        "precision": ratio([(q.cluster, float(q.label), 1.0) for q, said in rows if said is True], draws),
        "recall": ratio([(q.cluster, float(said is True), 1.0) for q, said in rows if q.label], draws),
        "f1": ratio([(q.cluster, 2 * t, float(said is True) + float(q.label)) for (q, said), t in zip(rows, true_yes)], draws),
        "yes_rate": ratio([(q.cluster, float(said), 1.0) for q, said in rows if said is not None], draws),
    }


def fixed(questions: Sequence[Question], draws: int) -> Result:
    """Ids in place of order, answers as people read them, no answer is no yes."""
    read = [None if q.answer is None else says_yes(q.answer) for q in questions]
    named = {
        "missing": [q.name for q in questions if q.answer is None],
        "empty": [q.name for q in questions if q.answer is not None and not q.answer.strip()],
        "unreadable": [q.name for q, said in zip(questions, read) if said is None and (q.answer or "").strip()],
    }
    claims = [Claim(q.cluster, q.type, q.label, said) for q, said in zip(questions, read)]
    parts = {}
    for part in dict.fromkeys(q.part for q in questions if q.part):
        of = [(q, said) for q, said in zip(questions, read) if q.part == part]
        parts[part] = rates([q for q, _ in of], [said for _, said in of], draws)
    counts = {"asked": len(questions), "answered": sum(r is not None for r in read), **{k: len(v) for k, v in named.items()}}
    return Result(
        rates=rates(questions, read, draws),
        coverage=ratio([(q.cluster, float(said is not None), 1.0) for q, said in zip(questions, read)], draws),
        counts=counts,
        named=named,
        types=type_rates(claims, draws),
        parts=parts,
        ways={"answers": "read by meaning", "joined by": "id"},
        rows=tuple({"id": q.name, "said": _word(said), "label": _word(q.label)} for q, said in zip(questions, read)),
    )


def run(config: HallucinationConfig) -> Result:
    """Answers with labels in ``truth`` or in the same rows. Raises DataError."""
    rows = read_rows(config.file)
    asked = read_rows(config.truth) if config.truth else rows
    if config.mode == "original":
        return _original(rows, asked, config.draws)
    questions, way = _questions(rows, asked, config)
    found = fixed(questions, config.draws)
    return replace(found, ways={**found.ways, "joined by": way})


def _original(rows: Sequence[RawRow], asked: Sequence[RawRow], draws: int) -> Result:
    answers = [text_of(r, _ANSWERS) for r in rows]
    labels = [text_of(r, ("label",)) for r in asked]
    n = min(len(answers), len(labels))
    questions = [Question(str(i), str(i), labels[i] != "no", answers[i]) for i in range(n)]
    read = [not original_says_no(a) for a in answers[:n]]
    readable = ratio([(q.cluster, float(says_yes(q.answer or "") is not None), 1.0) for q in questions], draws)
    cut = {"answers": len(answers), "labels": len(labels), "paired": n}
    notes = (
        (f"{abs(len(answers) - len(labels))} answers or labels have no partner: the script cuts them",)
        if len(answers) != len(labels)
        else ()
    )
    return Result(rates(questions, read, draws), readable, cut, printed=original(answers, labels), notes=notes, ways={"joined by": "order"})


def _questions(rows: Sequence[RawRow], asked: Sequence[RawRow], config: HallucinationConfig) -> tuple[list[Question], str]:
    """The questions with their answers, joined by id; by order where the answers have no id. Raises DataError."""
    if any(any(key in r.values for key in _IDS) for r in rows):
        answers, labels = by_id(rows, _IDS), by_id(asked, _IDS)
        missing(answers, labels, config.truth or config.file)
        pairs = [(name, row, answers.get(name)) for name, row in labels.items()]
        way = "id"
    else:
        if len(rows) != len(asked):
            raise DataError(
                f"{config.file}: {len(rows)} answers without ids, {len(asked)} labels in {config.truth}", "give both a question_id"
            )
        pairs = [(str(i), a, r) for i, (a, r) in enumerate(zip(asked, rows), start=1)]
        for _, a, r in pairs:
            ours, theirs = r.values.get("question"), a.values.get("text", a.values.get("question"))
            if ours is not None and theirs is not None and ours != theirs:
                raise DataError(f"{r.place}: question: not that of {a.place}", "the files are in another order: give both a question_id")
        way = "order"
    return [_question(name, row, answer) for name, row, answer in pairs], way


def _question(name: str, row: RawRow, answer: RawRow | None) -> Question:
    label = text_of(row, ("label",)).strip().lower()
    if label not in ("yes", "no"):
        raise DataError(f"{row.place}: label: must be yes or no, is {label!r}", "the published script takes all but `no` as yes")
    kind = row.values.get("type") or "object"
    said = text_of(answer, [k for k in _ANSWERS if k != "text" or "label" not in answer.values]) if answer is not None else None
    return Question(
        name,
        str(row.values.get("image") or row.values.get("image_id") or name),
        label == "yes",
        said,
        str(kind),
        str(row.values.get("category") or ""),
    )


def _word(said: bool | None) -> str:
    return "neither" if said is None else "yes" if said else "no"
