"""Text of an expression -> words with their places. ``a/b`` is a name, ``a / b`` a division."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "name", "pattern", "setting", "symbol", "word", "end"]
WORDS = frozenset({"and", "or", "not"})

_NAME = r"[^\W\d][\w.:@]*(?:/\w[\w.:@]*)*"  # letters of any script: rewards/正确/mean
_TOKEN = re.compile(
    rf"""(?P<space>\s+)
    |(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<setting>\$[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)
    |(?P<name>{_NAME})
    |`(?P<quoted>[^`]+)`
    |(?P<symbol><=|>=|==|!=|[<>+\-*/(),])""",
    re.VERBOSE,
)
_INSTEAD = {
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`",
    "=": "write == to compare",
    "^": "there are no powers: multiply",
    "%": "write a share as a number: 0.2",
    "'": "there are no texts; a name with other signs stands in `backticks`",
    '"': "there are no texts; a name with other signs stands in `backticks`",
    "`": "a name in backticks needs the second one",
    "$": "after $ comes the path of a setting: $kl.target",
    "[": "there are no lists; windows are functions: mean(x, 10)",
    "?": "there is no `? :`; write two rules",
}


class ExpressionError(ValueError):
    """An expression cannot be read. ``position`` counts signs from 1; the text shows the place."""

    def __init__(self, text: str, start: int, message: str) -> None:
        self.position = start + 1
        line = " ".join(text.splitlines()) if "\n" in text else text
        super().__init__(f"{message} (position {self.position})\n    {line}\n    {' ' * start}^")


@dataclass(frozen=True, slots=True)
class Token:
    """A word of an expression; ``start`` is its place, from 0. A ``pattern`` is a name with ``*``, ``?`` or ``[``."""

    kind: Kind
    text: str
    start: int


def is_name(text: str) -> bool:
    """Can it stand as a name without backticks?"""
    return re.fullmatch(_NAME, text) is not None and text not in WORDS


def tokens(text: str) -> list[Token]:
    """The words of an expression, an ``end`` last. Raises ExpressionError for a sign that is none of the language."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            hint = _INSTEAD.get(text[at], "")
            raise ExpressionError(text, at, f"{text[at]!r} means nothing here" + (f": {hint}" if hint else ""))
        kind, value = str(match.lastgroup), str(match.group(str(match.lastgroup)))
        if kind == "quoted":
            found.append(Token("pattern" if set("*?[") & set(value) else "name", value, at))
        elif kind == "name" and value in WORDS:
            found.append(Token("word", value, at))
        elif kind == "setting":
            found.append(Token("setting", value[1:], at))
        elif kind != "space":
            found.append(Token(kind, value, at))  # pyright: ignore[reportArgumentType]
        at = match.end()
    return [*found, Token("end", "", len(text))]
