"""What is new reaches the page, from its cursor on, and no more than that."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from dash_tools import make_run, steps, tell

from keel.dash.folder import Folder, Run
from keel.dash.live import Follower, Listing, cursors_of, stream
from keel.runs import logs


def _kinds(found: list[tuple[str, Any]]) -> list[str]:
    return [kind for kind, _ in found]


def test_a_new_step_is_told_once_and_torn_ones_when_they_are_whole(root: Path) -> None:
    run = make_run(root / "r", steps(3))
    follower = Follower([Run("r", run)], None)
    assert follower.look() == []
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "reward": 1.23456789, "x": "NaN"}\n{"step": 5, "re')
    found = dict(follower.look())
    assert found["steps"] == {"run": "r", "rows": [{"step": 4, "reward": 1.23457, "x": "NaN"}]}
    assert "steps" not in dict(follower.look())
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'ward": 2.0}\n')
    assert dict(follower.look())["steps"]["rows"] == [{"step": 5, "reward": 2.0}]


def test_a_page_that_comes_back_goes_on_from_its_cursor(root: Path) -> None:
    run = make_run(root / "r", steps(3))
    at = Follower([Run("r", run)], None).cursor
    logs.append(run / "metrics.jsonl", [{"step": 4, "reward": 4.0}])
    tell(run, {"kind": "warning", "step": 4, "level": "warning", "message": "kl"}, {"kind": "checkpoint", "step": 4})
    found = dict(Follower([Run("r", run)], cursors_of(at, 1)).look())
    assert found["steps"]["rows"] == [{"step": 4, "reward": 4.0}]
    assert [e["message"] for e in found["events"]["rows"]] == ["kl"]


def test_what_is_sent_for_a_step_does_not_grow_with_the_run(root: Path) -> None:
    sizes = []
    for n in (10, 5000):
        run = make_run(root / f"r{n}", steps(n))
        follower = Follower([Run("r", run)], None)
        follower.look()
        logs.append(run / "metrics.jsonl", [{"step": 9999, "reward": 4.0}])
        sizes.append(len(json.dumps(dict(follower.look())["steps"])))
    assert sizes[0] == sizes[1]


def test_who_is_far_behind_asks_again(root: Path) -> None:
    run = make_run(root / "r", steps(5000))
    follower = Follower([Run("r", run)], [(0, 0)])
    assert _kinds(follower.look())[0] == "again"
    assert follower.look() == []
    assert follower.cursor.split(".")[0] == str((run / "metrics.jsonl").stat().st_size)


def test_a_run_that_goes_back_is_asked_again(root: Path) -> None:
    run = make_run(root / "r", steps(9))
    follower = Follower([Run("r", run)], None)
    follower.look()
    logs.cut_end(run / "metrics.jsonl", lambda row: row["step"] > 4)
    assert "again" in _kinds(follower.look())
    (run / "abandoned.jsonl").write_text('{"step": 5, "rollback": 1}\n')
    assert "again" in _kinds(follower.look())


def test_the_state_of_a_run_is_told_when_it_changes(root: Path) -> None:
    run = make_run(root / "r", steps(2))
    follower = Follower([Run("r", run)], None)
    follower.look()
    (run / "summary.json").write_text('{"schema": 1}')
    found = follower.look()
    assert dict(found)["row"]["state"] == "finished"


def test_cursors_that_are_none_are_not_believed() -> None:
    assert cursors_of("12.3-4.5", 2) == [(12, 3), (4, 5)]
    for text in ("", "12.3", "12-3", "a.b-1.2", "1.2-3.4-5.6", "-1.2-3.4", "9" * 50 + ".1-1.1", "²3.1-1.1"):
        assert cursors_of(text, 2) is None, text


def test_the_list_says_what_is_new_and_what_is_gone(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("keel.dash.folder.FRESH", -1.0)
    make_run(root / "a", steps(1))
    listing = Listing(Folder(root))
    ((_, first),) = listing.look()
    assert ([row["id"] for row in first["rows"]], first["all"]) == (["a"], True)
    assert listing.look() == []
    make_run(root / "b", steps(1))
    ((_, more),) = listing.look()
    assert ([row["id"] for row in more["rows"]], more["gone"]) == (["b"], [])
    (root / "a" / "manifest.json").unlink()
    (root / "a" / "metrics.jsonl").unlink()
    ((_, less),) = listing.look()
    assert less["gone"] == ["a"]


def test_events_of_the_stream_have_the_cursor_and_end_with_the_server(root: Path) -> None:
    run = make_run(root / "r", steps(2))
    follower = Follower([Run("r", run)], [(0, 0)])
    said: list[bytes] = []

    async def hear() -> list[bytes]:
        async for piece in stream(follower, lambda: len(said) > 1, tick=0.0):
            said.append(piece)
        return said

    first, second = asyncio.run(hear())
    assert first.startswith(b"retry:")
    size = (run / "metrics.jsonl").stat().st_size
    assert second.startswith(f"id: {size}.0\nevent: steps\ndata: ".encode())
    assert second.endswith(b"\n\n")
