"""Logs read and cut from their end."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from keel.runs import logs


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 16])
def test_lines_backward_are_the_lines_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(logs, "CHUNK", chunk)
    path = tmp_path / "m.jsonl"
    for content in (b"", b"\n", b"a", b"a\n", b"a\nb", b"\n\n", b"long line\n\nx\n{torn"):
        path.write_bytes(content)
        found = list(logs.lines_backward(path))[::-1]
        assert [line for _, line in found] == content.splitlines(keepends=True), content
        assert all(content[start:].startswith(line) for start, line in found)
    assert list(logs.lines_backward(tmp_path / "none")) == []


def test_the_last_row_is_found_behind_torn_lines_and_without_reading_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"".join(logs.json_line({"step": i}) for i in range(20_000)) + b'[1]\n{"step": 7, "lo')
    seen: list[bytes] = []
    parse = logs.parse
    monkeypatch.setattr(logs, "parse", lambda line: seen.append(line) or parse(line))
    assert logs.last_row(path) == {"step": 19_999}
    assert len(seen) == 3
    assert logs.last_row(tmp_path / "none") == {}


@pytest.mark.parametrize("seed", range(30))
def test_cutting_the_end_leaves_what_dropping_the_rows_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(logs, "CHUNK", chance.choice([5, 64, 1 << 16]))
    path = tmp_path / "m.jsonl"
    n, cut = chance.randrange(30), chance.randrange(-1, 30)
    rows = [{"step": i, "text": "x" * chance.randrange(40)} for i in range(n)]
    path.write_bytes(b"".join(map(logs.json_line, rows)) + chance.choice([b"", b'{"step": 3', b"\n\n"]))
    assert logs.rows_at_end(path, lambda row: row["step"] > cut) == [row for row in rows if row["step"] > cut]
    before = path.stat().st_ino, path.read_bytes()
    logs.cut_end(path, lambda row: row["step"] > cut)
    assert path.read_bytes() == b"".join(logs.json_line(row) for row in rows if row["step"] <= cut)
    changed = path.read_bytes() != before[1]
    assert changed == (path.stat().st_ino != before[0]), "whoever follows the file sees that it was cut, or that it was not"
    logs.cut_end(tmp_path / "none", lambda row: True)


def test_what_is_a_number() -> None:
    read = [logs.number(v) for v in json.loads('[1, 2.5, "Infinity", "-Infinity", 1e999, true, null, "x", "1", [1]]')]
    assert read == [1.0, 2.5, math.inf, -math.inf, math.inf, None, None, None, None, None]
    assert math.isnan(logs.number("NaN") or 0.0)
    assert logs.number(-(10**400)) == -math.inf
