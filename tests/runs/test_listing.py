"""`keel runs`: what is listed, and what is set side by side."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from rich.console import Console

from keel.core.config import Section
from keel.core.errors import RunError
from keel.core.events import EventBus
from keel.runs.directory import RunDir
from keel.runs.listing import compare, list_runs, print_comparison, print_runs
from keel.runs.sinks import JsonlSink


class Recipe(Section):
    lr: float = Field(default=0.1, description="Rate.")
    steps: int = Field(default=2, description="Steps.")
    run_dir: str = Field(default="", description="Folder.")


def make(path: Path, lr: float, reward: float, finish: bool) -> RunDir:
    run = RunDir.open(path, Recipe(lr=lr, run_dir=str(path)), "rl", 0)
    bus = EventBus([JsonlSink(run)])
    for step in (1, 2):
        bus.emit("step", step, metrics={"reward": reward * step, "loss": float("nan"), "time/step_s": 1.0})
    if finish:
        run.finish({"win_rate": {"mean": 0.6, "n": 120}, "steps": 2, "stages": ["rl"], "interrupted": False})
    return run


def printed(width: int = 200) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width), out


def test_list_and_compare(tmp_path: Path) -> None:
    make(tmp_path / "a", 0.1, 1.0, finish=True).close()
    make(tmp_path / "b", 0.2, 3.0, finish=False).close()
    running = make(tmp_path / "b" / "stages" / "rl", 0.2, 3.0, finish=False)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    rows = {str(r.path.relative_to(tmp_path)): r for r in list_runs(tmp_path)}
    assert {name: (r.verb, r.status, r.step) for name, r in rows.items()} == {
        "a": ("rl", "finished", 2),
        "b": ("rl", "stopped", 2),
        "b/stages/rl": ("rl", "running", 2),
        "broken": ("?", "broken", 0),
    }
    assert rows["a"].numbers == {"win_rate.mean": 0.6, "reward": 2.0}
    running.close()

    table = compare([tmp_path / "a", tmp_path / "b"])
    assert table.names == ("a", "b")
    assert table.settings == {"lr": (0.1, 0.2)}
    assert table.metrics["reward"] == (2.0, 6.0)
    assert table.metrics["win_rate.mean"] == (0.6, None)
    assert "time/step_s" not in table.metrics
    assert "interrupted" not in table.metrics

    console, out = printed()
    print_runs(list(rows.values()), console)
    print_comparison(table, console)
    assert all(
        text in out.getvalue() for text in ("finished", "stopped", "running", "broken", "win_rate.mean 0.6", "settings that differ", "0.2")
    )


def test_a_list_of_runs_needs_no_arrays() -> None:
    """They take half of the time that the list takes."""
    code = "import sys, keel.runs.listing; print(sorted({'numpy', 'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_nothing_to_list_or_compare(tmp_path: Path) -> None:
    console, out = printed()
    print_runs(list_runs(tmp_path), console)
    assert out.getvalue() == "no runs yet\n"
    with pytest.raises(RunError, match="no such folder"):
        list_runs(tmp_path / "none")
    with pytest.raises(RunError, match=r"holds no run \(no manifest.json\)"):
        compare([tmp_path])


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        make(tmp_path / folder / "run", 0.1, 1.0, finish=False).close()
    table = compare([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert table.names == (str(tmp_path / "x" / "run"), str(tmp_path / "y" / "run"))
    assert table.settings == {}
    console, out = printed()
    print_comparison(table, console)
    assert "settings that differ: none" in out.getvalue()
