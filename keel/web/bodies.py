"""What requests may hold: the schema of the JSON API."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_EVENT = r"^[A-Za-z0-9_-]{8,64}$"


class Body(BaseModel):
    """Unknown fields are refused: they would be lost."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class LoginIn(Body):
    name: str = Field(max_length=200, description="User name.")
    password: str = Field(max_length=1000, description="Password.")


class JoinIn(Body):
    name: str = Field(default="", max_length=200, description="The user name that the person chose; empty when a platform sent them.")
    password: str = Field(default="", max_length=1000, description="At least 8 characters.")
    platform: dict[str, str] = Field(
        default={}, max_length=10, description="Parameters of the link by which Prolific or MTurk sent the person, as they are."
    )


class JudgementIn(Body):
    """An answer names places as they stood on the screen, from the left or the top, counted from 0."""

    event_id: str = Field(pattern=_EVENT, description="Made by the page, once an answer (crypto.randomUUID()): sent twice, stored once.")
    handle: str = Field(max_length=64, description="Of the item, as it was given.")
    answer: dict[str, Any] = Field(
        description='{"type": "choice", "chosen": "first"|"second"|"tie"|"both_bad"|"cannot"}, {"type": "ranks", "buckets": [[0, 2], '
        '[1]]}, {"type": "scores", "candidate": 0, "scores": {"accuracy": 4, ...}} or {"type": "spans", "spans": [{"candidate": 0, '
        '"start": 3, "end": 9, "kind": "object", "note": ""}]}, ends left out, in Unicode characters.'
    )
    strength: float | None = Field(default=None, ge=0, le=1, description="Of a choice: how clear it was, 0..1.")
    reason: str = Field(default="", max_length=20_000, description="Why, in the person's words.")
    active_ms: int | None = Field(default=None, ge=0, le=7 * 86_400_000, description="Time at work on it, pauses taken off.")
    replaces: str = Field(default="", max_length=64, description="The event that this one corrects; see /api/undo.")


class BatchIn(Body):
    judgements: list[JudgementIn] = Field(min_length=1, description="In their order.")


class UndoIn(JudgementIn):
    """Without ``handle`` and ``answer`` it asks for the item; with them it is the correction; ``take_back``: nothing takes its place."""

    take_back: bool = Field(default=False, description="True: the event is taken back now, and the item is open again.")

    handle: str = Field(default="", max_length=64, description="Of the item; empty: the item is asked for.")
    answer: dict[str, Any] = Field(default={}, description="As of a judgement; empty: the item is asked for.")
    replaces: str = Field(min_length=1, max_length=64, description="The event to be corrected: one of the person's own last ones.")


class PauseIn(Body):
    paused: bool = Field(description="True: nobody gets new items. Answers to items that were given out are still taken.")


class InviteIn(Body):
    role: str = Field(description="annotator, adjudicator or manager.")
    uses: int = Field(default=1, ge=1, le=100_000, description="How many people may join with the link.")
    days: float = Field(default=14, gt=0, le=366, description="How long it works.")


class AccessIn(Body):
    name: str = Field(max_length=200, description="Of the account.")
    disabled: bool = Field(description="True: the account's sessions end and it cannot sign in. Its judgements stay.")


class RetractIn(Body):
    annotator: str = Field(max_length=200, description="Whose judgements are taken back; nothing is deleted.")
    why: str = Field(min_length=1, max_length=1000, description="The reason, for the audit.")
