"""Checkpoints: written whole or not at all, loaded only when whole. No pickles: tensors are safetensors, the rest is JSON.

``checkpoints/<step>/`` holds ``<stem>.safetensors`` files (of several ranks ``<stem>.rank<k>of<n>.safetensors``, see ``runs.pieces``),
``state.json`` and, written last, ``complete.json`` with the size and sha256 of each file. ``latest``, ``best`` and ``good`` are small files
beside them that name a step. The order of writing (temporary name, files synced, renamed, folder synced, then the pointers, ``latest``
last) means that a power cut at any moment leaves the checkpoint before it or this one, with all that its marks promise.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from safetensors import SafetensorError

from keel.core.errors import RunError
from keel.runs.durable import DISK, Disk, publish_folder, read_tensors, recover_folders, write_atomic
from keel.runs.pieces import Pieces, Written, stem_of

if TYPE_CHECKING:
    from torch import Tensor  # those who only read runs start without torch

log = logging.getLogger("keel")

SCHEMA = 1
STATE, COMPLETE = "state.json", "complete.json"
TensorFiles: TypeAlias = "Mapping[str, Mapping[str, Tensor] | Written]"
Mark = Literal["latest", "best", "good"]
MARKS: tuple[Mark, ...] = ("latest", "best", "good")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved after ``step``: tensors by file and name (cpu), and the JSON state."""

    step: int
    tensors: dict[str, Mapping[str, Tensor]]
    state: dict[str, Any]


def latest_step(run: Path) -> int:
    """The step that a run in this directory goes on from, by what is written there; 0 without a checkpoint."""
    try:
        return int(json.loads((run / "checkpoints" / "latest").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class BrokenCheckpointError(Exception):
    """A checkpoint is not what was written; the message says which part."""


class Checkpoints:
    """The checkpoints of one run. Use it while the run's lock is held: opening removes what a crash left behind.

    ``before_commit`` is called before a checkpoint becomes visible (to sync the metrics that belong to it); ``tell`` hears of broken ones.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        disk: Disk = DISK,
        before_commit: Callable[[], None] | None = None,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        assert keep >= 1, "at least the latest checkpoint is kept"
        self.folder, self.keep = folder, keep
        self._disk, self._before_commit, self._tell = disk, before_commit, tell
        try:
            if not folder.exists():
                disk.make_dir(folder)
                disk.sync_dir(folder.parent)
            recover_folders(folder, disk)
        except OSError as error:
            raise RunError(f"{folder}: checkpoints cannot be kept here: {error.strerror}") from None

    # -- writing -----------------------------------------------------------------------------------------------------------------

    def save(self, step: int, tensors: TensorFiles, state: Mapping[str, Any], mark: AbstractSet[str] = frozenset()) -> Path:
        """Write the checkpoint of ``step``, point what ``mark`` names (best, good) and then ``latest`` at it, drop the oldest ones.

        Raises RunError when it cannot be written (disk full ...): nothing of it is left and the one before stands.
        """
        assert set(mark) <= set(MARKS), f"unknown marks {set(mark) - set(MARKS)}"
        assert all(stem and "/" not in stem and not stem.startswith(".") for stem in tensors), "file stems are plain names"
        target = self.folder / str(step)
        try:
            publish_folder(target, lambda folder: self._fill(folder, step, tensors, state), self._disk)
            for name in (*sorted(set(mark) - {"latest"}), "latest"):
                self._point(name, step)
        except (OSError, SafetensorError) as error:
            raise self._cannot_write(step, tensors, error) from error
        self._prune(step)
        return target

    def rewind(self, step: int, marks: Mapping[Mark, int | None]) -> None:
        """Make the checkpoint of ``step`` the latest, with the marks that stood when it was written: what came after it is not resumed from
        and goes with the next save. A mark whose checkpoint is gone is taken away."""
        assert self._is_there(step), f"no checkpoint of step {step}"
        wanted: dict[Mark, int | None] = {**marks, "latest": step}
        for name, marked in wanted.items():
            if marked is None or not self._is_there(marked):
                self._disk.remove(self.folder / name)
            elif self.step_of(name) != marked:
                self._point(name, marked)

    def _fill(self, folder: Path, step: int, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        metadata = {"schema": str(SCHEMA), "step": str(step)}
        for stem, named in tensors.items():
            if isinstance(named, Mapping):
                self._disk.write_tensors(folder / f"{stem}.safetensors", _separate(named), metadata)
            else:
                named.write(folder, stem, metadata)
        record = {"schema": SCHEMA, "step": step, "state": _to_json(state, "state")}
        self._disk.write(folder / STATE, json.dumps(record, ensure_ascii=False, allow_nan=False).encode())
        names = sorted(p.name for p in folder.iterdir())
        files = {name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}
        if self._before_commit is not None:
            self._before_commit()
        self._disk.write(folder / COMPLETE, json.dumps({"schema": SCHEMA, "step": step, "files": files}, indent=1).encode())

    def _point(self, name: str, step: int) -> None:
        write_atomic(self.folder / name, json.dumps({"schema": SCHEMA, "step": step}).encode(), self._disk)

    def _prune(self, current: int) -> None:
        """Keep the newest ``keep`` up to ``current`` and whatever a pointer names. Later ones belong to a course that was given up."""
        kept = {step for name in MARKS if (step := self.step_of(name)) is not None}
        kept |= set([s for s in self.steps() if s <= current][-self.keep :])
        for step in self.steps():
            if step not in kept:
                trash = self.folder / f".tmp-trash-{step}"
                try:
                    self._disk.rename(self.folder / str(step), trash)  # at once, so that a half-removed one is never seen
                    self._disk.remove(trash)
                except OSError as error:
                    self._tell(f"the old checkpoint of step {step} could not be removed: {error}")

    def _cannot_write(self, step: int, tensors: TensorFiles, error: Exception) -> RunError:
        latest = self.step_of("latest")
        stands = f"the checkpoint of step {latest} stands" if latest is not None else "there is no earlier checkpoint"
        text = str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "quota exceeded" in text.lower()
        if not full:
            return RunError(f"{self.folder}: the checkpoint of step {step} could not be written ({text}); {stands}")
        needed = sum(map(_size, tensors.values())) / 2**20
        free = shutil.disk_usage(self.folder).free / 2**20
        return RunError(
            f"{self.folder}: the disk is full, the checkpoint of step {step} needs about {needed:.0f} MB, {free:.0f} MB are free; {stands}",
            "free some space and start the same command again; it goes on from there",
        )

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps that have a folder, ascending, whole or not."""
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal() and p.is_dir())

    def step_of(self, name: Mark) -> int | None:
        """The step that a pointer names; None when there is no (readable) pointer or its checkpoint is gone."""
        try:
            step = json.loads((self.folder / name).read_text())["step"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return step if isinstance(step, int) and self._is_there(step) else None

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there has been none.

        A broken one is passed over with a warning. Raises RunError when there are some and none is whole.
        """
        steps = self.steps()
        if not steps:
            return None
        latest = self.step_of("latest")
        start = latest if latest is not None else steps[-1]
        order = [s for s in reversed(steps) if s <= start] + [s for s in steps if s > start]
        problems: list[str] = []
        for step in order:
            try:
                checkpoint = self._read(step)
            except BrokenCheckpointError as broken:
                problems.append(f"step {step}: {broken}")
                continue
            for problem in problems:
                self._tell(f"the checkpoint of {problem}; going back to the one of step {step}")
            return checkpoint
        raise RunError(
            f"{self.folder}: no checkpoint is whole: " + "; ".join(problems),
            "restore one from a backup, or choose another run_dir to start from the beginning",
        )

    def load(self, which: Mark | int) -> Checkpoint:
        """The checkpoint of a step or pointer. Raises RunError when it is not there or not whole."""
        step = which if isinstance(which, int) else self.step_of(which)
        if step is None or not self._is_there(step):
            there = ", ".join(map(str, self.steps())) or "none"
            raise RunError(f"{self.folder}: there is no checkpoint '{which}'", f"steps that are there: {there}")
        try:
            return self._read(step)
        except BrokenCheckpointError as broken:
            raise RunError(f"{self.folder}: the checkpoint of step {step} is broken: {broken}") from None

    def _is_there(self, step: int) -> bool:
        return (self.folder / str(step)).is_dir()

    def _read(self, step: int) -> Checkpoint:
        folder = self.folder / str(step)
        files = _verified_files(folder, step)
        record = _read_json(folder / STATE)
        tensors: dict[str, Mapping[str, Tensor]] = {}
        pieces: dict[str, list[Path]] = {}
        for name in files:
            if (stem := stem_of(name)) is not None:
                pieces.setdefault(stem, []).append(folder / name)
            elif name.endswith(".safetensors"):
                try:
                    tensors[name.removesuffix(".safetensors")] = read_tensors(folder / name)
                except (SafetensorError, OSError) as error:
                    raise BrokenCheckpointError(f"{name}: {error}") from None
        for stem, paths in pieces.items():
            try:
                tensors[stem] = Pieces(sorted(paths))
            except (SafetensorError, OSError, ValueError) as error:
                raise BrokenCheckpointError(f"{stem}: {error}") from None
        return Checkpoint(step, tensors, cast("dict[str, Any]", _from_json(record["state"])))


def _size(named: Mapping[str, Tensor] | Written) -> int:
    return sum(t.numel() * t.element_size() for t in named.values()) if isinstance(named, Mapping) else named.size


def _verified_files(folder: Path, step: int) -> list[str]:
    """The names of a checkpoint's files, after each was found as it was written."""
    marker = _read_json(folder / COMPLETE)
    try:
        schema, own_step = int(marker["schema"]), int(marker["step"])
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in marker["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BrokenCheckpointError(f"{COMPLETE} is damaged") from None
    if schema != SCHEMA:
        raise RunError(f"{folder}: written with checkpoint format {schema}, this version of Keel reads {SCHEMA}")
    if own_step != step or STATE not in files:
        raise BrokenCheckpointError(f"{COMPLETE} belongs to another checkpoint")
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise BrokenCheckpointError(f"{name} is missing")
        if path.stat().st_size != size:
            raise BrokenCheckpointError(f"{name} has {path.stat().st_size} bytes, {size} were written")
        if _sha256(path) != sha256:
            raise BrokenCheckpointError(f"{name} is not what was written (sha256 differs)")
    return list(files)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BrokenCheckpointError(f"{path.name} is missing (it was never finished)") from None
    except (OSError, ValueError) as error:
        raise BrokenCheckpointError(f"{path.name} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise BrokenCheckpointError(f"{path.name} holds no record")
    return cast("dict[str, Any]", record)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _separate(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: on the cpu, contiguous, each with memory of its own (tied weights share theirs)."""
    import torch

    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in named.items():
        plain = tensor.detach().to("cpu").contiguous()
        memory = plain.untyped_storage()
        is_part = memory.nbytes() != plain.numel() * plain.element_size()
        if plain.numel() and (is_part or memory.data_ptr() in seen):
            plain = plain.clone(memory_format=torch.contiguous_format)
        seen.add(plain.untyped_storage().data_ptr())
        out[name] = plain
    return out


_SPECIAL = "__float__"  # JSON has no infinities: {"__float__": "inf"}


def _to_json(value: Any, where: str) -> Any:
    """``value`` with non-finite numbers wrapped. What JSON would change silently (int keys, tuples apart) is refused."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_SPECIAL: repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        assert all(isinstance(k, str) for k, _ in items), f"{where}: keys of a checkpoint's state are strings"
        return {k: _to_json(v, f"{where}.{k}") for k, v in items}
    assert isinstance(value, list | tuple), f"{where}: {type(value).__name__} cannot stand in a checkpoint's state"
    return [_to_json(v, f"{where}.{i}") for i, v in enumerate(cast("list[Any]", value))]


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        record = cast("dict[str, Any]", value)
        return float(record[_SPECIAL]) if record.keys() == {_SPECIAL} else {k: _from_json(v) for k, v in record.items()}
    if isinstance(value, list):
        return [_from_json(v) for v in cast("list[Any]", value)]
    return value
