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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.data.arrow_nulls import without_nulls
from keel.errors import DataError


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the file. ``folder`` is where relative image paths start: absolute, so that records may be
    written elsewhere."""

    values: Mapping[str, Any]
    file: str
    line: int
    folder: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it is, which field, and why. ``values`` is what could be read of it."""

    file: str
    line: int
    field: str
    reason: str
    values: Mapping[str, Any] | str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: " + (f"{self.field}: " if self.field else "") + self.reason


@dataclass(frozen=True, slots=True)
class Source:
    """All rows of one path. ``fingerprint`` is the sha256 of the content."""

    rows: tuple[RawRow, ...]
    bad: tuple[BadRow, ...]
    fingerprint: str
    name: str


Rows = Iterator[RawRow | BadRow]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_HALF = re.compile("[\ud800-\udfff]")
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_HUB_ID = re.compile(r"^(?:hf:)?(?P<id>[\w.-]+/[\w.-]+|(?<=hf:)[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$")


def read_source(path: str, split: str = "train") -> Source:
    """Read every row of a file, folder, ``package:PKG/FILE`` or Hugging Face data set.

    Raises DataError when there is nothing that could be read at all; single bad rows come back in ``bad``.
    """
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
        for row in reader(content, file):
            found += 1
            rows.append(row) if isinstance(row, RawRow) else bad.append(row)
        if not found:
            raise DataError(f"{file}: the file is empty", "it needs at least one row")
    return Source(tuple(rows), tuple(bad), digest.hexdigest(), name)


def _content(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
        return gzip.decompress(raw) if file.name.endswith(".gz") else raw
    except PermissionError:
        raise DataError(f"{file}: no permission to read this file", "change its permissions (chmod u+r) or give another file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}", "the file may be cut off or not be gzip; fetch it again") from None


def _read_jsonl(content: bytes, file: Path) -> Rows:
    offset = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        start, offset = offset, offset + len(line) + 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield BadRow(str(file), number, "", f"not UTF-8 at byte {start + error.start} of the file (0x{line[error.start]:02x})")
            continue
        try:
            values = parse_json(text)
        except json.JSONDecodeError as error:
            yield BadRow(str(file), number, "", f"broken JSON at column {error.colno}: {error.msg}", text[:2000])
            continue
        yield _row(values, file, number, _escapes(text))


def _read_json(content: bytes, file: Path) -> Rows:
    text = _utf8(content, file)
    if not text.strip():
        return
    try:
        data = parse_json(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines[:2]):  # JSON lines under the wrong name
            yield from _read_jsonl(content, file)
            return
        raise DataError(f"{file}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}", "mend the file at that line") from None
    if isinstance(data, dict):
        lists = [v for v in data.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
        data = lists[0] if len(lists) == 1 and "messages" not in data and "conversations" not in data else [data]
    if not isinstance(data, list):
        raise DataError(f"{file}: the file holds {json_type(data)}", "it must hold a list of objects, or one object a line (JSONL)")
    escapes = _escapes(text)
    for number, values in enumerate(data, start=1):  # a JSON array has no lines of its own: rows are counted
        yield _row(values, file, number, escapes)


def parse_json(text: str) -> Any:
    """A JSON value. Raises JSONDecodeError, also for what Python's parser refuses in other ways."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("lists or objects are nested too deep", text, 0) from None
    except ValueError:  # Python's own limit of 4,300 digits
        raise json.JSONDecodeError("a number has too many digits", text, 0) from None


def _row(values: Any, file: Path, number: int, escapes: bool) -> RawRow | BadRow:
    """A parsed value as a row. Half of a character is refused, no tokenizer reads it; only ``escapes`` in the file can have made one."""
    if not isinstance(values, dict):
        return BadRow(str(file), number, "", f"a row must be a JSON object, this is {json_type(values)}", str(values)[:2000])
    if escapes and _HALF.search(json.dumps(values, ensure_ascii=False)):
        return BadRow(str(file), number, "", "half of a character: \\ud800 to \\udfff stand in pairs only", json.dumps(values)[:2000])
    return RawRow(values, str(file), number, str(file.parent.absolute()))


def _escapes(text: str) -> bool:
    """Does JSON text hold escapes that stand for half of a character each?"""
    return "\\ud" in text or "\\uD" in text


def _read_csv(content: bytes, file: Path) -> Rows:
    text = _utf8(content, file)
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
            yield _row({k: _cell(v) for k, v in zip(names, cells)}, file, start, any(map(_escapes, cells)))


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
    for number, values in enumerate(table.to_pylist(maps_as_pydicts="lossy"), start=1):
        yield RawRow(without_nulls(values), str(file), number, str(file.parent.absolute()))


_READERS: Mapping[str, Callable[[bytes, Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
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
    return Source(tuple(rows), (), digest.hexdigest(), f"{path}[{split}]")


def _opaque(value: Any) -> str:
    """A stable stand-in for what JSON cannot hold (images, bytes, dates)."""
    raw = value if isinstance(value, bytes) else value.tobytes() if hasattr(value, "tobytes") else str(value).encode()
    return hashlib.sha256(raw).hexdigest()


def _utf8(content: bytes, file: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}:{line}: not UTF-8 at byte {error.start} (0x{content[error.start]:02x})",
            f"convert the file, e.g. iconv -f latin1 -t utf-8 {file.name}",
        ) from None


def json_type(value: Any) -> str:
    """What JSON calls this value, for messages."""
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), type(value).__name__)
