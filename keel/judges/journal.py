"""Every paid call, kept before it is used: one SQLite file, synced at each write. A job that is started again pays for no answer twice.

Answers are found by a key of all that made them: endpoint, model, template, parameters, order, sample, and the question's content. What
was no verdict is put down with its cost and is never an answer: it is asked again. Lines are added and never changed: a call that is made
again costs twice, and its newest reply is the answer.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from keel.core.errors import RunError
from keel.judges.ask import Question, digest

T = TypeVar("T")

# ``reply`` is NULL of a call that gave no verdict; ``most``: what it may have cost, where the cost is not known
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (number INTEGER PRIMARY KEY, key TEXT NOT NULL, reply TEXT, error TEXT NOT NULL, read INTEGER,
    written INTEGER, cost REAL, most REAL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (key, number);
"""
_COLUMNS = "key, reply, error, read, written, cost, most, at"
_OLD = {  # tables of earlier files
    "answers": f"INSERT INTO calls ({_COLUMNS}) SELECT key, reply, '', read, written, cost, NULL, at FROM answers",
    "failures": f"INSERT INTO calls ({_COLUMNS}) SELECT key, NULL, error, read, written, cost, NULL, at FROM failures",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A reply as it was paid for."""

    reply: Any  # JSON: the text, or the text with its first token's log-probabilities
    tokens: tuple[int, int] | None
    cost: float | None  # None: unknown
    most: float | None = None  # where the cost is unknown: what it may be

    @property
    def counted(self) -> float | None:
        """What a budget counts."""
        return self.most if self.cost is None else self.cost


class Journal:
    """A journal; any thread may call. The file is made by the first paid call: asking for a price leaves nothing behind. What another
    process paid after this object was made counts here too, also where the file did not exist then.

    Raises RunError whenever the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._summed, self._sum = 0, 0.0  # number of the last line that is in the sum
        if path.exists():
            self._do(lambda: self._open())
        elif not os.access(next(p for p in path.absolute().parents if p.exists()), os.W_OK):
            raise RunError(f"{path}: the journal of paid calls cannot be written there", "give another file as `journal`")

    def _do(self, act: Callable[[], T]) -> T:
        """One thread at a time; what goes wrong with the file in words."""
        with self._lock:
            try:
                return act()
            except (OSError, sqlite3.Error, OverflowError) as error:
                raise RunError(
                    f"{self.path}: the journal of paid calls cannot be used: {error}",
                    "start again once it can be (is the disk full, does another process hold it?), or give another file as `journal`",
                ) from None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
            _take_over(db)
            self._db = db
        return self._db

    def _there(self) -> sqlite3.Connection | None:
        """The file, as soon as anybody has made it."""
        return self._open() if self._db is not None or self.path.exists() else None

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        def found() -> list[Any]:
            db = self._there()
            return [] if db is None else db.execute(query, values).fetchall()

        return self._do(found)

    def get(self, key: str) -> Call | None:
        """The newest answer that was paid for under this key."""
        query = "SELECT reply, read, written, cost, most FROM calls WHERE key = ? AND reply IS NOT NULL ORDER BY number DESC LIMIT 1"
        return next((Call(json.loads(r[0]), None if r[1] is None else (r[1], r[2]), r[3], r[4]) for r in self._rows(query, (key,))), None)

    def keep(self, key: str, call: Call) -> None:
        """On the disk when this returns."""
        self._put(key, json.dumps(call.reply), "", call)

    def keep_failure(self, key: str, error: str, call: Call) -> None:
        """A call that was, or may have been, paid and gave no verdict."""
        self._put(key, None, error.encode("utf-8", "backslashreplace").decode(), call)

    def spent(self) -> float:
        """The cost of all calls in the file, whoever made them; unknown ones at their highest, where that is known."""

        def add_new() -> float:
            if (db := self._there()) is not None:
                rows = db.execute("SELECT number, coalesce(cost, most, 0) FROM calls WHERE number > ?", (self._summed,)).fetchall()
                self._summed = max((number for number, _ in rows), default=self._summed)
                self._sum += sum(cost for _, cost in rows)
            return self._sum

        return self._do(add_new)

    def counts(self) -> dict[str, int]:
        """Questions with an answer, failures, and calls whose cost is unknown."""
        query = "SELECT count(DISTINCT CASE WHEN reply IS NULL THEN NULL ELSE key END), sum(reply IS NULL), sum(cost IS NULL) FROM calls"
        found = next(iter(self._rows(query)), (0, 0, 0))
        return dict(zip(("answers", "failures", "cost_unknown"), (int(n or 0) for n in found), strict=True))

    def _put(self, key: str, reply: str | None, error: str, call: Call) -> None:
        read, written = call.tokens if call.tokens is not None else (None, None)
        values = (key, reply, error, read, written, call.cost, call.most, time.time())
        self._do(lambda: self._open().execute(f"INSERT INTO calls ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values))


def _take_over(db: sqlite3.Connection) -> None:
    """Lines of an earlier file's tables, once, whoever else opens it at the same time."""
    there = "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('answers', 'failures')"
    if not db.execute(there).fetchall():
        return
    db.execute("BEGIN IMMEDIATE")
    for (name,) in db.execute(there).fetchall():
        db.execute(_OLD[name])
        db.execute(f"DROP TABLE {name}")
    db.execute("COMMIT")


def key_of(endpoint: str, model: str, template: str, parameters: dict[str, Any], question: Question) -> str:
    """The key of a call."""
    return digest(
        {
            "endpoint": endpoint,
            "model": model,
            "template": template,
            "parameters": parameters,
            "order": list(question.order),
            "sample": question.sample,
            "question": question.content(),
        }
    )
