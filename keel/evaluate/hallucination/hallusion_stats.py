"""HallusionBench's counts as its published scripts make them (Guan et al. 2024, arXiv 2310.14566, ``utils.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LANGUAGE, VISION, MIXED = (1, 0), (0, 1), (1, 1)


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its verdict: 0 wrong, 1 right, 2 uncertain. ``right`` counts for the accuracies; ``same``: does the answer say what
    the one about figure 0 said (None: not judged)? ``visual``: 0 no figure, 1 the original one, 2 an edited one."""

    name: str
    category: str
    subcategory: str
    set_id: str
    figure: str
    question: str
    visual: int
    label: bool
    verdict: int
    right: bool
    same: bool | None = None
    answered: bool = True
    there: bool = True

    @property
    def pair(self) -> str:
        """The question over all its figures."""
        return f"{self.category}_{self.subcategory}_{self.set_id}_{self.question}"

    @property
    def figure_name(self) -> str:
        """The figure over all its questions."""
        return f"{self.category}_{self.subcategory}_{self.set_id}_{self.figure}"

    @property
    def blind(self) -> bool:
        """Asked without a figure?"""
        return self.category == "VS" and self.figure == "0"


def pairs(questions: Sequence[Question]) -> tuple[int, int]:
    """(pairs of which all questions are right, pairs)."""
    groups: dict[str, list[bool]] = {}
    for q in questions:
        groups.setdefault(q.pair, []).append(q.right)
    return sum(all(of) for of in groups.values()), len(groups)


def figures(questions: Sequence[Question]) -> dict[str, int]:
    """How many figures have all questions right, some, and none. Questions without a figure do not count."""
    groups: dict[str, list[bool]] = {}
    for q in questions:
        if not q.blind:
            groups.setdefault(q.figure_name, []).append(q.right)
    correct, wrong = sum(all(of) for of in groups.values()), sum(not any(of) for of in groups.values())
    return {"total": len(groups), "correct": correct, "wrong": wrong, "inconsistent": len(groups) - correct - wrong}


def yes_no_bias(questions: Sequence[Question]) -> dict[str, float | None]:
    """``diff``: share of yes said minus share of yes right, where what is not right is taken for the opposite of the label; ``fp``: share
    of the errors whose label is no. None where the script divides by 0."""
    said = [q.right == q.label for q in questions]
    wrong = [q for q in questions if not q.right]
    return {
        "diff": sum(said) / len(said) - sum(q.label for q in questions) / len(questions) if questions else None,
        "fp": sum(not q.label for q in wrong) / len(wrong) if wrong else None,
    }


def causes(questions: Sequence[Question]) -> dict[str, float] | None:
    """Per cent of the errors that come from language (LH), from vision (VI) and from both (Mix). None unless each pair has its
    figure 0 and each wrong answer about another figure is judged ``same`` or not, and where there is no error."""
    first = {q.pair: q.verdict for q in questions if q.figure == "0"}
    found = []
    for q in questions:
        if q.figure != "0" and (q.pair not in first or (q.verdict == 0 and q.same is None)):
            return None
        found.append(_cause(q, first.get(q.pair, 2)))
    counts = {name: found.count(cause) for name, cause in (("LH", LANGUAGE), ("VI", VISION), ("Mix", MIXED))}
    total = sum(counts.values())
    return {name: round(100 * n / total, 4) for name, n in counts.items()} if total else None


def _cause(q: Question, first: int) -> tuple[int, int]:
    """(from language, from vision) of one answer; ``first`` is the verdict on the same question about figure 0."""
    if q.verdict == 1:
        return 0, 0
    if q.figure == "0":
        if q.category == "VD":
            return VISION
        return LANGUAGE if q.verdict == 0 else (0, 0)
    if q.category == "VD":
        return MIXED if first == 1 and q.verdict == 0 and q.same else VISION
    if first == 0:
        return LANGUAGE if q.verdict == 0 and q.same else MIXED
    if first == 2 or q.verdict == 2:
        return VISION
    return LANGUAGE if q.visual == 2 and q.same else VISION
