"""Run folders for tests, written as runs write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keel.runs import logs


def make_run(
    run: Path, rows: Iterable[Mapping[str, Any]] = (), seed: int = 0, summary: Mapping[str, Any] | None = None, **config: Any
) -> Path:
    """A run with these rows of metrics."""
    run.mkdir(parents=True, exist_ok=True)
    manifest = {"schema": 1, "verb": "rl", "seed": seed, "data": {}, "config": {"seed": seed, "model": "tiny", **config}}
    manifest["starts"] = [{"at": "2026-01-02T03:04:05+00:00", "argv": ["keel", "rl"]}]
    (run / "manifest.json").write_text(json.dumps(manifest))
    logs.append(run / "metrics.jsonl", rows)
    if summary is not None:
        (run / "summary.json").write_text(json.dumps({"schema": 1, **summary}))
    return run


def tell(run: Path, *events: Mapping[str, Any]) -> None:
    """Add events."""
    logs.append(run / "events.jsonl", [{"at": "2026-01-02T03:04:05.000+00:00", "message": "", **event} for event in events])


def answer(run: Path, *rows: Mapping[str, Any]) -> None:
    """Add samples."""
    (run / "samples").mkdir(exist_ok=True)
    logs.append(run / "samples" / "training.jsonl", rows)


def steps(n: int, **values: Any) -> list[dict[str, Any]]:
    """Rows of steps 1 to n: ``reward`` is the step, and what ``values`` says by step (a function or a number)."""
    return [{"step": i, "reward": float(i), **{k: v(i) if callable(v) else v for k, v in values.items()}} for i in range(1, n + 1)]
