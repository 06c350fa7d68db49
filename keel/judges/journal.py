"""Every paid call, kept before it is used: one SQLite file, synced at each write. A job that is started again pays for no answer twice.

Answers are found by a key of all that made them: endpoint, model, template, parameters, order, sample, and the question's content. What
was no verdict is put down with its cost and is never an answer: it is asked again.
"""

from __future__ import annotations

import json
import math
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
    """An open journal; any thread may call. Raises RunError when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"{path}: the journal of paid calls cannot be used: {error}", "give another file as `journal`") from None

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def get(self, key: str) -> Call | None:
        """The answer that was paid for under this key."""
        with self._lock:
            row = self._db.execute("SELECT reply, read, written, cost FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else Call(json.loads(row[0]), None if row[1] is None else (row[1], row[2]), row[3])

    def keep(self, key: str, call: Call) -> None:
        """On the disk when this returns."""
        self._put("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", key, json.dumps(call.reply, ensure_ascii=False), call)

    def keep_failure(self, key: str, error: str, call: Call) -> None:
        """A call that was, or may have been, paid and gave no verdict."""
        self._put("INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?)", key, error, call)

    def spent(self) -> float:
        """The known cost of all calls in the file."""
        with self._lock:
            rows = self._db.execute("SELECT cost FROM answers UNION ALL SELECT cost FROM failures").fetchall()
        return math.fsum(cost for (cost,) in rows if cost is not None)

    def counts(self) -> dict[str, int]:
        """Answers, failures, and calls among both whose cost is unknown."""
        count = "SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM failures), "
        unknown = "(SELECT count(*) FROM answers WHERE cost IS NULL) + (SELECT count(*) FROM failures WHERE cost IS NULL)"
        with self._lock:
            row = self._db.execute(count + unknown).fetchone()
        return {"answers": row[0], "failures": row[1], "cost_unknown": row[2]}

    def _put(self, statement: str, key: str, text: str, call: Call) -> None:
        read, written = call.tokens if call.tokens is not None else (None, None)
        with self._lock:
            self._db.execute(statement, (key, text, read, written, call.cost, time.time()))


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
