"""What a judge is asked and what it says: the protocol of all judges. No torch.

A `Question` holds answers in their canonical order and the order in which they are shown; a `Said` always refers to the canonical order,
so that nobody behind a judge has to know what was shown where. A failure is a `Said` with an error and nothing else: it is no tie, no 0
and no -1, and whoever counts verdicts counts it apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from keel.core.errors import DataError
from keel.judges.pictures import holds_image, known_by
from keel.types import Candidate, Message, Prompt

Kind = Literal["pairwise", "pointwise", "ranking", "rubric"]
SIDES = ("first", "second", "tie")
OVERALL = "overall"  # the dimension of a pointwise score


@dataclass(frozen=True, slots=True)
class Question:
    """One call of a judge. ``order[place]`` is the canonical answer shown at that place; empty = as they stand."""

    prompt: Prompt
    answers: tuple[Candidate, ...]
    kind: Kind = "pairwise"
    criterion: str = ""  # of a rubric: what is looked at
    reference: str = ""  # a right answer, for templates that show one
    order: tuple[int, ...] = ()
    sample: int = 0  # 0 the first time, 1 when the same is asked again ...

    def __post_init__(self) -> None:
        n = len(self.answers)
        if not self.order:
            object.__setattr__(self, "order", tuple(range(n)))
        least, most = {"pairwise": (2, 2), "ranking": (2, 26)}.get(self.kind, (1, 1))
        if not least <= n <= most:
            raise DataError(f"a question of kind {self.kind} cannot have {n} answers", f"give {least}" + (f" to {most}" * (most > least)))
        if sorted(self.order) != list(range(n)):
            raise DataError(f"the order {self.order} is no permutation of {n} answers", "each answer stands at one place")

    @property
    def shown(self) -> tuple[str, ...]:
        """The answers' texts in the order in which they are shown."""
        return tuple(self.answers[i].text for i in self.order)

    @property
    def holds_image(self) -> bool:
        """Does the prompt or an answer hold an image?"""
        return holds_image(self.prompt.messages) or any(holds_image(a.turns) for a in self.answers)

    @property
    def swapped(self) -> Question:
        """The same question with the answers shown in the reverse order."""
        return replace(self, order=self.order[::-1])

    def content(self) -> dict[str, Any]:
        """What the question is about, as JSON, whatever order and sample: prompt, answers, criterion, reference. Images by their bytes."""
        return {
            "prompt": _content(self.prompt.messages) or self.prompt.text,
            "answers": [_content(a.turns) or a.text for a in self.answers],
            "kind": self.kind,
            "criterion": self.criterion,
            "reference": self.reference,
        }


def _content(turns: Sequence[Message]) -> list[list[Any]]:
    calls = [m.extra.get("tool_calls") for m in turns]
    return [[m.role, repr(known_by(m.content)), *([c] if c else [])] for m, c in zip(turns, calls, strict=True)]


@dataclass(frozen=True, slots=True)
class Said:
    """What a judge said to one question. Exactly one of ``probabilities``, ``scores``, ``ranks`` and ``error`` is there."""

    probabilities: Mapping[str, float] | None = None  # pairwise: first, second, tie (of the canonical answers); they sum to 1
    scores: Mapping[str, float] | None = None  # pointwise: "overall"; rubric: by criterion; on the template's scale
    ranks: tuple[tuple[int, ...], ...] | None = None  # canonical answers, best bucket first
    text: str = ""  # the reply as it came
    tokens: tuple[int, int] | None = None  # read and written; None where nobody counted
    cost: float | None = 0.0  # of this call; None = the price is unknown. A call that was journalled before costs 0
    error: str = ""  # "kind: what happened"
    made: bool = True  # False: no call was made (journalled before, no money left)

    def __post_init__(self) -> None:
        there = sum(x is not None for x in (self.probabilities, self.scores, self.ranks)) + bool(self.error)
        assert there == 1, "a judge says one thing, or fails"
        if self.probabilities is not None:
            values = [self.probabilities.get(side, 0.0) for side in SIDES]
            assert set(self.probabilities) <= set(SIDES), f"sides are {SIDES}"
            assert abs(math.fsum(values) - 1.0) < 1e-6, f"probabilities sum to 1, these to {math.fsum(values)}"

    @property
    def lead(self) -> float:
        """``P(first) - P(second)`` of a pairwise verdict, in [-1, 1]; NaN of anything else."""
        p = self.probabilities
        return math.nan if p is None else p.get("first", 0.0) - p.get("second", 0.0)

    @property
    def chosen(self) -> str:
        """``first``, ``second`` or ``tie``: the likeliest; neither side ahead is a tie. "" of what is no pairwise verdict."""
        return side_of(self.probabilities) if self.probabilities is not None else ""


def side_of(probabilities: Mapping[str, float]) -> str:
    """The rule of ties: a tie where it is the likeliest, or where neither side is ahead by more than rounding."""
    first, second, tie = (probabilities.get(side, 0.0) for side in SIDES)
    if abs(first - second) < 1e-9 or tie > max(first, second):
        return "tie"
    return "first" if first > second else "second"


def failed(error: str, **more: Any) -> Said:
    """No verdict, and why."""
    return Said(error=error, **more)


class Judge(Protocol):
    """Whatever answers questions. Two judges of one ``identity`` say the same, as far as they can."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """Hash of all that decides what it says: model, templates, parameters."""
        ...

    @property
    def family(self) -> str:
        """The family of its model ("" = none): answers of the same one are watched for favour."""
        ...

    @property
    def sees_images(self) -> bool:
        """Is it shown images? One that reads text alone refuses them (`check_images`)."""
        ...

    def price(self, questions: Sequence[Question]) -> float | None:
        """What the questions will cost at most, before any is asked; None = unknown."""
        ...

    def ask(self, questions: Sequence[Question]) -> list[Said]:
        """One answer to each question, in order; failures are answers too."""
        ...


def check_images(judge: Judge, rows: Iterable[tuple[Prompt, Sequence[Candidate]]], hint: str = "") -> None:
    """Raises DataError, before anything is asked, where rows hold images and the judge reads text alone: each is named."""
    if judge.sees_images:
        return
    lost = [p.source_id or p.prompt_id for p, answers in rows if holds_image(p.messages) or any(holds_image(a.turns) for a in answers)]
    if lost:
        named = ", ".join(dict.fromkeys(lost[:5])) + (", ..." if len(lost) > 5 else "")
        raise DataError(
            f"judge {judge.name} reads text alone, and {len(lost)} rows hold images: {named}",
            hint or "leave them out, or take a judge that sees images (type endpoint with images: true, or a local vision-language model)",
        )


def digest(value: Any) -> str:
    """sha256 of a JSON value, 32 hexadecimal digits."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
