"""Questions about pictures as bare triples, ``[question, answer, image]``, beside a folder ``images``: how easy-VQA keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from keel.data.rows import BadRow, Rows, json_type, row


def is_triples(data: Any) -> TypeGuard[list[Any]]:
    """Is a JSON value a list whose first entry is [text, text, number]?"""
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, list) and len(first) == 3 and _right(first)


def triple_rows(data: Sequence[Any], file: Path, halves: bool) -> Rows:
    """A row a triple: question, answer, and the image ``images/NUMBER.png``. One that is none becomes a bad row."""
    for number, entry in enumerate(data, start=1):
        if isinstance(entry, list) and len(entry) == 3 and _right(entry):
            question, answer, image = entry
            yield row({"question": question, "answer": answer, "image": f"images/{image}.png"}, file, number, halves)
        else:
            what = f"{len(entry)} values" if isinstance(entry, list) and len(entry) != 3 else json_type(entry)
            reason = f"must be [question, answer, number of the image], has other values ({what})"
            yield BadRow(str(file), number, str(number - 1), reason, {"entry": entry})


def _right(entry: Sequence[Any]) -> bool:
    question, answer, image = entry
    texts = all(isinstance(text, str) and text.strip() for text in (question, answer))
    return texts and isinstance(image, int) and not isinstance(image, bool) and image >= 0
