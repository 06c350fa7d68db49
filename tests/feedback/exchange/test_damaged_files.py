"""Whatever stands in a file: rows are read or named, never a traceback, and what is read is possible."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.feedback import rows
from keel.feedback.exchange import table
from tests.feedback.exchange.test_round_trips import ARENA, ARGILLA, CROWD, DISTILABEL, LABEL_STUDIO, MTURK, own, potato

ODD: list[Any] = [
    None,
    "",
    " ",
    0,
    -1,
    1.5,
    True,
    [],
    {},
    [None],
    [[]],
    {"a": 1},
    "x" * 50,
    "tie",
    "\x00",
    "1e999",
    [1, "a"],
    {"value": None},
    "[1",
    "😀",
]
JSON_FILES: dict[str, Any] = {"label_studio": LABEL_STUDIO, "argilla": ARGILLA, "distilabel": DISTILABEL, "lmarena": ARENA}


def damage(value: Any, draw: random.Random) -> Any:
    """A copy with one to three values somewhere inside replaced, removed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw.randrange(1, 4)):
        places: list[tuple[Any, Any]] = []

        def walk(node: Any, places: list[tuple[Any, Any]] = places) -> None:
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    walk(node[key])

        walk(value)
        if not places:
            break
        node, key = draw.choice(places)
        action = draw.randrange(4)
        if action == 0 and isinstance(node, dict):
            del node[key]
        elif action == 1 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[key] = copy.deepcopy(draw.choice(ODD))
    return value


def check(name: str, path: Path) -> None:
    try:
        found = table.read(name, path)
    except DataError:  # the whole file cannot be used, and it says why
        return
    tasks = {t.task_id: t for t in found.tasks}
    for task in found.tasks:
        rows.check_task(task)
    for judgement in found.judgements:
        rows.check_judgement(judgement, tasks[judgement.task_id])
    assert all(entry.reason for entry in found.left_out)
    assert len({j.event_id for j in found.judgements}) == len(found.judgements)


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("seed", range(60))
def test_damaged_json(name: str, seed: int, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(damage(JSON_FILES[name], random.Random(seed))))
    check(name, tmp_path / "in.json")


@pytest.mark.parametrize("name", ["mturk", "crowd_csv", "prolific"])
@pytest.mark.parametrize("seed", range(60))
def test_damaged_tables(name: str, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    text = MTURK.lstrip("\ufeff") if name == "mturk" else CROWD.replace("worker", "PROLIFIC_PID" if name == "prolific" else "worker")
    cells = list(csv.reader(io.StringIO(text)))
    for _ in range(draw.randrange(1, 5)):
        row = draw.choice(cells)
        row[draw.randrange(len(row))] = str(draw.choice([*ODD, '[{"a": {"b": true}}]', "true", "9" * 400, "left,right", "nan"]))
    if draw.random() < 0.2:
        draw.choice(cells).pop()
    out = io.StringIO()
    csv.writer(out).writerows(cells)
    (tmp_path / "in.csv").write_text(out.getvalue(), encoding="utf-8")
    check(name, tmp_path / "in.csv")


@pytest.mark.parametrize("seed", range(60))
def test_damaged_projects_of_potato(seed: int, tmp_path: Path) -> None:
    root, draw = potato(tmp_path), random.Random(seed)
    file = draw.choice(sorted(root.rglob("*.json*")))
    values = [json.loads(line) for line in file.read_text().splitlines()] if file.suffix == ".jsonl" else json.loads(file.read_text())
    hurt = damage(values, draw)
    file.write_text("\n".join(map(json.dumps, hurt)) if file.suffix == ".jsonl" else json.dumps(hurt))
    check("potato", root)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_rows_of_keel(seed: int, tmp_path: Path) -> None:
    table.write("keel", own(), tmp_path / "in.jsonl")
    values = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, damage(values, random.Random(seed)))))
    check("keel", tmp_path / "in.jsonl")
