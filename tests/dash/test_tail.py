"""Files that grow, are torn, cut and written anew."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from keel.dash.tail import Tail


def _lines(tail: Tail, most: int = 1 << 20) -> list[bytes]:
    return [line for _, line in tail.lines(most)]


def test_a_torn_last_line_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b'{"a": 1}\n{"b"')
    tail = Tail(path)
    assert _lines(tail) == [b'{"a": 1}']
    assert tail.behind == 0
    assert _lines(tail) == []
    with path.open("ab") as file:
        file.write(b": 2}\n")
    assert tail.lines() == [(9, b'{"b": 2}')]


def test_a_file_that_was_cut_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1\n2\n3\n")
    tail = Tail(path)
    assert len(_lines(tail)) == 3
    path.write_bytes(b"1\n")
    assert (_lines(tail), tail.again) == ([b"1"], True)


def test_another_file_of_the_same_length_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1\n2\n")
    tail = Tail(path)
    _lines(tail)
    (tmp_path / "g").write_bytes(b"1\n9\n3\n")
    os.replace(tmp_path / "g", path)
    assert (_lines(tail), tail.again) == ([b"1", b"9", b"3"], True)


def test_a_cursor_that_is_no_end_of_a_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12\n34\n")
    for cursor, lines, again in ((3, [b"34"], False), (2, [b"12", b"34"], True), (99, [b"12", b"34"], True)):
        tail = Tail(path, cursor)
        assert (_lines(tail), tail.again) == (lines, again)


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert _lines(Tail(tmp_path / "none")) == []


@pytest.mark.parametrize("seed", range(30))
def test_pieces_of_any_size_give_the_same_lines(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = [rng.randbytes(rng.randrange(40)).replace(b"\n", b" ") for _ in range(rng.randrange(20))]
    path = tmp_path / "f"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    tail, found = Tail(path), list[bytes]()
    while piece := _lines(tail, rng.randrange(1, 64)):
        found += piece
    assert found == lines
