"""From a judge's reply to a verdict or a failure, nothing between. The verdict has one place: the reply's only token, the whole reply, or a
field of the JSON object that is the whole reply. Free text is never searched: what an answer says could be found there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)
_MARKS = "▁Ġ \t\r\n"  # what tokenizers and replies put around a word
LEAST_MASS = 0.5  # of the first token's probability that must lie on labels


class UnreadableError(ValueError):
    """A reply that is no verdict."""


def label_of(reply: str, labels: Sequence[str]) -> str:
    """The label that is the whole reply, white space aside."""
    found = after_thought(reply).strip()
    if found not in labels:
        raise UnreadableError(f"reply: {found[:60]!r} is none of {', '.join(labels)}")
    return found


def distribution(top: Mapping[str, float], labels: Sequence[str], least: float = LEAST_MASS) -> dict[str, float]:
    """Probabilities of the labels from log-probabilities of the first token. Spellings of one label (with a space before it) add up.

    Raises UnreadableError where less than ``least`` of the probability lies on labels: the judge wanted to say something else.
    """
    found = dict.fromkeys(labels, 0.0)
    for token, logprob in top.items():
        if not isinstance(logprob, int | float) or math.isnan(logprob) or logprob > 1e-3:
            raise UnreadableError(f"log-probabilities: {logprob!r} of {token!r} is none")
        label = token.strip(_MARKS)
        if label in found:
            found[label] += math.exp(logprob)
    mass = math.fsum(found.values())
    if mass > 1.01:
        raise UnreadableError(f"log-probabilities: they sum to {mass:.3f}")
    if mass < least:
        raise UnreadableError(f"log-probabilities: only {mass:.3f} of the probability lies on {', '.join(labels)}")
    return {label: p / mass for label, p in found.items()}


def after_thought(reply: str) -> str:
    """The reply behind one ``<think>...</think>`` at its beginning. More than one end of a thought, or none, is no reply: which of them
    is the judge's own cannot be known, since it may quote an answer."""
    begun = reply.lstrip().startswith("<think>")
    if begun and reply.count("</think>") != 1:
        raise UnreadableError("reply: its thought has no end, or more than one")
    return reply.partition("</think>")[2] if begun else reply


def object_of(reply: str) -> dict[str, Any]:
    """The JSON object that is the whole reply, perhaps in one code fence."""
    text = after_thought(reply).strip()
    fenced = _FENCE.fullmatch(text)
    if fenced is not None:
        text = fenced[1]
    try:
        found = json.loads(text, object_pairs_hook=_no_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"reply: no JSON object: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise UnreadableError(f"reply: the JSON is a {type(found).__name__}, no object")
    return found


def field_of(reply: str, name: str) -> Any:
    """The field ``name`` of an object that has no other but ``reason``."""
    found = object_of(reply)
    others = set(found) - {name, "reason"}
    if name not in found or others:
        raise UnreadableError(f"reply: the object must have {name!r} (and may have 'reason'), it has {', '.join(map(repr, found))[:80]}")
    return found[name]


def choice_of(reply: str, labels: Sequence[str]) -> str:
    """``{"verdict": LABEL}``."""
    found = field_of(reply, "verdict")
    if not isinstance(found, str) or found not in labels:
        raise UnreadableError(f"reply: verdict {found!r:.60} is none of {', '.join(labels)}")
    return found


def score_of(reply: str, low: float, high: float) -> float:
    """``{"score": NUMBER}`` on the scale."""
    found = field_of(reply, "score")
    if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
        raise UnreadableError(f"reply: score {found!r:.60} is no number from {low:g} to {high:g}")
    return float(found)


def ranking_of(reply: str, labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """``{"ranking": ["B", ["A", "C"]]}``: the best first, a list inside for those that are equally good; each label once."""
    found = field_of(reply, "ranking")
    if not isinstance(found, list):
        raise UnreadableError(f"reply: ranking {found!r:.60} is no list")
    buckets = tuple(tuple(x) if isinstance(x, list) else (x,) for x in found)
    flat = [x for bucket in buckets for x in bucket]
    if not all(isinstance(x, str) for x in flat) or sorted(flat) != sorted(labels) or not all(buckets):
        raise UnreadableError(f"reply: the ranking must have each of {', '.join(labels)} once, it is {found!r:.80}")
    return buckets


def _no_twice(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
