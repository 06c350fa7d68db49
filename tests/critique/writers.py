"""Critics and revisers that say what a table says, and principles that count words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from keel.core.config import checked
from keel.critique.ask import Ask, Wrote
from keel.rewards.constitution.config import Constitution
from keel.types import Message, Prompt


def asked(text: str = "Where is it?", **meta: object) -> Prompt:
    return Prompt(f"p-{text}", (Message("user", text),), meta=meta)


def says(violates: object = True, severity: object = 3, critique: object = "It is wrong.") -> str:
    return json.dumps({"critique": critique, "violates": violates, "severity": severity}, ensure_ascii=False)


def banned(name: str, word: str, band: str = "", **more: object) -> dict[str, object]:
    """A principle that forbids a word."""
    rules = {"forbidden": [{"name": word, "words": [word]}]}
    return {"name": name, "text": f"No {word}.", "band": band, "scorer": {"type": "rule", "rules": rules}, **more}


def constitution(*principles: dict[str, object], **more: object) -> Constitution:
    return checked(Constitution, {"principles": list(principles), **more})


@dataclass
class Scripted:
    """A `Writer`: ``reply`` of each call, or an error that begins with ``!``."""

    reply: Callable[[Ask], str]
    name: str = "scripted"
    heard: list[Ask] = field(default_factory=list)

    sees_images: bool = False

    def price(self, asks: Sequence[Ask]) -> float | None:
        return 0.25 * len(asks)

    def write(self, asks: Sequence[Ask]) -> list[Wrote]:
        self.heard += asks
        found = [self.reply(a) for a in asks]
        return [Wrote(error=f[1:], cost=0.25) if f.startswith("!") else Wrote(f, cost=0.25) for f in found]


def without(ask: Ask) -> str:
    """The answer without the word that the principle forbids."""
    word = ask.principle.text.removeprefix("No ").removesuffix(".")
    return " ".join(w for w in ask.answer.split() if w != word)
