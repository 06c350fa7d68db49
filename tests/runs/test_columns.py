"""The side file of columns says what metrics.jsonl says, whatever happened to either."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keel.core.config import Section
from keel.core.events import EventBus
from keel.runs import columns, logs
from keel.runs.columns import Columns
from keel.runs.directory import COLUMNS, RunDir
from keel.runs.sinks import JsonlSink


def plainly(path: Path) -> tuple[int, dict[str, list[tuple[float, float]]]]:
    """Rows, and the points of every metric, read row by row."""
    rows = logs.read(path)
    found: dict[str, list[tuple[float, float]]] = {}
    for i, row in enumerate(rows):
        step = logs.number(row.get("step"))
        for name, value in row.items():
            number = logs.number(value)
            if name != "step" and number is not None:
                found.setdefault(name, []).append((i + 1.0 if step is None else step, number))
    return len(rows), found


def same(found: Columns, path: Path) -> None:
    n, expected = plainly(path)
    assert len(found) == n
    assert sorted(found.names) == sorted(expected)
    for name, points in expected.items():
        steps, values = found.points(name)
        np.testing.assert_array_equal(np.stack([steps, values], 1), np.array(points))  # NaN equals NaN here


WHAT = ("add", "add", "add", "grow", "tear", "back", "load", "seal", "delete", "spoil", "save", "put back", "no step")


def row(chance: random.Random, step: int) -> dict[str, Any]:
    values = [1.5, -0.0, 3, math.nan, math.inf, -math.inf, True, None, "text", "NaN", 10**400, [1], chance.random()]
    names = chance.sample(["loss", "kl", "eval/é", "a b", "长"], chance.randrange(6))
    return {"step": step, **{name: chance.choice(values) for name in names}}


@pytest.mark.parametrize("seed", range(40))
def test_columns_are_the_rows_after_any_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Rows come, the last one grows, lines are torn, the run goes back and writes others of the same length, the file is put back, readers
    and the writer make blocks, blocks are deleted, cut and changed: after each, columns and rows are the same."""
    chance = random.Random(seed)
    monkeypatch.setattr(columns, "BLOCK", chance.choice([1, 2, 5]))
    path, step = tmp_path / "metrics.jsonl", 0
    saved = b""
    for _ in range(40):
        what = chance.choice(WHAT)
        blocks = sorted((tmp_path / COLUMNS).glob("*.block"))
        content = path.read_bytes() if path.exists() else b""
        if what == "add":
            logs.append(path, [row(chance, step := step + 1) for _ in range(chance.randrange(1, 8))])
        elif what == "grow" and content.endswith(b"}\n"):
            last = logs.last_row(path)
            logs.cut_end(path, lambda r, last=last: r == last)
            logs.append(path, [{**last, "eval/loss": 2.0}])
        elif what == "tear":
            path.write_bytes(content + b'{"step": 99, "lo' + chance.choice([b"", b"\n"]))
        elif what == "back":
            step = chance.randrange(step + 1)
            logs.cut_end(path, lambda r, at=step: r.get("step", 0) > at)
            if chance.random() < 0.5:  # as long as before, with other numbers: nothing but the content tells
                path.write_bytes(content.replace(b"1.5", b"2.5"))
        elif what == "load":
            columns.load(path)
        elif what == "seal":
            columns.seal(path)
        elif what == "delete" and blocks:
            chance.choice(blocks).unlink()
        elif what == "spoil" and blocks:
            block = chance.choice(blocks)
            data = bytearray(block.read_bytes())
            data[chance.randrange(len(data))] ^= 1
            block.write_bytes(bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data))
        elif what == "save":
            saved = content
        elif what == "put back":
            path.write_bytes(saved)
        else:
            logs.append(path, [{"loss": 1.0}])
        same(columns.load(path), path)


def test_the_writer_makes_blocks_and_readers_use_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 4)
    run = RunDir.open(tmp_path / "run", Section(), "sft", 0)
    bus = EventBus([JsonlSink(run)])
    path = run.path / "metrics.jsonl"
    for step in range(1, 20):
        bus.emit("step", step, metrics={"loss": 1 / step})
        bus.emit("eval", step, metrics={"eval/loss": 2.0})
    bus.close()
    assert len(list((run.path / COLUMNS).iterdir())) == 3, "of 19 rows, the last block comes with its last row's end"
    parsed: list[bytes] = []
    parse = logs.parse
    monkeypatch.setattr(logs, "parse", lambda line: parsed.append(line) or parse(line))
    found = columns.load(path)
    assert len(parsed) == 7, "rows in blocks are not read again"
    assert found.points("loss")[1].tolist() == [1 / step for step in range(1, 20)]
    columns.load(path)
    assert len(parsed) == 10, "a block more is kept by the first who read"
    run.close()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\n[1]\n{"step": 2, "x": 1}\n{"st')
    found = columns.load(path)
    assert (len(found), found.left_out, found.names) == (2, 2, ("x",))
    assert len(columns.load(tmp_path / "none.jsonl")) == 0


def test_a_run_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(columns, "BLOCK", 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i, "x": i}) + "\n" for i in range(9)))
    monkeypatch.setattr(Path, "mkdir", refuse)
    found = columns.load(path)
    assert found.points("x")[1].tolist() == list(range(9))
    assert not (tmp_path / COLUMNS).exists()
