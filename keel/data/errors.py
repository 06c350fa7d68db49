"""What is wrong with one row."""

from __future__ import annotations


class FieldError(Exception):
    """One field of a row is missing or wrong. Caught by the reader, which makes a BadRow of it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
