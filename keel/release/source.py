"""What a release is made from: the model that a run left behind, or a model's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.core.json_lines import lines_of
from keel.runs.directory import read_manifest, read_summary

_TRAINED = ("sft", "prefer", "offline", "rl", "reward")
_POLICIES = _TRAINED[:-1]
_QUESTIONS = 8


@dataclass(frozen=True, slots=True)
class Source:
    """``folder``: the model; ``run``: the run that made it, with its ``manifest``; None and {} for a folder that no run made."""

    folder: Path
    run: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        return (self.run or self.folder).resolve().name

    @property
    def adapter(self) -> Path | None:
        """Where its adapter lies, if it has one of its own."""
        found = self.run / "adapter" if self.run is not None else None
        return found if found is not None and found.is_dir() else None

    @property
    def base(self) -> str:
        """The model that its run began with; empty where nothing says so."""
        return str(self.manifest.get("model", {}).get("spec") or self.manifest.get("config", {}).get("model") or "")

    @property
    def render(self) -> dict[str, Any]:
        """How its run made tokens of messages. The template itself is saved with the model."""
        return {k: v for k, v in self.manifest.get("config", {}).get("render", {}).items() if k != "chat_template"}

    def questions(self) -> list[str]:
        """Questions that its run showed at evaluations; empty where it kept none."""
        file = self.run / "samples" / "training.jsonl" if self.run is not None else None
        if file is None or not file.is_file():
            return []
        rows = [json.loads(line) for line in lines_of(file.read_text(encoding="utf-8"))]
        return list(dict.fromkeys(str(r["prompt"]) for r in rows if r.get("prompt")))[:_QUESTIONS]


def find_source(given: str) -> Source:
    """The model of a finished run (of a pipeline: of its last stage that trained a policy), or of a folder with ``config.json``. Raises
    RunError for anything else."""
    path = Path(given).expanduser()
    if not path.is_dir():
        raise RunError(f"{path} is no folder", "give a run directory, or a folder that holds a model")
    if (path / "stages").is_dir():
        path = _last_stage(path)
    manifest = read_manifest(path)
    if manifest is None:
        if (path / "config.json").is_file():
            of_run = read_manifest(path.parent) if path.name == "final" else None
            return Source(path, path.parent, of_run) if of_run is not None else Source(path)
        raise RunError(f"{path} is neither a run nor a model's folder", "give a run directory, or a folder that holds config.json")
    if manifest.get("verb") not in _TRAINED:
        raise RunError(f"{path} is a run of `keel {manifest.get('verb')}`, which makes no model", "give the run that trained it")
    if read_summary(path) is None or not (path / "final" / "config.json").is_file():
        raise RunError(f"{path} is not finished: there is no final model", "start its command again: it goes on where it was")
    return Source(path / "final", path, manifest)


def _last_stage(path: Path) -> Path:
    found = [(m["starts"][0]["at"], d) for d in (path / "stages").iterdir() if (m := read_manifest(d)) and m.get("verb") in _POLICIES]
    if not found:
        raise RunError(f"{path} has no stage that trained a policy", f"name one of its stages, e.g. {path}/stages/reward")
    return max(found, key=lambda row: (row[0], row[1].name))[1]
