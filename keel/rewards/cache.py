"""Scores kept on disk: what was scored once by the same reward is not scored again. Which reward it is, exactly, is a hash of everything
that decides its scores, so that they are never those of another."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keel.core.config import dump
from keel.core.errors import UserError
from keel.core.version import VERSION
from keel.rewards.score import Score
from keel.rewards.settings import InputFile, ScoringConfig
from keel.rewards.text import OnceLog, TextScorer, score_texts
from keel.runs.fingerprints import model_fingerprint
from keel.types import Group, Prompt

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch

_FILE = "scores.sqlite"
_NOT_OF_THE_SCORE = ("name", "weight", "on_failure", "retries", "worker")


class ScoreCache:
    """A folder with one file. Rows belong to (identity of the reward, hash of what was scored); failures are not kept."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Raises UserError when the folder cannot be used."""
        self.identity = identity
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(folder / _FILE, timeout=60.0, isolation_level=None)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS scores (reward TEXT, key TEXT, score REAL, reason TEXT, PRIMARY KEY (reward, key))"
            )
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{folder}: the score cache cannot be used: {error}", "give another folder, or delete the file in it") from None

    def get(self, key: str) -> Score | None:
        row = self._db.execute("SELECT score, reason FROM scores WHERE reward = ? AND key = ?", (self.identity, key)).fetchone()
        return None if row is None else Score(row[0], row[1])

    def put(self, scores: Sequence[tuple[str, Score]]) -> None:
        """Keep what is no failure."""
        rows = [(self.identity, key, float(score), score.reason) for key, score in scores if math.isfinite(score)]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class CachedTexts:
    """A source that reads text, behind a cache."""

    inner: TextScorer
    cache: ScoreCache
    warn: OnceLog = field(default_factory=OnceLog, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.inner.name

    def judge(self, items: Sequence[tuple[Prompt, Any]]) -> list[Score]:
        """One score for each (prompt, what the source takes: an answer, or two); the new ones are kept."""
        keys = [text_key(prompt, text) for prompt, text in items]
        found = [self.cache.get(key) for key in keys]
        missing = [i for i, score in enumerate(found) if score is None]
        new = self.inner.judge([items[i] for i in missing]) if missing else []
        self.cache.put([(keys[i], score) for i, score in zip(missing, new, strict=True)])
        made = iter(new)
        return [score if score is not None else next(made) for score in found]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group."""
        return score_texts(self, groups, self.warn)


def text_key(prompt: Prompt, text: str | tuple[str, str]) -> str:
    """Hash of what a text reward can see: messages, raw text, extra columns, the answer (or the two)."""
    messages = [[m.role, repr(m.content), dict(m.extra)] for m in prompt.messages]
    return _hash([messages, prompt.text, dict(prompt.meta), text])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode("utf-8", "surrogatepass")).hexdigest()


def identity(config: ScoringConfig) -> str:
    """``version:hash`` of a source: this program's version; its settings, the files that it reads, the libraries that it uses and the code
    of this room. Name, weight and what happens to failures play no part."""
    settings = {k: v for k, v in dump(config).items() if k not in _NOT_OF_THE_SCORE}
    libraries = {name: _version(name) for name in config.libraries}
    content = [_content(file) for file in config.files()]
    parts = [json.dumps(settings, sort_keys=True), json.dumps(libraries, sort_keys=True), json.dumps(content), own_code()]
    return f"{VERSION}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"


def _content(file: InputFile) -> str:
    path = Path(file.path)
    if file.is_model:
        return model_fingerprint(path) if path.exists() else ""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _version(name: str) -> str:
    if name == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def own_code() -> str:
    """Of the rooms whose code decides what a verifier says, with the folders in them."""
    whole = hashlib.sha256()
    for package in ("keel.rewards", "keel.judges", "keel.sandbox", "keel.data"):
        for name, file in python_files(resources.files(package)):
            if package != "keel.data" or name == "text.py":
                whole.update(f"{package}/{name}".encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


def python_files(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    """The names of code and templates under ``folder``, in order, and the files."""
    for entry in sorted(folder.iterdir(), key=lambda f: f.name):
        if entry.is_dir():
            yield from python_files(entry, f"{above}{entry.name}/")
        elif entry.name.endswith((".py", ".yaml")):
            yield above + entry.name, entry
