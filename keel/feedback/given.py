"""What an annotator is given: items without anything that could tell whose answers they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.feedback.campaigns import Campaign
from keel.feedback.leases import Lease
from keel.feedback.rows import utc
from keel.feedback.texts import message_row
from keel.types import Candidate, Prompt, Purpose, Task


@dataclass(frozen=True, slots=True)
class Item:
    """One item as a person gets it. ``task`` names nobody and tells nothing: no ids, origins, sources, meta or expected answer."""

    handle: str  # what to answer with
    task: Task  # candidates in their canonical order
    display_order: tuple[int, ...]  # which candidate stands at each place
    until: float  # seconds since 1970
    purpose: Purpose  # for the server alone: the page must not learn it
    guideline: str

    def public(self) -> dict[str, Any]:
        """What may go to the annotator's page: prompt and answers in the order of the screen."""
        prompt = self.task.prompt
        said = prompt.text if prompt.text is not None else [message_row(m) for m in prompt.messages]
        shown = [self.task.candidates[i] for i in self.display_order]
        answers = [{"text": c.text, **({"turns": [message_row(m) for m in c.turns]} if c.turns else {})} for c in shown]
        known: dict[str, Any] = {"handle": self.handle, "kind": self.task.kind, "prompt": said, "answers": answers}
        return known | {"tools": [dict(t) for t in prompt.tools], "until": utc(self.until), "guideline": self.guideline}


@dataclass(frozen=True, slots=True)
class Given:
    """What a page asks for: items, and where the person stands. ``state``: training, qualification, passed or failed."""

    leases: tuple[Lease, ...]
    items: tuple[Item, ...]
    state: str
    answered: int
    campaign: Campaign


def blind(task: Task) -> Task:
    """A task without anything that could tell whose answers they are or what is expected."""
    asked = Prompt("", task.prompt.messages, task.prompt.text, task.prompt.tools, joint=task.prompt.joint)
    shown = tuple(Candidate(str(i), c.text, turns=c.turns) for i, c in enumerate(task.candidates))
    return replace(task, task_id="", prompt=asked, candidates=shown, campaign="", expected=None, source_id="", meta={})


def items_of(leases: Sequence[Lease], tasks: Sequence[Task]) -> tuple[Item, ...]:
    """What the annotator may see of leases, each with its task."""
    pairs = zip(leases, tasks, strict=True)
    return tuple(Item(x.handle, blind(task), x.display_order, x.until, x.purpose, task.guideline) for x, task in pairs)
