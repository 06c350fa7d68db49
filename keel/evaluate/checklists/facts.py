"""What a checklist can look at: a recipe, or a run with what it left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keel.evaluate.report_data import ReportData, StageData
from keel.runs.columns import Columns, Floats
from keel.runs.environment import flatten
from keel.runs.logs import number

MAIN = ("rl", "prefer", "offline", "reward", "sft")  # of a pipeline's stages the first that is there is looked at


@dataclass(frozen=True, slots=True)
class Facts:
    """``config``: the resolved recipe; the rest is empty where there is no run yet."""

    verb: str
    config: Mapping[str, Any]
    metrics: Columns = field(default_factory=Columns)
    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of the stage; what only the pipeline's has comes beside it
    events: Sequence[Mapping[str, Any]] = ()
    folder: Path | None = None  # of the stage
    algorithm: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of RL, its numbers resolved

    @property
    def flat(self) -> dict[str, Any]:
        """The recipe by key path."""
        return flatten(self.config)

    def setting(self, path: str) -> float | None:
        """A number of the recipe; None where there is none."""
        return number(self.flat.get(path))

    @property
    def rewards(self) -> list[Mapping[str, Any]]:
        found = self.config.get("rewards")
        return [r for r in found if isinstance(r, Mapping)] if isinstance(found, list | tuple) else []

    def told(self, path: str) -> float | None:
        """A number of the summary at a dotted path; an interval's mean."""
        here: Any = self.summary
        for key in path.split("."):
            here = here.get(key) if isinstance(here, Mapping) else None
        return number(here.get("mean") if isinstance(here, Mapping) else here)

    def of(self, *names: str) -> Floats:
        """Values of the first of these metrics that the run has; empty where it has none."""
        for name in names:
            _, values = self.metrics.points(name)
            if len(values):
                return values
        return np.empty(0)


def facts_of(data: ReportData) -> Facts | None:
    """Of a run, as its report reads it; None where no stage of it trains."""
    stage = main_stage(data)
    if stage is None:
        return None
    config = stage.manifest.get("config") or data.manifest.get("config") or {}
    place = None if data.folder is None else data.folder / stage.folder
    verb = str(stage.manifest.get("verb") or stage.name)
    summary = {**data.summary, **stage.summary}
    return Facts(verb, config, stage.metrics, summary, stage.told, place, stage.manifest.get("algorithm") or {})


def main_stage(data: ReportData) -> StageData | None:
    """The stage that the lists are about: the last one that trains a policy, else a reward model."""
    for verb in MAIN:
        for stage in reversed(data.stages):
            if verb in (stage.manifest.get("verb"), stage.name):
                return stage
    return None


def read_json(path: Path) -> Mapping[str, Any]:
    """A file's object; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
