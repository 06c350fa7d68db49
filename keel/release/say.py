"""Sentences in English and Chinese."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

LANGUAGES = ("en", "zh")


@lru_cache(maxsize=len(LANGUAGES))
def sentences(language: str) -> Mapping[str, str]:
    """By key."""
    return json.loads((resources.files("keel.release") / "lang" / f"{language}.json").read_text(encoding="utf-8"))


def say(language: str, key: str, facts: Mapping[str, Any] | None = None) -> str:
    """The sentence of a key, filled in. A fact that is not there stays a question mark; a key without a sentence is itself."""
    text = sentences(language).get(key)
    return key if text is None else _Filled().vformat(text, (), dict(facts or {}))


class _Filled(string.Formatter):
    def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
        return kwargs.get(key, "?")
