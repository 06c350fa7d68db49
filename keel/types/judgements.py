"""What people, judges, reward models and simulated annotators are asked, and what they answer. No torch.

A `Task` holds candidates in their canonical order; a `Judgement` refers to them by their place in it, whatever order the screen showed.
`Comparison` (in `records`) is a view that training reads, derived from judgements of two candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from keel.types.records import Candidate, Prompt

TaskKind = Literal["pairwise", "ranking", "rating", "spans"]
Purpose = Literal["work", "gold", "repeat", "training", "audit", "adjudication"]
Chosen = Literal["first", "second", "tie", "both_bad", "cannot"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of two candidates is better. ``first`` and ``second`` are places in ``Task.candidates``, never on the screen.

    ``tie`` says equally good, ``both_bad`` that neither may be learnt from, ``cannot`` that the annotator cannot tell. Three things.
    """

    chosen: Chosen
    strength: float | None = None  # 0..1, how clear it was; None where nobody was asked


@dataclass(frozen=True, slots=True)
class Ranks:
    """All candidates, best bucket first; the candidates of one bucket are ties. Each place of ``Task.candidates`` stands once."""

    buckets: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one candidate by dimension (``accuracy``, ``completeness`` ...), on the scale that the protocol names."""

    candidate: int
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch ``[start, end)`` of a candidate's text, in Unicode characters, and what is wrong there (``object``, ``attribute`` ...)."""

    candidate: int
    start: int
    end: int
    kind: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Spans:
    """What is wrong where. Empty: the candidates were read and nothing was found."""

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Nothing: the annotator took back the judgement that this one replaces, and has not answered again."""


Answer = Choice | Ranks | Scores | Spans | TakenBack


@dataclass(frozen=True, slots=True)
class Task:
    """One question to one or more annotators. ``task_id`` is a hash of all else unless a foreign file names one."""

    task_id: str
    prompt: Prompt
    candidates: tuple[Candidate, ...]  # K >= 1, canonical order
    kind: TaskKind
    protocol: str  # "pairwise-v1" ...: judgements of different protocols are not mixed silently
    guideline: str = ""  # id of the guideline's version in force when the task was made
    campaign: str = ""
    expected: Answer | None = None  # the known answer of a gold or training item; annotators never see it
    source_id: str = ""  # its id or place in the file that it came from
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Annotator:
    """Who judges. ``identity`` makes two of one name different: for a judge the hash of model, template and parameters."""

    annotator_id: str
    kind: Literal["person", "judge", "reward_model", "simulated"]
    identity: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Judgement:
    """One answer of one annotator to one task: an event, never changed. ``event_id`` is made by the client: sent twice, stored once."""

    event_id: str
    task_id: str
    by: str  # annotator_id
    purpose: Purpose
    answer: Answer
    display_order: tuple[int, ...]  # which candidate was shown at each place, from the left or top
    protocol: str
    at: str  # when it was given: UTC, ISO 8601, ends in "Z"; the server's clock for people
    repeat: int = 0  # 0 the first time, 1 when the same annotator is asked again ...
    active_ms: int | None = None  # time at work on it, pauses taken off; None where it was not measured
    reason: str = ""
    guideline: str = ""
    replaces: str = ""  # event_id of the judgement that this one takes back; with `TakenBack` nothing stands in its place
    late: bool = False  # arrived after its lease had ended
    source_id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])  # tokens, cost, model version; "blind": False ...
