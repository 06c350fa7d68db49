"""Calls of tools in what a model wrote: told apart from its text while it is written, read when it has ended."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from keel.serve.policy.text_stream import overlap

Form = Literal["hermes", "json"]
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(re.escape(_OPEN) + r"\s*(.*?)\s*(?:" + re.escape(_CLOSE) + r"|$)", re.DOTALL)


def form_of(template: str) -> Form | Literal[""]:
    """How a model with this chat template writes calls; empty where the template knows no tools."""
    if "tools" not in template:
        return ""
    return "hermes" if _OPEN in template else "json"


class CallSplitter:
    """Text for the reader comes out at once; from the beginning of a call on everything is kept until the end."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._kept = ""
        self._calling = False
        self._begun = False

    def add(self, text: str) -> str:
        """The part of the new text that is no call, as far as that is certain."""
        self._kept += text
        if self._calling:
            return ""
        if self._form == "json":
            return self._json()
        at = self._kept.find(_OPEN)
        if at >= 0:
            self._calling = True
            told, self._kept = self._kept[:at], self._kept[at:]
            return told
        keep = overlap(self._kept, (_OPEN,))
        told, self._kept = self._kept[: len(self._kept) - keep], self._kept[len(self._kept) - keep :]
        return told

    def _json(self) -> str:
        """A call is the whole answer: the first character that is no white space decides."""
        if not self._begun and self._kept.strip():
            self._begun = True
            self._calling = self._kept.lstrip()[0] in "{["
        if self._calling or not self._begun:
            return ""
        told, self._kept = self._kept, ""
        return told

    def finish(self, names: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
        """(text that was kept and is no call, the calls) at the end. ``names``: the tools there are; another one is text."""
        if not self._calling:
            return self._kept, []
        bodies = _CALL.findall(self._kept) if self._form == "hermes" else [self._kept]
        calls = [call for body in bodies for call in _calls(body, names)]
        if not calls or (self._form == "hermes" and len(calls) < len(bodies)):
            return self._kept, []  # what cannot be read is shown as it was written
        return "", calls


def _calls(body: str, names: Sequence[str]) -> list[dict[str, Any]]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return []
    found: list[dict[str, Any]] = []
    for one in said if isinstance(said, list) else [said]:
        call = _call(one, names)
        if call is None:
            return []
        found.append(call)
    return found


def _call(one: Any, names: Sequence[str]) -> dict[str, Any] | None:
    if not isinstance(one, Mapping) or one.get("name") not in names:
        return None
    arguments = one.get("arguments", one.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": one["name"], "arguments": text}}
