"""What a project is made from: answers given by flags, or asked in the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from keel.core.errors import UserError
from keel.new.words import words

Labels = Literal["demonstrations", "pairs", "ratings", "verifiable", "reward", "none"]
LABELS: tuple[Labels, ...] = ("demonstrations", "pairs", "ratings", "verifiable", "reward", "none")
MACHINES = ("cpu", "gpu")
LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Given:
    """The flags; "" where one was not given."""

    labels: str = ""
    images: str = ""
    machine: str = ""
    language: str = ""
    model: str = ""
    data: str = ""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """All answers. ``labels`` and ``images`` may be "" and None where the user's own data will tell."""

    labels: str
    images: bool | None
    machine: str
    language: str
    model: str
    data: str
    settings: tuple[str, ...] = ()


def usual_machine() -> str:
    """gpu where NVIDIA's driver is, else cpu; torch is not asked, it takes seconds to start."""
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def answered(given: Given, ask: Callable[[str], str] | None) -> Wanted:
    """Every answer: of a flag, else asked by ``ask`` (``input``), else the usual one. What the user's own data tell is not asked.

    Raises UserError for settings without data that they speak of, and for others than those of data."""
    other = next((s for s in given.settings if not s.startswith("data.")), None)
    if other is not None:
        raise UserError(f"{other}: keel new takes settings of data alone", "the recipe that it writes is yours to change")
    if given.settings and not given.data:
        raise UserError(f"{given.settings[0]} says how rows are read, and there are none", "--data FILE names them")
    language = given.language or _choice(ask, "en", "language", LANGUAGES, "en")
    labels, images = given.labels, given.images
    if not given.data:
        labels = labels or _choice(ask, language, "labels", LABELS, "pairs")
        images = images or _choice(ask, language, "images", ("no", "yes"), "no")
    machine = given.machine or _choice(ask, language, "machine", MACHINES, usual_machine())
    return Wanted(labels, {"yes": True, "no": False}.get(images), machine, language, given.model, given.data, given.settings)


def missing(given: Given) -> list[str]:
    """Flags without which nothing can be decided where nobody can be asked."""
    return [] if given.data or given.labels else ["--labels"]


def _choice(ask: Callable[[str], str] | None, language: str, name: str, choices: tuple[str, ...], usual: str) -> str:
    """One question; Enter takes the usual answer. A number or a name answers it."""
    if ask is None:
        return usual
    said = words(language)
    lines = [said[f"ask.{name}"], *(f"  {i}. {c:<15}{said.get(f'ask.{name}.{c}', '')}".rstrip() for i, c in enumerate(choices, 1))]
    for _ in range(5):
        text = ask("\n".join(lines) + f"\n[{usual}] > ").strip().lower()
        if not text:
            return usual
        if text in choices:
            return text
        if text.isdecimal() and 1 <= int(text) <= len(choices):
            return choices[int(text) - 1]
        lines = [said["ask.again"].format(choices=", ".join(choices), n=len(choices))]
    raise UserError(f"{text!r} is no answer to: {said[f'ask.{name}']}", f"give it as a flag: --{name} {'|'.join(choices)}")
