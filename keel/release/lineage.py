"""Where a model comes from: from the base through every run to its checkpoint, and from the clicks behind the data. What nobody recorded is
unknown, and said to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import yaml

from keel.core.errors import UserError
from keel.release.source import Source
from keel.runs.directory import read_summary

UNKNOWN = "unknown"
_STORE = "store:"


@dataclass(frozen=True, slots=True)
class Stage:
    """A run that led to the model. ``data``: what it read, with the beginning of each fingerprint."""

    run: str
    verb: str
    seed: int
    began: str
    commit: str
    data: Mapping[str, str]
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Clicks:
    """A snapshot of judgements that a run trained on; None where the store could not be asked."""

    snapshot: str
    judgements: int | None = None
    annotators: int | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """``base``: the model that the first stage began with. Stages in the order in which they were run."""

    base: str
    licence: str
    stages: tuple[Stage, ...]
    clicks: tuple[Clicks, ...]
    lost: str = ""  # why it ends before its beginning

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lineage_of(source: Source, root: Path | None) -> Lineage:
    """By the manifests of the runs below ``root`` (the folder that holds the run, unless given) and the stores that they name."""
    if source.run is None:
        return Lineage(UNKNOWN, licence_of(str(source.folder)), (), (), "no run made this folder")
    manifests, lost = _ancestors(source, root)
    stages = tuple(_stage(path, manifest) for path, manifest in reversed(manifests) if manifest.get("verb") != "run")
    made = {str(Path(path).resolve()) for path, _ in manifests}
    bases = [str(m.get("model", {}).get("spec", "")) for _, m in reversed(manifests)]
    base = next((b for b in bases if b and not any(str(Path(b).expanduser().resolve()).startswith(path) for path in made)), UNKNOWN)
    names = sorted({name for _, m in manifests for name in m.get("data", {}) if name.startswith(_STORE) and "#" in name})
    return Lineage(base, licence_of(base), stages, tuple(_clicks(name) for name in names), lost)


def _ancestors(source: Source, root: Path | None) -> tuple[list[tuple[Path, Mapping[str, Any]]], str]:
    assert source.run is not None
    own = [(source.run, source.manifest)]
    try:
        from keel.feedback.lineage import ancestors, runs_below
    except ImportError:
        return own, "runs before this one are found with the extra feedback: pip install 'keel-align[feedback]'"
    above = source.run.resolve().parent
    where = root or (above.parent.parent if above.name == "stages" else above)
    try:
        found = ancestors(runs_below(where), source.run)
    except UserError as error:
        return own, error.message
    return [(run.path, run.manifest) for run in found], ""


def _stage(path: Path, manifest: Mapping[str, Any]) -> Stage:
    git = manifest.get("git") or {}
    commit = str(git.get("commit") or UNKNOWN)[:12] + (" (changed since)" if git.get("dirty") else "")
    began = next((str(s.get("at")) for s in manifest.get("starts", ())), UNKNOWN)
    data = {str(k): str(v)[:12] for k, v in manifest.get("data", {}).items()}
    return Stage(path.name, str(manifest.get("verb")), int(manifest.get("seed") or 0), began, commit, data, _step(path))


def _step(path: Path) -> int | None:
    """The checkpoint that became the model: the best one where the run took it, else the last."""
    try:
        summary = read_summary(path) or {}
    except UserError:
        return None
    steps = summary.get("steps")
    return steps if isinstance(steps, int) else None


def _clicks(name: str) -> Clicks:
    url, _, rest = name.removeprefix(_STORE).partition("#")
    identity = rest.partition("/")[0].partition(" ")[0]
    file = url.removeprefix("sqlite:///")
    if url.startswith("sqlite:///") and not Path(file).is_file():  # opening it would make a new one
        return Clicks(identity)
    try:
        from keel.feedback.db import Store
        from keel.feedback.snapshots import snapshots

        store = Store(url)
        try:
            found = next(s for s in snapshots(store) if s.id == identity)
            wanted = frozenset(found.events)
            people = {j.by for j in store.judgements() if j.event_id in wanted}
        finally:
            store.close()
        return Clicks(identity, len(found.events), len(people))
    except Exception:  # a store that is gone, or no driver for it: the card says unknown
        return Clicks(identity)


def licence_of(spec: str) -> str:
    """What a model's own files say of its licence: the card beside it, or a GGUF file's own words; else unknown."""
    if spec.startswith("tiny:"):
        return "none: made from a seed"
    path = _path(spec)
    if path is None:
        return UNKNOWN
    if path.suffix == ".gguf":
        return _gguf_licence(path)
    readme = path / "README.md"
    if readme.is_file() and (text := readme.read_text(encoding="utf-8", errors="replace")).startswith("---"):
        try:
            front = yaml.safe_load(text.split("---", 2)[1])
        except (yaml.YAMLError, IndexError):
            return UNKNOWN
        if isinstance(front, dict) and isinstance(front.get("license"), str):
            return str(front["license"])
    return UNKNOWN


def _path(spec: str) -> Path | None:
    if spec.startswith("package:"):
        package, _, file = spec.removeprefix("package:").partition("/")
        try:
            return Path(str(resources.files(package))) / file
        except (ModuleNotFoundError, TypeError, metadata.PackageNotFoundError):
            return None
    path = Path(spec).expanduser()
    return path if path.exists() else None


def _gguf_licence(path: Path) -> str:
    try:
        import gguf

        field = gguf.GGUFReader(str(path)).get_field("general.license")
    except (ImportError, OSError, ValueError):
        return UNKNOWN
    return str(field.contents()) if field is not None else UNKNOWN
