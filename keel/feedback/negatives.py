"""Poor answers made on purpose, so that annotators, gold items and reward models meet each kind of failure. Marked as such in their origin;
pure functions of texts, what is drawn follows from hashes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from keel.core.hashing import permutation, stable_hash
from keel.data.text import language, sentences, words
from keel.feedback.candidates import make_candidate, similarity
from keel.types import Candidate, Prompt

NegativeKind = Literal["truncated", "repeated", "off_topic", "swapped_facts", "wrong_language"]
KINDS: tuple[NegativeKind, ...] = get_args(NegativeKind)
_FACT = re.compile(r"\d+(?:[.,]\d+)*|(?<=[a-z,;] )[A-Z][a-z]{2,}")  # numbers, names inside a sentence
_UNALIKE = 0.5  # an answer to another prompt is off topic when it is less like those to this one


def truncated(text: str, *parts: str | int) -> str | None:
    """The text cut in the middle of what it says, after 30 to 60 % of its words; None for one that is too short."""
    ends = [m.end() for m in re.finditer(r"\S+\s*|\s+", text)] if len(words(text)) == len(text.split()) else list(range(1, len(text) + 1))
    if len(ends) < 5:
        return None
    share = 0.3 + 0.3 * (stable_hash("truncated", *parts) / 2**64)
    return text[: ends[int(share * len(ends))]].rstrip(" .,;:!?。，；：！？") or None


def repeated(text: str, *parts: str | int) -> str | None:
    """The text with one of its sentences said four times; None for one without any."""
    found = sentences(text)
    if not found:
        return None
    chosen = found[stable_hash("repeated", *parts) % len(found)]
    gap = "" if language(chosen) in ("zh", "ja") else " "
    return text.replace(chosen, gap.join([chosen] * 4), 1)


def swapped_facts(text: str, *parts: str | int) -> str | None:
    """The text with two different numbers, or two names, in each other's places; a single number becomes another one. None for a text
    without any."""
    facts = list(_FACT.finditer(text))
    by_kind = [[m for m in facts if m[0][0].isdigit() is digit] for digit in (True, False)]
    for same in by_kind:
        for i in permutation(len(same), "swapped", *parts):
            other = next((m for m in same if m[0] != same[i][0]), None)
            if other is not None:
                first, second = sorted((same[i], other), key=lambda m: m.start())
                return text[: first.start()] + second[0] + text[first.end() : second.start()] + first[0] + text[second.end() :]
    alone = next((m for m in facts if m[0].isdecimal()), None)
    if alone is None:
        return None
    moved = int(alone[0]) + 1 + stable_hash("moved", *parts) % 9
    return text[: alone.start()] + str(moved) + text[alone.end() :]


def make_negative(
    kind: NegativeKind,
    prompt: Prompt,
    own: Sequence[Candidate],
    others: Mapping[str, Sequence[Candidate]],
    *parts: str | int,
) -> Candidate | None:
    """A poor answer to a prompt from its ``own`` answers, or from those to ``others`` (in the prompt's language: off topic; in another
    one); None where this kind cannot be made of them."""
    prompt_id = prompt.prompt_id
    changes: Mapping[str, Callable[..., str | None]] = {"truncated": truncated, "repeated": repeated, "swapped_facts": swapped_facts}
    if kind in changes:
        for i in permutation(len(own), "negative", kind, prompt_id, *parts):
            text = changes[kind](own[i].text, prompt_id, *parts)
            if text is not None and text.strip() and text.strip() != own[i].text:
                return _marked(prompt_id, text, kind, own[i])
        return None
    spoken = language(prompt.last_user_text)
    for i in permutation(len(others), "negative", kind, prompt_id, *parts):
        for candidate in list(others.values())[i]:
            foreign = language(candidate.text) not in (spoken, "")
            if foreign is not (kind == "wrong_language") or any(similarity(candidate.text, c.text) >= _UNALIKE for c in own):
                continue
            return _marked(prompt_id, candidate.text, kind, candidate)
    return None


def _marked(prompt_id: str, text: str, kind: str, of: Candidate) -> Candidate:
    return make_candidate(prompt_id, text, {"source": "negative", "negative": kind, "made_from": of.candidate_id, "of": dict(of.origin)})
