"""Every paid call, kept before it is used: one SQLite file, synced at each write. A job that is started again pays for no answer twice.

Answers are found by a key of all that made them: endpoint, model, template, parameters, order, sample, and the question's content. What
was no verdict is put down with its cost and is never an answer: it is asked again.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.judges.ask import Question, digest

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, reply TEXT NOT NULL, read INTEGER, written INTEGER, cost REAL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS failures (key TEXT NOT NULL, error TEXT NOT NULL, read INTEGER, written INTEGER, cost REAL, at REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A reply as it was paid for."""

    reply: Any  # JSON: the text, or the text with its first token's log-probabilities
    tokens: tuple[int, int] | None
    cost: float | None  # None: unknown


class Journal:
    """A journal; any thread may call. The file is made by the first paid call: asking for a price leaves nothing behind.

    Raises RunError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        if path.exists():
            self._open()
        elif not os.access(next(p for p in path.absolute().parents if p.exists()), os.W_OK):
            raise RunError(f"{path}: the journal of paid calls cannot be written there", "give another file as `journal`")

    def _open(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"{self.path}: the journal of paid calls cannot be used: {error}", "give another file as `journal`") from None
        self._db = db
        return db

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return [] if self._db is None else self._db.execute(query, values).fetchall()

    def get(self, key: str) -> Call | None:
        """The answer that was paid for under this key."""
        rows = self._rows("SELECT reply, read, written, cost FROM answers WHERE key = ?", (key,))
        return next((Call(json.loads(r[0]), None if r[1] is None else (r[1], r[2]), r[3]) for r in rows), None)

    def keep(self, key: str, call: Call) -> None:
        """On the disk when this returns."""
        self._put("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", key, json.dumps(call.reply, ensure_ascii=False), call)

    def keep_failure(self, key: str, error: str, call: Call) -> None:
        """A call that was, or may have been, paid and gave no verdict."""
        self._put("INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?)", key, error, call)

    def spent(self) -> float:
        """The known cost of all calls in the file."""
        rows = self._rows("SELECT cost FROM answers UNION ALL SELECT cost FROM failures")
        return math.fsum(cost for (cost,) in rows if cost is not None)

    def counts(self) -> dict[str, int]:
        """Answers, failures, and calls among both whose cost is unknown."""
        rows = self._rows("SELECT 'answers', cost IS NULL FROM answers UNION ALL SELECT 'failures', cost IS NULL FROM failures")
        kinds = [kind for kind, _ in rows]
        return {"answers": kinds.count("answers"), "failures": kinds.count("failures"), "cost_unknown": sum(u for _, u in rows)}

    def _put(self, statement: str, key: str, text: str, call: Call) -> None:
        read, written = call.tokens if call.tokens is not None else (None, None)
        with self._lock:
            self._open().execute(statement, (key, text, read, written, call.cost, time.time()))


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
