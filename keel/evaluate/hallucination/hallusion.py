"""HallusionBench: questions about figures, and the same questions about figures that were edited (Guan et al. 2024, arXiv 2310.14566).

A verdict on each answer is 0 (wrong), 1 (right) or 2 (uncertain). VD questions need the figure; VS questions can be asked without one
(figure 0), and there it is right not to know. ``hallusion_stats.py`` counts as the published script does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keel.core.errors import DataError
from keel.data.rows import RawRow
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.files import id_of, read_rows
from keel.evaluate.hallucination.hallusion_stats import Question, causes, figures, pairs, yes_no_bias
from keel.evaluate.hallucination.result import Result, Share, ratio
from keel.evaluate.hallucination.yes_no import says_yes
from keel.evaluate.statistics import Interval
from keel.rewards.reading.thoughts import answer_of

_VERDICTS = ("verdict", "gpt4v_output_gpt_check", "model_output_gpt_check")
_ANSWERS = ("model_prediction", "answer", "response", "completion")
_WRONG = re.compile(r"\b(?:in|not (?:\w+ )?)correct\b|\bwrong\b|\bnot (?:\w+ )?right\b|不正确|错误|不对", re.IGNORECASE)
_RIGHT = re.compile(r"\b(?:correct|right)\b|正确|对", re.IGNORECASE)


def original_verdict(text: str) -> int:
    """A judge's words as the published script reads them: "incorrect" is wrong, else "correct" is right ("not correct" too), else
    uncertain."""
    low = text.lower()
    return 0 if "incorrect" in low else 1 if "correct" in low else 2


def verdict(text: str) -> int:
    """A judge's words: "not correct" is wrong, "partially correct" and words that say both are uncertain."""
    wrong, rest = _WRONG.search(text) is not None, _WRONG.sub(" ", text)
    right = _RIGHT.search(rest) is not None
    if re.search(r"\b(?:partial|part|half|unclear|neither)", text, re.IGNORECASE) or wrong == right:
        return 2
    return 1 if right else 0


def rates(questions: Sequence[Question], draws: int) -> dict[str, Interval | None]:
    """a_acc, q_acc and f_acc (per question, per pair, per figure), right being what ``Question.right`` says; ``hallucination``: wrong among
    the definite verdicts."""
    return {
        "hallucination": ratio([(_set(q), float(q.verdict == 0), 1.0) for q in questions if q.verdict != 2], draws),
        "a_acc": ratio([(_set(q), float(q.right), 1.0) for q in questions], draws),
        "q_acc": ratio(_grouped(questions, lambda q: q.pair), draws),
        "f_acc": ratio(_grouped([q for q in questions if not q.blind], lambda q: q.figure_name), draws),
    }


def _set(q: Question) -> str:
    return f"{q.category}_{q.subcategory}_{q.set_id}"


def _grouped(questions: Sequence[Question], name: Any) -> list[Share]:
    groups: dict[str, list[Question]] = {}
    for q in questions:
        groups.setdefault(name(q), []).append(q)
    return [(_set(of[0]), float(all(q.right for q in of)), 1.0) for of in groups.values()]


def fixed(questions: Sequence[Question], draws: int) -> Result:
    """Rates, the rates by subcategory, easy and hard ones per question and per pair, and how often right is only not to know."""
    easy, hard = [q for q in questions if q.visual != 2], [q for q in questions if q.visual == 2]
    parts: dict[str, Mapping[str, Interval | None]] = {"VD": {}, "VS": {}, "easy": {}, "hard": {}}
    for name, of in (("VD", [q for q in questions if q.category == "VD"]), ("VS", [q for q in questions if q.category == "VS"])):
        parts[name] = rates(of, draws)
    for name, of in (("easy", easy), ("hard", hard)):
        parts[name] = {k: v for k, v in rates(of, draws).items() if k in ("hallucination", "a_acc", "q_acc")}
    for name in dict.fromkeys(q.subcategory for q in questions):
        parts[name] = rates([q for q in questions if q.subcategory == name], draws)
    definite = [q for q in questions if q.verdict != 2]
    said_yes = [(_set(q), float((q.verdict == 1) == q.label), 1.0) for q in definite]
    named = {
        "missing": [q.name for q in questions if q.answered is False and not q.there],
        "empty": [q.name for q in questions if q.there and not q.answered],
    }
    notes = ("there is no answer that is definite: there is no rate of hallucination",) if not definite else ()
    return Result(
        rates={
            **rates(questions, draws),
            "says_yes": ratio(said_yes, draws),
            "untrue_yes_among_wrong": ratio([(_set(q), float(not q.label), 1.0) for q in definite if q.verdict == 0], draws),
            "right_by_not_knowing": ratio([(_set(q), float(q.verdict == 2), 1.0) for q in questions if q.right], draws),
        },
        coverage=ratio([(_set(q), float(q.verdict != 2), 1.0) for q in questions], draws),
        counts={
            "questions": len(questions),
            "definite": len(definite),
            "uncertain": len(questions) - len(definite),
            **{k: len(v) for k, v in named.items()},
        },
        named=named,
        parts={k: v for k, v in parts.items() if any(x is not None for x in v.values())},
        notes=notes,
        rows=tuple({"id": q.name, "verdict": q.verdict, "right": q.right} for q in questions),
    )


def original(questions: Sequence[Question]) -> dict[str, Any]:
    """The numbers of the published script: accuracies in per cent (its "easy" and "hard" are of pairs), figures that are all right, partly
    right and wrong, the bias towards yes, and where errors come from (None unless each row says whether the answer is the ``same``)."""
    easy, hard = [q for q in questions if q.visual != 2], [q for q in questions if q.visual == 2]
    of_figures = figures(questions)
    total = of_figures["total"]
    return {
        "aAcc": _percent(sum(q.right for q in questions), len(questions)),
        "qAcc": _percent(*pairs(questions)),
        "fAcc": _percent(of_figures["correct"], total),
        "easy aAcc": _percent(*pairs(easy)),
        "hard aAcc": _percent(*pairs(hard)),
        "figures": {k: _percent(of_figures[k], total) for k in ("correct", "inconsistent", "wrong")},
        **yes_no_bias(questions),
        "causes": causes(questions),
    }


def _percent(count: float, total: float) -> float | None:
    return round(100 * count / total, 4) if total else None


def run(config: HallucinationConfig) -> Result:
    """Rows of the benchmark with answers or verdicts. Raises DataError."""
    is_original = config.mode == "original"
    questions, way = read(config)
    if not is_original:
        return replace(fixed(questions, config.draws), ways={"verdicts": way})
    found = rates(questions, config.draws)
    coverage = ratio([(_set(q), float(q.verdict != 2), 1.0) for q in questions], config.draws)
    counts = {"questions": len(questions), "uncertain": sum(q.verdict == 2 for q in questions)}
    rows = tuple({"id": q.name, "verdict": q.verdict, "right": q.right} for q in questions)
    return Result(found, coverage, counts, printed=original(questions), ways={"verdicts": way}, rows=rows)


def read(config: HallucinationConfig) -> tuple[list[Question], str]:
    """The questions of ``file`` (answers to those in ``truth``, where it is given) and where their verdicts come from. Raises DataError."""
    rows = read_rows(config.file)
    key = _verdict_key(rows, config)
    answers: dict[str, RawRow] = {}
    for row in rows:
        name = _name(row)
        if name in answers:
            raise DataError(f"{row.place}: the question {name} stands at {answers[name].place} already", "each question once")
        answers[name] = row
    asked = {_name(r): r for r in read_rows(config.truth)} if config.truth else answers
    unknown = next((r for n, r in answers.items() if n not in asked), None)
    if unknown is not None:
        raise DataError(
            f"{unknown.place}: the question {_name(unknown)} is not in {config.truth}", "answers and truth must be of the same set"
        )
    is_original = config.mode == "original"
    found = [_question(name, row, answers.get(name), key, is_original) for name, row in asked.items()]
    return found, f"field {key}" if key else "read from the answers"


def _verdict_key(rows: Sequence[RawRow], config: HallucinationConfig) -> str:
    """The field of the verdicts; "" where there is none. Raises DataError for one that only some rows have."""
    key = config.verdict or next((k for k in _VERDICTS if k in rows[0].values), "")
    lacking = next((r for r in rows if key and r.values.get(key) is None), None)
    if lacking is not None:
        raise DataError(f"{lacking.place}: {key}: no verdict, where other rows have one", "judge all rows, or none")
    return key


def _name(row: RawRow) -> str:
    return "_".join(id_of(row, (k,)) for k in ("category", "subcategory", "set_id", "figure_id", "question_id"))


def _question(name: str, row: RawRow, answer: RawRow | None, key: str, original: bool) -> Question:
    ids = {k: id_of(row, (k,)) for k in ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input", "gt_answer")}
    if ids["category"] not in ("VD", "VS"):
        raise DataError(f"{row.place}: category: must be VD or VS, is {ids['category']!r}", "see the benchmark's HallusionBench.json")
    if ids["visual_input"] not in ("0", "1", "2") or ids["gt_answer"] not in ("0", "1"):
        raise DataError(f"{row.place}: visual_input must be 0, 1 or 2 and gt_answer 0 or 1", "see the benchmark's HallusionBench.json")
    said = next((answer.values[k] for k in _ANSWERS if answer is not None and k in answer.values), None)
    if said is not None and not isinstance(said, str):
        raise DataError(f"{answer.place if answer else ''}: the answer must be text", "write it in quotes")
    label = ids["gt_answer"] == "1"
    given = answer.values.get("same") if answer is not None else None
    found = _verdict(answer, key, said, label, original)
    said = said if said is None or original else answer_of(said) or ""
    answered = bool(said and said.strip()) if said is not None or not key else answer is not None
    blind = ids["category"] == "VS" and ids["figure_id"] == "0"
    right = found == 1 or (blind and found == 2 and (original or answered))
    return Question(
        name, ids["category"], ids["subcategory"], ids["set_id"], ids["figure_id"], ids["question_id"], int(ids["visual_input"]), label,
        found, right, None if given is None else str(given) == "1", answered, answer is not None,
    )  # fmt: skip


def _verdict(answer: RawRow | None, key: str, said: str | None, label: bool, original: bool) -> int:
    if answer is None:
        return 2
    if not key:
        if said is None:
            raise DataError(
                f"{answer.place}: neither a verdict nor an answer", f"give {_ANSWERS[0]}, or a verdict (0, 1, 2) as {_VERDICTS[0]}"
            )
        read_as = says_yes(said)
        return 2 if read_as is None else int(read_as == label)
    value = answer.values[key]
    if str(value) in ("0", "1", "2"):
        return int(value)
    if not isinstance(value, str):
        raise DataError(
            f"{answer.place}: {key}: must be 0 (wrong), 1 (right), 2 (uncertain) or the judge's words, is {value!r}", "judge it again"
        )
    return original_verdict(value) if original else verdict(value)
