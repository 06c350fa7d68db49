"""Checkpoints: every bit comes back, broken ones are seen and passed over, the right ones are kept."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from keel.core.errors import RunError
from keel.runs.checkpoints import Checkpoints
from keel.runs.durable import Disk


def save(checkpoints: Checkpoints, step: int, mark: frozenset[str] = frozenset()) -> Path:
    return checkpoints.save(step, {"model": {"w": torch.full((4,), float(step))}}, {"cursor": step}, mark)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_every_bit_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.arange(0, 8 * 3 * 5, dtype=torch.int32).remainder(251).to(torch.uint8)
    tensor = raw.to(torch.bool) if dtype is torch.bool else raw[: 8 * 15].view(dtype) if dtype is not torch.uint8 else raw
    Checkpoints(tmp_path / "c").save(1, {"a": {"x": tensor, "scalar": tensor[0], "none": tensor[:0]}}, {})
    back = Checkpoints(tmp_path / "c").load("latest").tensors["a"]
    for name, value in {"x": tensor, "scalar": tensor[0], "none": tensor[:0]}.items():
        assert back[name].dtype == dtype
        assert back[name].shape == value.shape
        assert back[name].contiguous().view(-1).view(torch.uint8).tolist() == value.contiguous().view(-1).view(torch.uint8).tolist()


def test_nan_payloads_negative_zero_and_subnormals(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FC00001, -0x80000000, 1, 0x7F800000], dtype=torch.int32)
    Checkpoints(tmp_path / "c").save(1, {"a": {"x": bits.view(torch.float32)}}, {})
    assert torch.equal(Checkpoints(tmp_path / "c").load(1).tensors["a"]["x"].view(torch.int32), bits)


def test_shared_sliced_and_transposed_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {"tied_1": base, "tied_2": base, "row": base[1], "transposed": base.T, "parameter": torch.nn.Parameter(base[:, 1])}
    Checkpoints(tmp_path / "c").save(1, {"m": tensors}, {})
    back = Checkpoints(tmp_path / "c").load(1).tensors["m"]
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


def test_state_comes_back_with_infinities(tmp_path: Path) -> None:
    state = {"best": -math.inf, "seen": [1, 2.5, None, True, "中"], "deep": {"x": {"y": 0.1 + 0.2}}, "empty": {}}
    Checkpoints(tmp_path / "c").save(0, {}, state)
    assert Checkpoints(tmp_path / "c").load(0).state == state
    (text,) = (tmp_path / "c").glob("0/state.json")
    json.loads(text.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    Checkpoints(tmp_path / "c").save(1, {}, {"x": math.nan})
    assert math.isnan(Checkpoints(tmp_path / "c").load(1).state["x"])


@pytest.mark.parametrize("state", [{"x": {1: 2}}, {"x": torch.zeros(1)}, {"x": {"y": {1, 2}}}])
def test_what_json_would_change_is_refused(tmp_path: Path, state: Mapping[str, object]) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.raises(AssertionError, match="state"):
        checkpoints.save(1, {}, state)
    assert list(checkpoints.folder.iterdir()) == [], "nothing is left of it"


def test_there_is_no_pickle(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path / "c"), 1)
    assert {p.name for p in (tmp_path / "c" / "1").iterdir()} == {"model.safetensors", "state.json", "complete.json"}


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "c").load_latest() is None


# -- what is kept ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2])
def test_keep_never_drops_latest_best_or_good(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep)
    marks = {2: frozenset({"best"}), 3: frozenset({"good"})}
    for step in range(1, 8):
        save(checkpoints, step, marks.get(step, frozenset()))
    assert checkpoints.steps() == [2, 3, *range(8 - keep, 8)]
    assert [checkpoints.step_of(name) for name in ("latest", "best", "good")] == [7, 2, 3]
    assert checkpoints.load("best").state["cursor"] == 2
    assert checkpoints.load("good").tensors["model"]["w"][0] == 3


def test_a_moved_mark_frees_the_old_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", 1)
    for step in range(1, 5):
        save(checkpoints, step, frozenset({"best"}) if step in (1, 3) else frozenset())
    assert checkpoints.steps() == [3, 4]


def test_after_a_rewind_the_given_up_course_is_not_resumed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", 5)
    for step in (2, 4, 6):
        save(checkpoints, step, frozenset({"best", "good"}))
    checkpoints.rewind(2, {"best": 2, "good": None})
    assert [checkpoints.step_of(name) for name in ("latest", "best", "good")] == [2, 2, None]
    resumed = Checkpoints(tmp_path / "c", 5).load_latest()
    assert resumed is not None
    assert resumed.step == 2
    save(checkpoints, 3)
    assert checkpoints.steps() == [2, 3]


def test_a_mark_of_a_lost_checkpoint_is_taken_away(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", 5)
    save(checkpoints, 2, frozenset({"best"}))
    save(checkpoints, 4)
    shutil.rmtree(tmp_path / "c" / "2")
    checkpoints.rewind(4, {"best": 2})
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["4", "latest"]


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", 1)
    save(checkpoints, 4)
    checkpoints.save(4, {"model": {"w": torch.zeros(1)}}, {"cursor": -1})
    assert checkpoints.load("latest").state == {"cursor": -1}
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["4", "latest"]


# -- broken ones -----------------------------------------------------------------------------------------------------------------


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-4])


BREAKAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip_a_bit, "model.safetensors is not what was written"),
    (cut, "model.safetensors has"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda f: (f / "state.json").write_text("{}"), "state.json has"),
    (lambda f: (f / "complete.json").unlink(), "complete.json is missing (it was never finished)"),
    (lambda f: (f / "complete.json").write_text('{"schema": 1, "st'), "complete.json cannot be read"),
    (lambda f: (f / "complete.json").write_text("[]"), "complete.json holds no record"),
    (lambda f: (f / "complete.json").write_text('{"schema": 1, "step": 1, "files": {}}'), "belongs to another checkpoint"),
    (lambda f: (f / "complete.json").write_text('{"schema": 1, "step": 2, "files": 3}'), "complete.json is damaged"),
    (lambda f: (f / "complete.json").write_text("{}"), "complete.json is damaged"),
]


@pytest.mark.parametrize(("harm", "message"), BREAKAGES)
def test_a_broken_latest_gives_way_to_the_one_before(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1)
    harm(save(checkpoints, 2))
    told: list[str] = []
    found = Checkpoints(tmp_path / "c", tell=told.append).load_latest()
    assert found is not None
    assert (found.step, found.state) == (1, {"cursor": 1})
    assert len(told) == 1
    assert "the checkpoint of step 2: " in told[0]
    assert message in told[0]
    assert "going back to the one of step 1" in told[0]


@pytest.mark.parametrize(("harm", "message"), BREAKAGES[:5])
def test_none_whole(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    harm(save(checkpoints, 2))
    with pytest.raises(RunError, match="no checkpoint is whole") as caught:
        checkpoints.load_latest()
    assert message in str(caught.value)
    assert "another run_dir" in caught.value.hint
    with pytest.raises(RunError, match="the checkpoint of step 2 is broken"):
        checkpoints.load(2)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    (save(checkpoints, 1) / "complete.json").write_text('{"schema": 99, "step": 1, "files": {}}')
    with pytest.raises(RunError, match="checkpoint format 99, this version of Keel reads 1"):
        checkpoints.load_latest()


@pytest.mark.parametrize("pointer", ["", "{", "[]", '{"step": "x"}', '{"schema": 1, "step": 77}'])
def test_a_broken_pointer_does_not_matter(tmp_path: Path, pointer: str) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1)
    save(checkpoints, 2)
    (checkpoints.folder / "latest").write_text(pointer)
    found = checkpoints.load_latest()
    assert found is not None
    assert found.step == 2


def test_asking_for_what_is_not_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 3)
    with pytest.raises(RunError, match="there is no checkpoint 'best'") as caught:
        checkpoints.load("best")
    assert "steps that are there: 3" in caught.value.hint


def test_leftovers_go_when_it_is_opened(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path / "c"), 1)
    (tmp_path / "c" / ".tmp-2").mkdir()
    (tmp_path / "c" / ".tmp-2" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "c" / ".tmp-latest").write_text("{")
    Checkpoints(tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["1", "latest"]


# -- writing fails ---------------------------------------------------------------------------------------------------------------


class FullDisk(Disk):
    """Has no room from its n-th write on."""

    def __init__(self, room: int) -> None:
        self.room = room

    def _use(self) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])  # what fits is written
        self._use()
        super().write(path, data)

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        self._use()
        super().write_tensors(path, tensors, metadata)

    def sync_file(self, path: Path) -> None:
        self._use()
        super().sync_file(path)


@pytest.mark.parametrize("room", range(8))
def test_a_full_disk_leaves_the_one_before(tmp_path: Path, room: int) -> None:
    save(Checkpoints(tmp_path / "c"), 1)
    checkpoints = Checkpoints(tmp_path / "c", disk=FullDisk(room))
    with pytest.raises(RunError, match="the disk is full, the checkpoint of step 2 needs about") as caught:
        save(checkpoints, 2)
    assert "the checkpoint of step 1 stands" in str(caught.value)
    assert "start the same command again" in caught.value.hint
    assert not list(checkpoints.folder.glob(".*")), "nothing half-written is left"
    found = Checkpoints(tmp_path / "c").load_latest()
    assert found is not None
    assert found.step == 1


def test_a_full_disk_at_the_first_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no earlier checkpoint"):
        save(Checkpoints(tmp_path / "c", disk=FullDisk(0)), 1)


def test_the_file_system_itself_fails(tmp_path: Path) -> None:
    """safetensors reports trouble with an error of its own, not with OSError."""
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1)
    with pytest.raises(RunError, match="the checkpoint of step 2 could not be written"):
        checkpoints.save(2, {"n" * 300: {"w": torch.zeros(1)}}, {})
    assert checkpoints.load("latest").step == 1


def test_an_interrupted_save_leaves_nothing(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    save(Checkpoints(tmp_path / "c"), 1)
    checkpoints = Checkpoints(tmp_path / "c", before_commit=interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoints, 2)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["1", "latest"]


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="checkpoints cannot be kept here"):
        Checkpoints(tmp_path / "file" / "c")
