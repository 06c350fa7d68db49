"""Rows that Keel writes itself: one annotator's judgement of two answers."""

from __future__ import annotations

import hashlib
from typing import Any

from keel.data.converters import Meta, identity, read_prompt
from keel.data.errors import FieldError
from keel.data.fields import Fields
from keel.data.rows import json_type
from keel.data.turns import as_messages
from keel.types import Candidate, Comparison


def comparison(fields: Fields, meta: Meta) -> Comparison:
    prompt = read_prompt(fields, meta)
    entries = fields.list("candidates")
    if len(entries) != 2:
        raise FieldError("candidates", f"must be two, are {len(entries)}")
    first, second = (_candidate(f"candidates.{i}", e) for i, e in enumerate(entries))
    if first.messages == second.messages:
        raise FieldError("candidates", "both answers are the same")
    outcome = fields.text("outcome")
    if outcome not in ("first", "second", "tie"):
        raise FieldError("outcome", f"must be first, second or tie, is {outcome!r}")
    strength = fields.number("strength", 1.0)
    if not 0.0 <= strength <= 1.0:
        raise FieldError("strength", f"must be between 0 and 1, is {strength}")
    order = fields.get("display_order", [0, 1])
    if order not in ([0, 1], [1, 0]):
        raise FieldError("display_order", f"must be [0, 1] or [1, 0], is {order}")
    again = ["shown the other way round"] if order == [1, 0] else []  # a repeat of theirs is a vote of its own
    name = identity(fields, prompt, (first.text, second.text, fields.text("annotator_id"), *again))
    protocol, place = fields.optional_text("protocol") or "pairwise-v1", fields.optional_text("source_id") or fields.raw.place
    shown = (0, 1) if order == [0, 1] else (1, 0)
    return Comparison(name, prompt, (first, second), outcome, strength, fields.text("annotator_id"), protocol, shown, place)


def _candidate(name: str, value: Any) -> Candidate:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise FieldError(name, "must be text or an object with text")
    turns = as_messages(f"{name}.turns", value.get("turns") or ())
    if not value["text"].strip() and not turns:
        raise FieldError(name, "the answer is empty")
    origin = value.get("origin") or {}
    if not isinstance(origin, dict):
        raise FieldError(f"{name}.origin", f"must be an object, is {json_type(origin)}")
    digest = hashlib.sha256(value["text"].encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Candidate(str(value.get("candidate_id") or digest), value["text"], origin, turns)
