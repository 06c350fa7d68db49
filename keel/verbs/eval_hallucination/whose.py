"""Whose answers a file holds: what the settings name, or what the rows say themselves. A gate before a release asks for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from keel.core.errors import UserError
from keel.data.sources import read_source
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.runs.fingerprints import model_fingerprint


def whose(config: HallucinationConfig) -> tuple[dict[str, Any], list[str]]:
    """(what the JSON says of the answers, notes): the file's digest, the ``models`` that its rows name with their numbers of rows, and
    ``model_fingerprint`` where one model alone answered and is known. Raises UserError where the rows say another model."""
    raw = Path(config.file).expanduser().read_bytes()
    answers: dict[str, Any] = {"sha256": hashlib.sha256(raw).hexdigest(), "model": config.model or None}
    said, marks = _column(config.file, "model"), _column(config.file, "model_fingerprint")
    answers |= {"models": said} if said else {}
    known = model_fingerprint(Path(config.model).expanduser()) if config.model and Path(config.model).expanduser().exists() else ""
    if known and marks and set(marks) != {known}:
        raise UserError(
            f"{config.file}: its rows say model_fingerprint {next(m for m in marks if m != known)}, {config.model} has {known}",
            "give the model that wrote these answers",
        )
    own = known or (next(iter(marks)) if len(marks) == 1 else "")
    found: dict[str, Any] = {"answers": answers} | ({"model_fingerprint": own} if own else {})
    several = [f"answers of {len(of)} models are judged as one: {', '.join(of)}" for of in (said,) if len(of) > 1]
    unsaid = [] if own or config.model or said else ["whose answers these are is not said: model=FOLDER names the model that wrote them"]
    return found, several + unsaid


def _column(file: str, name: str) -> dict[str, int]:
    """How many rows have each value of a column; none where not every row says it."""
    rows = read_source(file).rows
    found: dict[str, int] = {}
    for row in rows:
        value = row.values.get(name)
        if not isinstance(value, str) or not value:
            return {}
        found[value] = found.get(value, 0) + 1
    return found
