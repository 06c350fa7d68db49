"""Samples for the page: a prompt's answers over time, the worst ones, those with a word in them; and the search over everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from keel.core.errors import RunError
from keel.dash.folder import Folder, Run
from keel.dash.samples import shown
from keel.runs import logs
from keel.runs.directory import SAMPLES, read_manifest
from keel.runs.environment import flatten

MOST_PROMPTS = 200
MOST_STEPS = 400
SECONDS = 2.0  # that a search may take; what it did not come to is told


def prompts(runs: Sequence[Run]) -> dict[str, Any]:
    """Prompts of which answers were kept, those with the most answers first."""
    found: dict[int, dict[str, Any]] = {}
    for run in runs:
        for key, asked in list(run.answers().prompts.items()):
            row = found.setdefault(key, {"id": str(key), "prompt": asked.prompt, "n": 0, "runs": []})
            row["n"] += len(asked.steps)
            row["runs"].append(run.name)
    rows = sorted(found.values(), key=lambda row: (-len(row["runs"]), -row["n"]))
    return {"prompts": rows[:MOST_PROMPTS], "left_out": max(0, len(rows) - MOST_PROMPTS), "files": [_files(run) for run in runs]}


def _files(run: Run) -> list[str]:
    try:
        return sorted(p.name for p in (run.path / SAMPLES).glob("*.jsonl"))
    except OSError:
        return []


def over_time(run: Run, prompt: str, steps: Sequence[float]) -> dict[str, Any]:
    """A prompt's steps, and its answers at some of them (the first, a middle one and the last unless ``steps`` says which)."""
    samples = run.answers()
    asked = samples.prompts.get(int(prompt)) if prompt.isdecimal() else None
    if asked is None:
        return {"run": run.name, "steps": [], "answers": []}
    every = sorted(set(asked.steps))
    wanted = set(steps) or {every[0], every[len(every) // 2], every[-1]}
    places = [place for step, place in zip(asked.steps, asked.places) if step in wanted]
    rewards = [[s, None if r != r else r] for s, r in zip(asked.steps, asked.rewards)]
    thin = rewards if len(rewards) <= MOST_STEPS else rewards[:: -(-len(rewards) // MOST_STEPS)]
    return {"run": run.name, "steps": every[-MOST_STEPS:], "answers": samples.at(places), "rewards": thin}


def worst(run: Run, most: int) -> dict[str, Any]:
    """The answers with the least rewards; failed ones first."""
    samples = run.answers()
    return {"run": run.name, "answers": samples.at([place for _, _, place in samples.worst(most)]), "n": samples.n}


def search(folder: Folder, text: str, most: int = 40) -> dict[str, Any]:
    """Runs, settings, metrics and samples in which every word of ``text`` stands; capitals do not count. Says what was cut."""
    words = text.lower().split()
    made: dict[str, Any] = {"runs": [], "settings": [], "metrics": [], "samples": [], "more": {}, "unread": 0}
    if not words:
        return made
    end = time.monotonic() + SECONDS

    def fits(*texts: str) -> bool:
        whole = "\n".join(texts).lower()
        return all(word in whole for word in words)

    def add(kind: str, row: dict[str, Any]) -> None:
        if len(made[kind]) < most:
            made[kind].append(row)
        else:
            made["more"][kind] = made["more"].get(kind, 0) + 1

    runs = folder.runs()
    for run in runs:
        row = run.row()
        if fits(run.name, row["verb"], row["state"]):
            add("runs", {"run": run.name, "state": row["state"]})
        try:
            config = flatten((read_manifest(run.path) or {}).get("config") or {})
        except RunError:
            config = {}
        for name, value in config.items():
            if fits(f"{name}={value}"):
                add("settings", {"run": run.name, "text": f"{name}={value}"[:300]})
        for name in logs.last_row(run.path / "metrics.jsonl"):
            if name != "step" and fits(name):
                add("metrics", {"run": run.name, "metric": name})
    for run in runs:
        for path in sorted((run.path / SAMPLES).glob("*.jsonl")):
            if time.monotonic() > end:
                made["unread"] += 1
                continue
            made["unread"] += not _in_file(run, path.name, words, lambda row: add("samples", row), end)
    return made


def _in_file(run: Run, file: str, words: Sequence[str], add: Callable[[dict[str, Any]], None], end: float) -> bool:
    """True when the file was read to its end."""
    needles = [word.encode() for word in words if word.isascii() and '"' not in word and "\\" not in word]
    try:
        with (run.path / SAMPLES / file).open("rb") as lines:
            for i, line in enumerate(lines):
                if i % 256 == 0 and time.monotonic() > end:
                    return False
                if len(line) > 1 << 20 or not all(n in line.lower() for n in needles):
                    continue
                row = logs.parse(line)
                if row is None:
                    continue
                found = shown(row)
                whole = f"{found.get('prompt', '')}\n{found.get('text', '')}".lower()
                if all(word in whole for word in words):
                    at = min((whole.find(word) for word in words), default=0)
                    add(
                        {
                            "run": run.name,
                            "file": file,
                            "step": found["step"],
                            "reward": found["reward"],
                            "text": whole[max(0, at - 80) : at + 200],
                        }
                    )
    except OSError:
        return False
    return True
