"""What critics and revisers are asked, and what they write: the protocol of all of them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from keel.critique.echo import echo
from keel.judges.parse import UnreadableError, after_thought, object_of
from keel.rewards.constitution.config import Principle
from keel.types import Prompt

Writing = Literal["critique", "revision"]
LEAST, MOST = 1, 5  # severities
_FIELDS = {"violates", "severity", "critique"}


@dataclass(frozen=True, slots=True)
class Ask:
    """One call: ``answer`` to ``prompt`` is held against one principle, or changed for it."""

    kind: Writing
    prompt: Prompt
    answer: str
    principle: Principle
    critique: str = ""  # of a revision: what is wrong
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Wrote:
    """A text, or an error and none."""

    text: str = ""
    error: str = ""
    cost: float | None = 0.0  # None = unknown
    tokens: tuple[int, int] | None = None
    made: bool = True  # False: it was in the journal, or there was no money left


@dataclass(frozen=True, slots=True)
class Critique:
    """What a critic says. ``severity`` 1 (a trifle) to 5 (must not be sent), 0 where nothing is violated."""

    violates: bool
    severity: int
    text: str


class Writer(Protocol):
    """Whatever writes critiques or revisions."""

    @property
    def name(self) -> str: ...

    @property
    def sees_images(self) -> bool:
        """Is it shown the images of prompts?"""
        ...

    def price(self, asks: Sequence[Ask]) -> float | None:
        """What the calls will cost at most, before any is made; None = unknown."""
        ...

    def write(self, asks: Sequence[Ask]) -> list[Wrote]:
        """One text for each, in order; failures are values too."""
        ...


def critique_of(reply: str) -> Critique:
    """The critique of a reply that is one JSON object ``{"violates": bool, "severity": 1..5, "critique": text}``, perhaps behind a thought.

    The verdict is the field alone: words of the text decide nothing. Raises UnreadableError for everything else.
    """
    found: dict[str, Any] = object_of(reply)
    if "violates" not in found or set(found) - _FIELDS:
        raise UnreadableError(f"reply: the object must have {', '.join(sorted(_FIELDS))}, it has {', '.join(map(repr, found))[:80]}")
    violates, severity, text = found["violates"], found.get("severity"), found.get("critique", "")
    if not isinstance(violates, bool):
        raise UnreadableError(f"reply: violates {violates!r:.40} is neither true nor false")
    if not isinstance(text, str) or (violates and not text.strip()):
        raise UnreadableError("reply: a violation without a critique in words")
    if not violates:
        return Critique(False, 0, text.strip())
    if isinstance(severity, bool) or not isinstance(severity, int) or not LEAST <= severity <= MOST:
        raise UnreadableError(f"reply: severity {severity!r:.40} is no whole number from {LEAST} to {MOST}")
    return Critique(True, severity, text.strip())


def revision_of(reply: str, mark: str, request: str = "", material: Sequence[str] = ()) -> str:
    """The new answer: the whole reply behind a thought. Raises UnreadableError for an empty one, or one that repeats the request or its
    frame. ``material``: the question and the answer, whose words may be said again."""
    text = after_thought(reply).strip()
    if not text:
        raise UnreadableError("reply: the revision is empty")
    if mark in text:
        raise UnreadableError("reply: the revision holds the frame of the question")
    if echo(text, request, material):
        raise UnreadableError("reply: the revision repeats the request")
    return text


def check(ask: Ask, reply: str, mark: str, request: str) -> None:
    """Raises UnreadableError for a reply that is not what was asked for."""
    if ask.kind == "critique":
        critique_of(reply)
    else:
        prompt = ask.prompt
        asked = prompt.text if prompt.text is not None else "\n".join(m.text for m in prompt.messages)
        revision_of(reply, mark, request, (asked, ask.answer))
