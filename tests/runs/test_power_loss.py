"""The power fails after every operation of every save: what is found afterwards is the old checkpoint or the new one, never a mixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from power import Op, PowerDisk, RecordingDisk, State, write_out

from keel.core.errors import RunError
from keel.runs.checkpoints import Checkpoints
from keel.runs.durable import Disk, publish_folder, recover_folders, write_atomic


def save(checkpoints: Checkpoints, step: int, value: float | None = None) -> None:
    tensors = {"model": {"w": torch.full((3,), float(step if value is None else value))}}
    checkpoints.save(step, tensors, {"cursor": step, "value": value}, {"good"})


def found(run: Path) -> tuple[int, float] | None:
    """The step and the weight that a restarted run gets; None for a fresh start."""
    checkpoint = Checkpoints(run / "checkpoints", tell=lambda _: None).load_latest()
    if checkpoint is None:
        return None
    assert checkpoint.state["cursor"] == checkpoint.step
    return checkpoint.step, checkpoint.tensors["model"]["w"][0].item()


def after_each_crash(ops: list[Op], first: int, root: Path, scratch: Path, check: Callable[[Path], object]) -> list[set[object]]:
    """For every prefix that holds at least ``first`` operations: the set of what ``check`` saw in the states that may be left."""
    seen: list[set[object]] = []
    known: dict[State, object] = {}
    for length in range(first, len(ops) + 1):
        disk = PowerDisk(root)
        for op in ops[:length]:
            disk.apply(op)
        states = list(disk.crashes())
        for state in states:
            if state not in known:
                known[state] = check(write_out(state, scratch / str(len(known))))
        seen.append({known[state] for state in states})
    return seen


def test_every_save_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    disk = RecordingDisk()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=2, disk=disk) if (tmp_path / "run").mkdir() is None else None
    assert checkpoints is not None
    ends = [len(disk.ops)]
    for step in (1, 2, 3, 4):
        save(checkpoints, step)
        ends.append(len(disk.ops))
    for number, step in enumerate((1, 2, 3, 4)):
        ops = disk.ops[: ends[number + 1]]
        seen = after_each_crash(ops, ends[number], tmp_path / "run", tmp_path / f"crash{step}", found)
        old = None if step == 1 else (step - 1, float(step - 1))
        assert set().union(*seen) == {old, (step, float(step))}
        assert seen[0] == {old}, "before the first operation the old one stands"
        assert seen[-1] == {(step, float(step))}, "when save returns the new one is safe, whatever the power does"


@pytest.mark.parametrize("keep", [1, 3])
def test_what_a_state_says_of_the_best_is_there(tmp_path: Path, keep: int) -> None:
    """Evaluations improve at steps 1, 2 and 4. Wherever the power fails, a restarted run finds the best checkpoint of its state under the
    mark, and so it does after the next save."""
    disk = RecordingDisk()
    (tmp_path / "run").mkdir()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=keep, disk=disk)
    best, ends = 0, [len(disk.ops)]
    for step in (1, 2, 3, 4):
        improved = step != 3
        best = step if improved else best
        checkpoints.save(step, {"model": {"w": torch.full((3,), float(step))}}, {"best": best}, {"best"} if improved else set())
        ends.append(len(disk.ops))

    def check(run: Path) -> object:
        again = Checkpoints(run / "checkpoints", keep=keep, tell=lambda _: None)
        latest = again.load_latest()
        if latest is None:
            return None
        stated = latest.state["best"]
        marked = again.step_of("best")
        later = marked is not None and marked > latest.step
        assert again.step_of("latest") is None or marked == stated or later, "latest is written last: its state's marks are there"
        again.rewind(latest.step, {"best": stated})
        again.save(latest.step + 1, {"model": {"w": torch.zeros(3)}}, {"best": stated})
        assert again.step_of("best") == stated
        return latest.step, again.load("best").tensors["model"]["w"][0].item()

    for number, step in enumerate((1, 2, 3, 4)):
        seen = after_each_crash(disk.ops[: ends[number + 1]], ends[number], tmp_path / "run", tmp_path / f"crash{step}", check)
        bests = {0: 0, 1: 1, 2: 2, 3: 2, 4: 4}
        assert set().union(*seen) <= {None if s == 0 else (s, float(bests[s])) for s in (step - 1, step)}
        assert seen[-1] == {(step, float(bests[step]))}


def test_replacing_a_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    disk = RecordingDisk()
    (tmp_path / "run").mkdir()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=1, disk=disk)
    save(checkpoints, 5, 1.0)
    first = len(disk.ops)
    save(checkpoints, 5, 2.0)
    seen = after_each_crash(disk.ops, first, tmp_path / "run", tmp_path / "crash", found)
    assert set().union(*seen) == {(5, 1.0), (5, 2.0)}
    assert seen[-1] == {(5, 2.0)}


class ForgetfulDisk(RecordingDisk):
    """Does not sync what it is told to."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def sync_file(self, path: Path) -> None:
        if self.kind != "file":
            super().sync_file(path)

    def sync_dir(self, path: Path) -> None:
        if self.kind != "dir":
            super().sync_dir(path)


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_the_test_sees_a_missing_sync(tmp_path: Path, kind: str) -> None:
    disk = ForgetfulDisk(kind)
    (tmp_path / "run").mkdir()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=1, disk=disk)
    save(checkpoints, 1)
    first = len(disk.ops)
    save(checkpoints, 2)

    def check(run: Path) -> object:
        try:
            return found(run)
        except RunError:
            return "broken"

    seen = after_each_crash(disk.ops, first, tmp_path / "run", tmp_path / "crash", check)
    assert seen[-1] != {(2, 2.0)}


def test_small_files_are_old_or_new(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    disk = RecordingDisk()
    write_atomic(root / "latest", b'{"step": 1}', disk)
    first = len(disk.ops)
    write_atomic(root / "latest", b'{"step": 2}', disk)
    seen = after_each_crash(disk.ops, first, root, tmp_path / "crash", lambda run: json.loads((run / "latest").read_bytes())["step"])
    assert set().union(*seen) == {1, 2}
    assert seen[0] == {1}
    assert seen[-1] == {2}


def test_a_published_folder_is_put_back_after_a_crash(tmp_path: Path) -> None:
    class Dies(Disk):
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            if target.name == ".old-final":
                raise SystemExit  # as a kill would end it here

    publish_folder(tmp_path / "final", lambda f: (f / "a").write_text("old") and None)
    old = tmp_path / "final"
    Disk().rename(old, tmp_path / ".old-final")  # the state that a kill between the two renames leaves
    (tmp_path / ".tmp-final").mkdir()
    recover_folders(tmp_path)
    assert (old / "a").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final"]
    with pytest.raises(SystemExit):
        publish_folder(old, lambda f: (f / "a").write_text("new") and None, Dies())
    assert (old / "a").read_text() == "old", "an error in between puts it back at once"


def test_writers_of_one_file_at_once_harm_nobody(tmp_path: Path) -> None:
    """Each writes under a name of its own: no error, a whole content at any moment, and nothing is left over."""
    contents = [bytes([65 + n]) * (1000 + n) for n in range(8)]
    seen: list[bytes] = []

    def work(content: bytes) -> None:
        for i in range(15):
            write_atomic(tmp_path / "shared.json", content, sync=i % 5 == 0)
            seen.append((tmp_path / "shared.json").read_bytes())

    with ThreadPoolExecutor(len(contents)) as pool:
        for done in [pool.submit(work, content) for content in contents]:
            done.result()
    assert set(seen) <= set(contents)
    assert [p.name for p in tmp_path.iterdir()] == ["shared.json"]
