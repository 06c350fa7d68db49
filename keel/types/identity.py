"""Which answers are the same answer, and which comparisons ask the same: one rule for all who add votes up. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from keel.types.records import Candidate, Comparison, Message, Prompt

AnswerId = tuple[str, str]  # a candidate's id and its content: files may name their candidates "a" and "b" each
ItemId = tuple[str, AnswerId, AnswerId]  # a prompt's id and two answers


def answer_key(answer: Sequence[Message]) -> str:
    """A stable id of an answer's content, images and tool calls included: equal answers to one prompt share it."""
    turns = [[m.role, m.content, dict(m.extra), *([] if m.trained else ["not trained"])] for m in answer]
    content = json.dumps(turns, sort_keys=True, default=repr)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def answer_id(candidate: Candidate) -> AnswerId:
    """What tells a candidate from others to the same prompt."""
    return candidate.candidate_id, answer_key(candidate.messages)


def item_id(prompt: Prompt, candidates: Sequence[Candidate]) -> ItemId:
    """What two candidates of which prompt: the same for both orders. Raises ValueError for other than two."""
    one, two = sorted(map(answer_id, candidates))
    return prompt.prompt_id, one, two


def item_of(comparison: Comparison) -> ItemId:
    """The item that a comparison is about."""
    return item_id(comparison.prompt, comparison.candidates)
