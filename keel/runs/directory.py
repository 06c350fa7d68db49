"""The run directory: one folder that holds everything a run made and everything it depended on.

``manifest.json`` is written first, ``summary.json`` last: a directory without a manifest is no run, one without a summary is not finished.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from keel.core.errors import RunError
from keel.runs import audits, evaluations, logs, rollouts
from keel.runs.checkpoints import Checkpoints
from keel.runs.durable import DISK, recover_folders, sync_tree, write_atomic
from keel.runs.environment import differences, environment, flatten, git_state
from keel.runs.lock import Lock

if TYPE_CHECKING:
    from keel.core.config import Section

log = logging.getLogger("keel")

SCHEMA = 1
MANIFEST, SUMMARY, METRICS, EVENTS, ABANDONED, SAMPLES, CHECKPOINTS, COLUMNS = (
    "manifest.json",
    "summary.json",
    "metrics.jsonl",
    "events.jsonl",
    "abandoned.jsonl",
    "samples",
    "checkpoints",
    "columns",  # a side file of the metrics, which may be deleted
)
_OWN = (SUMMARY, METRICS, EVENTS, ABANDONED, SAMPLES, CHECKPOINTS, "final")

# Settings that may differ in a resumed run, by the end or the middle of their key paths (those of a pipeline's stages are longer).
OBSERVATIONAL = re.compile(
    r"(^|\.)(run_dir$|loop\.pause_at$|settings\.(tracking|checkpoint|watch|threads|skip_self_test)(\.|$))"
)  # not what is trained
EXTENDING = re.compile(r"(^|\.)loop\.(steps|epochs)$")  # how far the run goes: told, and the learning rate's schedule is laid out anew
REGROUPING = re.compile(r"(^|\.)cluster\.(ranks|shard)$")  # over how many processes: told, as sums then have another order
_WAITING = re.compile(r"(^|\.)cluster\.timeout_s$")
_ONE_PROCESS = (None, 1, "full")  # what a run without these settings had
_HISTORY = frozenset(  # of processes and of the way that a run took: not undone when it goes back
    {"run_started", "resumed", "interrupted", "self_test", "stage_started", "stage_finished", "emergency", "paused"}
)


class RunDir:
    """An open run directory, locked against other processes until :meth:`close`. Make one with :meth:`open`.

    ``resumed``: it was there before. ``warnings``: why a resumed run may not be bit-identical to an undisturbed one.
    """

    def __init__(self, path: Path, lock: Lock, manifest: dict[str, Any], warnings: Sequence[str], resumed: bool) -> None:
        self.path, self.manifest, self.warnings, self.resumed = path, manifest, tuple(warnings), resumed
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        recipe: Section,
        verb: str,
        seed: int,
        parent: str | None = None,
        data_fingerprints: Mapping[str, str] | None = None,
        argv: Sequence[str] = (),
        growing: Collection[str] = (),
    ) -> RunDir:
        """Create the directory, or resume the run in it.

        ``data_fingerprints`` are those of everything that is read: data sets and other files, by name; what is ``growing`` of them may
        differ from what was there before, and a finished run then goes on.

        Raises RunError when another process uses it, it cannot be written, or it holds a run of another verb, recipe, data or file.
        """
        from keel.core.config import dump  # the loader of recipes, which those who read runs have no need of

        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = Lock(path)
        except FileExistsError:
            raise RunError(f"{path} is a file, a run needs a folder", "choose another run_dir") from None
        except OSError as error:
            raise RunError(f"{path} cannot be used for a run: {error.strerror}", "choose a run_dir that you may write to") from None
        try:
            recover_folders(path)
            wanted: dict[str, Any] = {
                "verb": verb,
                "seed": seed,
                "parent": parent,
                "data": dict(data_fingerprints or {}),
                "config": dump(recipe),
            }
            return cls._start(path, lock, logs.plain(wanted), list(argv), frozenset(growing))
        except OSError as error:
            lock.release()
            raise RunError(f"{path} cannot be used for a run: {error.strerror}", "choose a run_dir that you may write to") from None
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _start(cls, path: Path, lock: Lock, wanted: dict[str, Any], argv: list[str], growing: frozenset[str]) -> RunDir:
        now = logs.plain({"git": git_state(), **environment()})
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        start = {"at": at, "argv": argv, "folder": str(Path.cwd())}  # where relative paths of the recipe begin
        before = read_manifest(path)
        if before is None:
            stray = [name for name in _OWN if (path / name).exists()]
            if stray:
                raise RunError(
                    f"{path} holds {', '.join(stray)} but no {MANIFEST}: it is no run", "choose another run_dir, or move these away"
                )
            manifest: dict[str, Any] = {"schema": SCHEMA, **wanted, **now, "starts": [start]}
            warnings: list[str] = []
        else:
            changed = _check_same_run(path, before, wanted, growing)
            warnings = [f"the setting {text}" for text, _ in changed]
            warnings += differences({k: before.get(k) for k in now}, now)
            grown = {name for name in growing if before.get("data", {}).get(name) != wanted["data"][name]}
            if grown or any(extends for _, extends in changed):
                (path / SUMMARY).unlink(missing_ok=True)  # it goes on: no longer finished
            data = before.get("data", {}) | {name: wanted["data"][name] for name in grown}
            manifest = {
                **before,
                "config": wanted["config"],
                "data": data,
                "starts": [*before.get("starts", ()), {**start, "changed": warnings}],
            }
            for warning in warnings:
                log.warning("%s: resumed with %s; the result may not be bit-identical to an undisturbed run", path, warning)
        write_atomic(path / MANIFEST, _record(manifest))  # first: pieces of a run without it are no run
        (path / SAMPLES).mkdir(exist_ok=True)
        DISK.sync_dir(path.parent)
        return cls(path, lock, manifest, warnings, before is not None)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes in."""
        self._lock.release()

    @property
    def finished(self) -> bool:
        """Did the run come to its end (``summary.json`` is there)?"""
        return (self.path / SUMMARY).is_file()

    def record(self, **entries: Any) -> None:
        """Add entries to the manifest: what is known only later (template hash, model digest ...)."""
        self.manifest = {**self.manifest, **logs.plain(entries)}
        write_atomic(self.path / MANIFEST, _record(self.manifest))

    def pin(self, facts: Mapping[str, str]) -> None:
        """Record what a resumed run must find as it was, by name. Raises RunError with the names of those that differ."""
        began: Mapping[str, str] = self.manifest.get("pinned", {})
        _refuse_other(self.path, [name for name, fact in facts.items() if began.get(name, fact) != fact])
        self.record(pinned={**began, **facts})

    def checkpoints(self, keep: int) -> Checkpoints:
        """The run's checkpoints; each one is written after the metrics that belong to it are safe."""
        return Checkpoints(self.path / CHECKPOINTS, keep, before_commit=self.sync_logs)

    def sync_logs(self) -> None:
        """Make metrics, events and samples safe from a power cut."""
        for path in (self.path / METRICS, self.path / EVENTS, self.path / ABANDONED, *(self.path / SAMPLES).glob("*.jsonl")):
            if path.is_file():
                DISK.sync_file(path)
        DISK.sync_dir(self.path / SAMPLES)
        DISK.sync_dir(self.path)

    def cut_metrics(self, step: int) -> None:
        """Go back to ``step``: drop metrics, samples, rollouts, audits and evaluations of later steps, so that each stands once.
        -1: from the beginning. Events are never dropped: those of later steps stay in ``events.jsonl`` with ``undone``, the step that the
        run went back to."""
        logs.cut_end(self.path / METRICS, lambda row: _step(row) > step)
        logs.change_rows(self.path / EVENTS, lambda row: _after_return(row, step))
        logs.keep_rows(self.path / SAMPLES / "training.jsonl", lambda row: _step(row) <= step)
        rollouts.cut(self.path, step)
        audits.cut(self.path, step)
        evaluations.cut(self.path, step)

    def give_up(self, step: int, number: int) -> None:
        """Go back to ``step`` for the ``number``-th time: metrics of later steps move to ``abandoned.jsonl``, with the number. Done again
        after a crash it leaves the same."""
        later = logs.rows_at_end(self.path / METRICS, lambda row: _step(row) > step)
        again = _step(later[0]) if later else sys.maxsize  # a crash in between may have left the rows of earlier steps there already
        logs.keep_rows(self.path / ABANDONED, lambda row: row.get("rollback", 0) < number or _step(row) < again)
        logs.append(self.path / ABANDONED, [{"rollback": number, **row} for row in later])
        logs.change_rows(self.path / EVENTS, lambda row: _told_before(row, step, number))
        rollouts.give_up(self.path, step, number)
        audits.give_up(self.path, step, number)
        self.cut_metrics(step)

    @property
    def identity(self) -> str:
        """What tells this run from all others."""
        return f"{self.path.resolve()} {self.manifest['starts'][0]['at']}"

    def last_event(self) -> int:
        """The number of the last event in ``events.jsonl``; 0 where there is none."""
        return max((row["number"] for row in logs.read(self.path / EVENTS) if isinstance(row.get("number"), int)), default=0)

    def write_sample(self, step: int, rows: Sequence[Mapping[str, Any]], part: str = "") -> None:
        """Add rows to ``samples/training.jsonl``; each gets the step. Those of a ``part``, which they name, take the place of the ones
        that a process left which was ended before it could say that the part is done."""
        file = self.path / SAMPLES / "training.jsonl"
        if part:
            logs.keep_rows(file, lambda row: (row.get("step"), row.get("part")) != (step, part))
        logs.append(file, [{"step": step, **({"part": part} if part else {}), **row} for row in rows])

    def samples(self) -> list[dict[str, Any]]:
        """What :meth:`write_sample` wrote."""
        return logs.read(self.path / SAMPLES / "training.jsonl")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Make everything in the directory safe, then write ``summary.json``: the run is finished."""
        for child in sorted(self.path.iterdir()):
            if child.is_dir() and child.name != CHECKPOINTS:
                sync_tree(child)
        self.sync_logs()
        write_atomic(self.path / SUMMARY, _record({"schema": SCHEMA, **summary}))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a run directory; None when there is none. Raises RunError when it cannot be read."""
    return _read(path / MANIFEST)


def read_summary(path: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None when it is not finished. Raises RunError when it cannot be read."""
    return _read(path / SUMMARY)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}", "restore it, or choose another run_dir") from None
    if not isinstance(record, dict):
        raise RunError(f"{file} holds no record", "restore it, or choose another run_dir")
    found = cast("dict[str, Any]", record)
    if found.get("schema", SCHEMA) != SCHEMA:
        raise RunError(f"{file} has format {found['schema']}, this version of Keel reads {SCHEMA}", "use the version of Keel that wrote it")
    return found


def _record(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(logs.plain(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def _after_return(row: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What becomes of an event when the run goes back to ``step``: it stays, with a mark if it is of a later step."""
    stays = _step(row) <= step or row.get("kind") in _HISTORY or "undone" in row
    return dict(row) if stays else {**row, "undone": step}


def _told_before(row: Mapping[str, Any], step: int, number: int) -> dict[str, Any]:
    """An emergency that a crash cut short is told again: the first telling is marked."""
    again = row.get("kind") == "emergency" and row.get("rollback", 0) >= number and "undone" not in row
    return {**row, "undone": step} if again else dict(row)


def _step(row: Mapping[str, Any]) -> int:
    step = row.get("step", 0)
    return step if isinstance(step, int) else 0


def _refuse_other(path: Path, names: Sequence[str]) -> None:
    if names:
        raise RunError(f"{path}: not what the run began with: {', '.join(names)}", "put back what was there, or choose another run_dir")


def _check_same_run(path: Path, before: Mapping[str, Any], wanted: Mapping[str, Any], growing: frozenset[str]) -> list[tuple[str, bool]]:
    """The settings that differ, may, and are told: (in words, does it extend the run). Raises RunError for those that may not, and for data
    that differ and are not ``growing``."""
    if before.get("verb") != wanted["verb"]:
        raise RunError(f"{path} holds a run of `keel {before.get('verb')}`, not of `keel {wanted['verb']}`", "choose another run_dir")
    old, new = ({"seed": record.get("seed"), **flatten(record.get("config") or {})} for record in (before, wanted))
    missing = object()
    keys = [k for k in {**new, **old} if old.get(k, missing) != new.get(k, missing)]
    texts = {k: f"{k}: {old.get(k, '(not set)')} -> {new.get(k, '(not set)')}" for k in keys}
    refused = [texts[k] for k in keys if not any(rule.search(k) for rule in (OBSERVATIONAL, EXTENDING, REGROUPING, _WAITING))]
    if refused:
        shown = "\n".join(f"  {text}" for text in refused[:12]) + (f"\n  and {len(refused) - 12} more" if len(refused) > 12 else "")
        raise RunError(
            f"{path} holds a run with other settings (in the run -> now):\n{shown}",
            "choose another run_dir, or use the settings of the run",
        )
    began = before.get("data", {})
    pinned = {name: found for name, found in wanted["data"].items() if name not in growing}
    _refuse_other(path, sorted(name for name, found in pinned.items() if began.get(name) != found))
    regrouped = [k for k in keys if REGROUPING.search(k) and not (k not in old and new.get(k) in _ONE_PROCESS)]
    return [(texts[k], True) for k in keys if EXTENDING.search(k)] + [(texts[k], False) for k in regrouped]
