"""Where rows come from: JSONL, JSON, CSV, Parquet, folders of them, Hugging Face data sets, files in installed packages.

A source yields plain columns with their place (``file:line``); what they mean is decided by ``layouts``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import DataError, EmptyFileError
from keel.data.arrow_nulls import without_nulls
from keel.data.image_sets import spread
from keel.data.json_rows import read_json, read_jsonl
from keel.data.rows import BadRow, RawRow, Rows, escapes, parse_json, row, utf8


@dataclass(frozen=True, slots=True)
class Source:
    """All rows of one path. ``fingerprint`` is the sha256 of the content."""

    rows: tuple[RawRow, ...]
    bad: tuple[BadRow, ...]
    fingerprint: str
    name: str


SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_HUB_ID = re.compile(r"^(?:hf:)?(?P<id>[\w.-]+/[\w.-]+|(?<=hf:)[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$")


def read_source(path: str, split: str = "train") -> Source:
    """Read every row of a file, folder, ``package:PKG/FILE``, ``store:URL#SNAPSHOT`` or Hugging Face data set.

    Raises DataError when there is nothing that could be read at all; single bad rows come back in ``bad``.
    """
    if path.startswith("store:"):
        from keel.feedback.snapshots import read_rows  # a room above: only a store's path needs it, and its database driver

        values, fingerprint, name = read_rows(path)
        folder = str(Path.cwd())
        return Source(tuple(RawRow(v, name, i, folder) for i, v in enumerate(values, 1)), (), fingerprint, name)
    if path.startswith("package:"):
        return _read_files([package_file(path)], path)
    local = Path(path).expanduser()
    if local.is_dir():
        return _read_files(_folder_files(local, split), path)
    if local.exists():
        return _read_files([local], path)
    match = _HUB_ID.match(path)
    if match and _kind(local) is None:
        return _read_hub(path, match["id"], match["config"], match["revision"], split)
    near = sorted(p.name for p in local.parent.glob("*") if _kind(p)) if local.parent.is_dir() else []
    raise DataError(
        f"{path}: no such file or folder",
        f"files beside it: {', '.join(near[:8])}"
        if near
        else "give a file, a folder, org/name of a Hugging Face data set, or package:PKG/FILE",
    )


def package_file(path: str) -> Path:
    """The file behind ``package:PKG/FILE``. Raises DataError when the package or the file is missing."""
    package, _, inside = path.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package) if package else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{path}: no installed package {package!r}", f"install it (pip install {package.replace('_', '-')}) or give a file")
    for root in spec.submodule_search_locations:
        file = Path(root) / inside
        if file.is_file():
            return file
    raise DataError(f"{path}: package {package!r} holds no file {inside!r}", "look into the package's folder for the file's name")


def _kind(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((s for s in SUFFIXES if name.endswith(s)), None)


def _folder_files(folder: Path, split: str) -> list[Path]:
    """The data files of a folder; where names speak of splits, only those of ``split`` (test rows never slip into training)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and _kind(p) and not any(part.startswith(".") for part in p.parts))
    if not files:
        raise DataError(f"{folder}: no data file in this folder", f"files that can be read end in {', '.join(SUFFIXES)} (.gz too)")

    def split_of(path: Path) -> str | None:
        words = re.split(r"[^a-z]+", "/".join(path.relative_to(folder).parts).lower())
        return next((w for w in words if w in _SPLITS), None)

    named = [p for p in files if split_of(p) is not None]
    if not named:
        return files
    chosen = [p for p in files if split_of(p) in (split, None)]
    if not any(split_of(p) == split for p in chosen):
        found = sorted({str(split_of(p)) for p in named})
        raise DataError(f"{folder}: no file of split {split!r}", f"splits found in the file names: {', '.join(found)}; set data.split")
    return chosen


def _read_files(files: list[Path], name: str) -> Source:
    rows: list[RawRow] = []
    bad: list[BadRow] = []
    digest = hashlib.sha256()
    for file in files:
        reader = _READERS.get(_kind(file) or "")
        if reader is None:
            raise DataError(
                f"{file}: cannot tell what kind of file this is", f"files that can be read end in {', '.join(SUFFIXES)} (.gz too)"
            )
        content = _content(file)
        digest.update(hashlib.sha256(content).digest())
        found = 0
        for one in reader(content, file):
            found += 1
            rows.append(one) if isinstance(one, RawRow) else bad.append(one)
        if not found:
            raise EmptyFileError(f"{file}: the file is empty", "it needs at least one row")
    rows, spoilt = spread(rows)
    return Source(tuple(rows), (*bad, *spoilt), digest.hexdigest(), name)


def read_plain(path: Path, content: bytes | None = None) -> Source:
    """One file whose rows are another tool's: cells of tables stay the text that they are. ``content`` stands for the file's where it is
    given. Raises DataError when there is nothing that could be read at all."""
    kind = _kind(path)
    if kind is None:
        what = f"files that can be read end in {', '.join(SUFFIXES)} (.gz too)"
        raise DataError(f"{path}: cannot tell what kind of file this is", what)
    if content is None and not path.is_file():
        raise DataError(f"{path}: no such file", "check the spelling")
    found = _content(path) if content is None else content
    made = csv_rows(found, path, _text_cell) if kind in (".csv", ".tsv") else _READERS[kind](found, path)
    rows: list[RawRow] = []
    bad: list[BadRow] = []
    for one in made:
        rows.append(one) if isinstance(one, RawRow) else bad.append(one)
    if not rows and not bad:
        raise EmptyFileError(f"{path}: the file is empty", "it needs at least one row")
    return Source(tuple(rows), tuple(bad), hashlib.sha256(found).hexdigest(), str(path))


def _content(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
        return gzip.decompress(raw) if file.name.endswith(".gz") else raw
    except PermissionError:
        raise DataError(f"{file}: no permission to read this file", "change its permissions (chmod u+r) or give another file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}", "the file may be cut off or not be gzip; fetch it again") from None


def _read_csv(content: bytes, file: Path) -> Rows:
    return csv_rows(content, file, _cell)


def csv_rows(content: bytes, file: Path, cell: Callable[[str], Any]) -> Rows:
    """Rows of a table with a header; ``cell`` makes a value of each cell's text, None for one that is absent."""
    text = utf8(content, file)
    delimiter = "\t" if _kind(file) == ".tsv" else ","
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = "a quote is opened here and never closed" if "end of data" in str(error) else f"broken CSV: {error}"
            yield BadRow(str(file), start, "", reason)
            continue
        if not cells:
            continue
        if not names:
            names = _header(cells, file, start)
        elif len(cells) != len(names):
            yield BadRow(str(file), start, "", f"this row has {len(cells)} columns, the header {len(names)}")
        else:
            yield row({k: cell(v) for k, v in zip(names, cells)}, file, start, any(map(escapes, cells)))


def _header(cells: list[str], file: Path, line: int) -> list[str]:
    twice = next((c for i, c in enumerate(cells) if c in cells[:i]), None)
    if twice is not None:
        raise DataError(f"{file}:{line}: two columns are named {twice!r}", "give every column a name of its own")
    return cells


def _cell(value: str) -> Any:
    """A CSV cell: empty = absent; lists and objects are JSON; the rest stays text."""
    if value == "":
        return None
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return parse_json(value)
        except json.JSONDecodeError:
            return value
    return value


def _text_cell(value: str) -> str | None:
    return value or None


def _read_parquet(content: bytes, file: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{file}: reading Parquet needs pyarrow", "pip install 'keel-align[data]'") from None
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: broken Parquet file: {error}", "the file may be cut off; fetch it again") from None
    try:
        rows = table.to_pylist(maps_as_pydicts="strict")
    except (KeyError, ValueError) as error:
        raise DataError(f"{file}: a map has one key twice: {error}", "one of its two values would be lost: rename the key") from None
    for number, values in enumerate(rows, start=1):
        yield RawRow(without_nulls(values), str(file), number, str(file.parent.absolute()))


_READERS: Mapping[str, Callable[[bytes, Path], Rows]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_hub(path: str, name: str, config: str | None, revision: str | None, split: str) -> Source:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{path}: no such file or folder; as a Hugging Face data set it needs the datasets package", "pip install 'keel-align[data]'"
        ) from None
    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path}: {str(error).splitlines()[0]}", "name the split with data.split and the configuration as org/name:config"
        ) from None
    except Exception as error:  # the library's network and hub errors share no base class
        raise DataError(
            f"{path}: neither a file or folder here, nor a data set that loads from the Hugging Face Hub ({type(error).__name__})",
            "check the spelling; without a network give a local file or folder, or a data set that is already in the cache",
        ) from None
    digest = hashlib.sha256()
    rows: list[RawRow] = []
    for number, values in enumerate(loaded, start=1):
        row = dict(values)  # type: ignore[call-overload]
        digest.update(json.dumps(row, sort_keys=True, default=_opaque).encode())
        rows.append(RawRow(without_nulls(row), f"{path}[{split}]", number, str(Path.cwd())))
    if not rows:
        raise DataError(f"{path}: split {split!r} is empty", "choose another with data.split")
    rows, spoilt = spread(rows)
    return Source(tuple(rows), tuple(spoilt), digest.hexdigest(), f"{path}[{split}]")


def _opaque(value: Any) -> str:
    """A stable stand-in for what JSON cannot hold (images, bytes, dates)."""
    raw = value if isinstance(value, bytes) else value.tobytes() if hasattr(value, "tobytes") else str(value).encode()
    return hashlib.sha256(raw).hexdigest()
