"""`keel ablate --jobs 2` with real processes: parent or child killed, and the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keel.core.hashing import digest_bytes

ROOT = Path(__file__).resolve().parents[2]
RUNS = 6  # two changes and the recipe as it stands, on two seeds
SHORT = ("--set", "loop.steps=3", "--set", "sampling.max_tokens=4", "--set", "settings.threads=1", "--jobs", "2")
Start = Callable[[Path], subprocess.Popen[bytes]]
Process = tuple[int, str]  # its id, and when it began: ids are given again

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc"),
]


def command(folder: Path) -> list[str]:
    keys = ("algorithm.kl.coef", "optim.lr=3e-4", "ablate.seeds=2", f"run_dir={folder}")
    return [sys.executable, "-m", "keel.cli", "ablate", "recipes/ablate_tiny.yaml", *keys, *SHORT]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command; none outlives its test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(folder: Path) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (folder.parent / "log").open("ab") as log:
            started.append(subprocess.Popen(command(folder), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=log))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def known(folder: Path) -> list[dict[str, Any]]:
    file = folder / "trials.jsonl"
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.is_file() else []


def until(true: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 3600  # a bound for what hangs; machines may be slow
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def stat(pid: int) -> list[str]:
    """Fields behind the name: state, parent ...; [] where there is no such process, or where it has ended."""
    try:
        found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if found[0] in "ZX" else found


def below(pid: int) -> set[Process]:
    """All processes that a process started, and those that they did."""
    parents = {int(p.name): found for p in Path("/proc").iterdir() if p.name.isdigit() and (found := stat(int(p.name)))}
    inside = {pid}
    while more := {p for p, found in parents.items() if int(found[1]) in inside} - inside:
        inside |= more
    return {(p, parents[p][19]) for p in inside - {pid}}


def alive(process: Process) -> bool:
    found = stat(process[0])
    return bool(found) and found[19] == process[1]


def events_of(folder: Path) -> dict[str, str]:
    """What each finished run did, as a digest of all its events."""
    return {row["run"]: digest_bytes((folder / "runs" / row["run"] / "events.jsonl").read_bytes()) for row in known(folder)}


def table(folder: Path) -> Any:
    """The result without how long things took."""
    found = json.loads((folder / "ablate.json").read_text())
    return found | {"trials": [{k: v for k, v in row.items() if k != "seconds"} for row in found["trials"]]}


def test_the_parent_killed_in_the_middle(start: Start, tmp_path: Path) -> None:
    """SIGKILL once two runs are known: all that it started ends by itself; the same command finds what one left in peace does,
    and touches no run that was finished."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = start(cut)
    until(lambda: len(known(cut)) >= 2 or process.poll() is not None, "two runs")
    children = below(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before, done = len(known(cut)), events_of(cut)
    assert 2 <= before < RUNS, "it was over before it was killed"
    assert len(children) >= 2, "two runs at a time"
    until(lambda: not any(map(alive, children)), f"processes go on though their parent is gone: {children}")
    assert len(known(cut)) == before
    for folder in (cut, whole):
        assert start(folder).wait() == 0, (tmp_path / "log").read_text()[-2000:]
    assert len(known(cut)) == len(known(whole)) == RUNS
    assert {name: digest for name, digest in events_of(cut).items() if name in done} == done, "a finished run was trained again"
    assert table(cut) == table(whole)


def test_a_child_killed_is_told_and_the_same_command_goes_on(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    process = start(folder)
    until(lambda: known(folder) or process.poll() is not None, "a run")
    trains = [p for p, _ in below(process.pid) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    os.kill(trains[0], signal.SIGKILL)
    assert process.wait() == 2
    assert "a process with a run ended by itself" in (tmp_path / "log").read_text()
    done = events_of(folder)
    assert start(folder).wait() == 0
    assert len(known(folder)) == RUNS
    assert {name: digest for name, digest in events_of(folder).items() if name in done} == done
