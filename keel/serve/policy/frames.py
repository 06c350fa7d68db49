"""What front and worker tell each other: one JSON object a line. No torch, so that the front starts without it.

Front to worker: ``{"ask": row}``, ``{"cancel": name}``. Worker to front: ``{"ready": about}`` or ``{"failed": message, "hint": ...}`` once,
then ``{"piece": piece}``, and ``{"refused": name, "message": ...}`` for what cannot be rendered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal

End = Literal["", "stop", "length", "error"]
LARGEST = 64 << 20  # bytes of a line


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token as text with its log-probability under the model's own distribution, at temperature 1 and uncut; ``top``: the likeliest."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to be drawn. ``messages`` are OpenAI's, images as data; ``prompt`` is raw text in their place. ``said``: ids that the
    answer begins with, which are not told again. ``seed`` and ``sample`` decide what is drawn."""

    name: str
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    max_tokens: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    sample: int = 0
    top: int | None = None  # log-probabilities are wanted, of so many of the likeliest tokens too
    said: tuple[int, ...] = ()
    probe: bool = False  # asks whether the worker lives: goes before all others

    def again(self, said: Sequence[int]) -> Row:
        """The same from where it was left."""
        return replace(self, said=tuple(said))


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of an answer: ids, and the text that they make certain. The first piece has no ids; it says that the row was taken up."""

    name: str
    ids: tuple[int, ...] = ()
    text: str = ""
    tokens: tuple[TokenText, ...] = ()
    end: End = ""
    prompt_tokens: int | None = None  # in the first piece
    words: tuple[int, ...] = ()  # in the first piece: ids of what the user wrote last, where they are counted
    error: str = ""
    counted: tuple[int, int] | None = None  # in the last piece of an engine that tells no ids: tokens of the prompt, of the answer


@dataclass(frozen=True, slots=True)
class About:
    """What an engine has loaded. ``tokenizer``: two engines with the same one can go on with each other's answers."""

    model: str
    tokenizer: str = ""
    context: int | None = None
    tool_form: str = ""  # how it writes calls of tools: hermes, json; empty = it has no tools
    chat: bool = True
    own_system: bool = False  # a system prompt of its own stands in place of a conversation's
    images: bool = False
    fast: bool = True
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


def line(frame: Mapping[str, Any]) -> bytes:
    """A frame as it is sent. Characters that are none (half of a pair) survive as escapes."""
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


def plain(record: Row | Piece | About) -> dict[str, Any]:
    """A record as a JSON object, what is at its default left out: most of a piece is. A temperature of 0 is not: its default is 1."""
    usual = _usual(type(record))
    return {k: v for k, v in asdict(record).items() if k not in usual or v != usual[k] or type(v) is not type(usual[k])}


@cache
def _usual(kind: type) -> Mapping[str, Any]:
    """The defaults of a record's fields."""
    found: dict[str, Any] = {}
    for f in fields(kind):
        if f.default is not MISSING:
            found[f.name] = f.default
        elif f.default_factory is not MISSING:
            found[f.name] = f.default_factory()
    return found


def row_from(plain: Mapping[str, Any]) -> Row:
    """The row of a frame."""
    return Row(**{**plain, **{k: tuple(plain[k]) for k in ("messages", "tools", "stop", "said") if k in plain}})


def piece_from(plain: Mapping[str, Any]) -> Piece:
    """The piece of a frame."""
    tokens = tuple(TokenText(t["text"], t["logprob"], tuple((w, p) for w, p in t.get("top", ()))) for t in plain.get("tokens", ()))
    return Piece(**{**plain, "tokens": tokens, **{k: tuple(plain[k]) for k in ("ids", "words", "counted") if k in plain}})
