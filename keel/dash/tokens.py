"""The token view: what is known of each token of the answers that a run kept whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keel.core.errors import UserError
from keel.dash.folder import Run, number_text
from keel.dash.samples import turns_shown
from keel.runs import rollouts
from keel.runs.rollouts import KeptFile, KeptRollout

MOST_TOKENS = 4000  # of an answer that are sent
MOST_FILES = 2000
MOST_ANSWERS = 64


def view(run: Run, name: str) -> dict[str, Any]:
    """Steps of which answers were kept, and the answers of the one called ``name``; of the last one where there is none of that name."""
    kept = rollouts.files(run.path)
    shown = next((file for file in kept if file.path.name == name), kept[-1] if kept else None)
    return {
        "run": run.name,
        "files": [_listed(file) for file in kept[-MOST_FILES:]],
        "left_out": max(0, len(kept) - MOST_FILES),
        "shown": shown.path.name if shown else "",
        "answers": [_answer(row) for row in _read(shown)] if shown else [],
    }


def _listed(file: KeptFile) -> dict[str, Any]:
    return {"id": file.path.name, "kind": file.kind, "step": file.step, "undone": file.undone}


def _read(file: KeptFile) -> Sequence[KeptRollout]:
    try:
        return rollouts.read(file)[:MOST_ANSWERS]
    except (OSError, TypeError, ValueError, UserError):  # taken back while we looked, or no row of ours
        return ()


def _answer(row: KeptRollout) -> dict[str, Any]:
    kl = row.kl
    values = {**({"kl": kl} if kl is not None else {}), **row.signals, **{f"logprob/{who}": v for who, v in row.logprobs.items()}}
    return {
        "step": row.step,
        "why": row.why,
        "prompt": row.prompt,
        "text": row.text,
        "tokens": list(row.tokens[:MOST_TOKENS]),
        "pieces": list(row.pieces[:MOST_TOKENS]),
        "sampled": list(row.sampled[:MOST_TOKENS]),
        "n": len(row.tokens),
        "values": {name: [_plain(v) for v in column[:MOST_TOKENS]] for name, column in values.items()},
        "reward": None if row.reward is None else number_text(row.reward),
        "parts": {name: number_text(v) for name, v in row.parts.items()},
        "finish": row.finish_reason,
        "error": row.error,
        "rule": row.rule,
        "turns": turns_shown(row.turns),
        "undone": row.undone,
    }


def _plain(value: Any) -> float | str | None:
    """For JSON, to 6 digits."""
    if not isinstance(value, int | float):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else number_text(float(value))
