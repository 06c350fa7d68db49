"""A run's record, for those who only look: pages, notebooks, other programs. It is read as it is now, also while the run writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.runs import columns, logs, rollouts
from keel.runs.directory import ABANDONED, EVENTS, MANIFEST, METRICS, read_manifest, read_summary
from keel.runs.rollouts import KeptFile, KeptRollout


@dataclass(frozen=True, slots=True)
class Record:
    """What a run directory says. Raises RunError where ``path`` holds no run."""

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / MANIFEST).is_file():
            raise RunError(f"{self.path} holds no run (no {MANIFEST})", "give the directory of a run, or of one stage of a pipeline")

    @property
    def manifest(self) -> Mapping[str, Any]:
        return read_manifest(self.path) or {}

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """None: the run is not finished."""
        return read_summary(self.path)

    def metrics(self) -> columns.Columns:
        """All metrics of the path that stands."""
        return columns.load(self.path / METRICS)

    def abandoned(self) -> columns.Columns:
        """Those of steps that emergencies took back; ``rollback`` is the number of the emergency."""
        return columns.Columns.of_rows(logs.rows_of(self.path / ABANDONED))

    def last(self) -> Mapping[str, Any]:
        """The last row of metrics, read from the end of the file."""
        return logs.last_row(self.path / METRICS)

    def events(self) -> Iterator[Mapping[str, Any]]:
        """In the order in which they happened; those with ``undone`` are of steps that were taken back or done again."""
        return logs.rows_of(self.path / EVENTS)

    def kept(self) -> list[KeptFile]:
        """Steps of which answers are kept. No answer is read."""
        return rollouts.files(self.path)

    def rollouts(self, file: KeptFile) -> list[KeptRollout]:
        """The answers of one of these steps."""
        return rollouts.read(file)

    def over_time(self, prompt_id: str) -> list[KeptRollout]:
        """A prompt's answers at every evaluation that is kept, by step."""
        found = [row for file in self.kept() if file.kind == "eval" and not file.undone for row in rollouts.read(file)]
        return [row for row in found if row.prompt_id == prompt_id]
