"""A server that judges, criticises and revises by a rule that is known: answers must not hold a word."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from asking import completion

_ANSWER = re.compile(r"\[begin (?:answer|回答) \| \w+\]\n(.*?)\n\[end", re.DOTALL)


class Knowing:
    """``word`` breaks every principle. Counts its calls by kind; ``paid`` by the whole body."""

    def __init__(self, word: str = "red") -> None:
        self.word = word
        self.kinds: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        self.paid[json.dumps(body, sort_keys=True)] += 1
        asked = body["messages"][1]["content"]
        asked = asked if isinstance(asked, str) else "".join(part.get("text", "") for part in asked)
        answer = _ANSWER.findall(asked)[0]
        broken = self.word in answer
        if body["max_tokens"] == 1:
            self.kinds["score"] += 1
            return 200, {}, completion("A" if broken else "E", {"A": -0.01, "E": -9.0} if broken else {"E": -0.01, "A": -9.0})
        if "response_format" in body:
            self.kinds["critique"] += 1
            says = {"critique": f"It does not violate... no: it says {self.word}.", "violates": broken, "severity": 4}
            return 200, {}, completion(json.dumps(says, ensure_ascii=False), usage=(100, 20))
        self.kinds["revision"] += 1
        return 200, {}, completion(answer.replace(self.word, "green"), usage=(100, 10))
