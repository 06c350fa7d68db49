"""The settings of each command as words, kept in `keys.txt`: reading them from the classes would take torch and seconds a key press."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

FILE = Path(__file__).parent / "keys.txt"
STAGE = "stage:"  # before a verb that means another thing as a stage of a pipeline than as a command


def read_keys(text: str) -> dict[str, list[str]]:
    """Paths of settings by command; a line is a path and the commands that have it."""
    found: dict[str, list[str]] = {}
    for path, *verbs in (line.split() for line in text.splitlines()):
        for verb in verbs:
            found.setdefault(verb, []).append(path)
    return found


def write_keys(paths: Mapping[str, Iterable[str]]) -> str:
    """What ``read_keys`` reads."""
    verbs: dict[str, list[str]] = {}
    for verb, of_verb in paths.items():
        for path in dict.fromkeys(of_verb):
            verbs.setdefault(path, []).append(verb)
    return "".join(f"{path} {' '.join(verbs[path])}\n" for path in sorted(verbs))
