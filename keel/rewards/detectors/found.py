"""What a detector of made-up things tells of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from keel.types import Prompt

ErrorType = Literal["existence", "count", "attribute", "relation", "knowledge"]
ERROR_TYPES: tuple[ErrorType, ...] = ("existence", "count", "attribute", "relation", "knowledge")


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector tells of one answer. ``errors``: (type, first character, past-last character) each. ``coverage``: the share of the
    truth that was told, in [0, 1]; None where there is no telling."""

    errors: Sequence[tuple[str, int, int]] = ()
    coverage: float | None = None


Detector = Callable[[Prompt, str], Found]
