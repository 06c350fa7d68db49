"""Engines by URL: SQLite made safe (WAL, every commit on the disk), PostgreSQL with one writer at a time."""

from __future__ import annotations

import contextlib
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

try:
    import sqlalchemy
    from sqlalchemy import Connection, Engine, event
    from sqlalchemy.exc import ArgumentError, DBAPIError
except ModuleNotFoundError as missing:  # the store is an extra
    from keel.core.errors import ConfigError

    raise ConfigError("the feedback store needs SQLAlchemy, which is not installed", "pip install 'keel-align[feedback]'") from missing

from keel.core.errors import ConfigError

BUSY_MS = 30_000  # how long a transaction waits for another process before it fails
_LOCK = 0x4B65656C  # PostgreSQL's advisory lock of writers
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}")


def make_url(text: str) -> sqlalchemy.URL:
    """``sqlite:///file.db``, ``postgresql://user@host/name``, or just a path, which means SQLite. Raises ConfigError."""
    if "://" not in text:
        text = f"sqlite:///{text}"
    try:
        url = sqlalchemy.make_url(text)
    except ArgumentError:
        raise ConfigError(f"store: {text!r} is no URL of a database", "sqlite:///feedback.db or postgresql://user@host/name") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    backend = url.drivername.partition("+")[0]
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(f"store: {url.drivername} is not supported", "sqlite:///feedback.db or postgresql://user@host/name")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError("store: SQLite needs a file", "sqlite:///feedback.db")
    return url


def engine(url: sqlalchemy.URL, *, writes: bool) -> Engine:
    """An engine of readers, or the one that only the writer uses: each of its transactions holds the database's one right to write."""
    sqlite = url.drivername.startswith("sqlite")
    more: dict[str, Any] = {"connect_args": {"check_same_thread": False}} if sqlite else {}
    try:
        made = sqlalchemy.create_engine(url, pool_size=1 if writes else 8, max_overflow=0 if writes else 24, **more)
    except ModuleNotFoundError as missing:
        raise ConfigError(f"store: {url.drivername} needs a driver: {missing}", "pip install 'keel-align[postgres]'") from None
    if sqlite:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        event.listen(made, "connect", _sqlite)
        event.listen(made, "begin", _begin_immediate if writes else _begin)
    elif writes:
        event.listen(made, "begin", _lock)
    return made


class Rows:
    """The rows of `run`, as named tuples, all read."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        return self._rows

    def first(self) -> Any:
        """The first row; None when there is none."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """The only row. Raises ValueError when there are none or several."""
        (row,) = self._rows
        return row

    def one_or_none(self) -> Any:
        """The only row, or None. Raises ValueError when there are several."""
        return self.one() if self._rows else None

    def scalar(self) -> Any:
        """The first value of the first row; None when there is none."""
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        """The first value of the only row."""
        return self.one()[0]


@dataclass(frozen=True, slots=True)
class _Compiled:
    statement: Any  # kept, so that its id stays its own
    text: str
    order: tuple[str, ...] | None  # of the parameters, where the driver takes them by place
    known: dict[str, Any]  # the statement's own values
    row: Callable[[Any], Any] | None


_COMPILED: dict[tuple[int, str], _Compiled] = {}


def run(connection: Connection, statement: Any, **values: Any) -> Rows:
    """Execute a statement that a module keeps, with its parameters by name: compiled once, then handed to the driver as it is.

    A tenth of the time that ``execute`` takes, which is most of what a vote costs. For columns of text and numbers alone. Raises what
    ``execute`` does.
    """
    made = _made(connection, statement)
    known = {**made.known, **values}
    try:
        cursor = driver_of(connection).execute(made.text, known if made.order is None else [known[name] for name in made.order])
        return _NONE if made.row is None else Rows(list(map(made.row, cursor.fetchall())))
    except _errors(connection) as error:
        raise DBAPIError.instance(made.text, None, error, _errors(connection), dialect=connection.dialect) from error


Step = tuple[Any, dict[str, Any]]


def run_all(connection: Connection, steps: Sequence[Step]) -> None:
    """`run` for several statements that give no rows back, in their order: (statement, parameters). One round trip where the driver can."""
    with contextlib.nullcontext() if is_sqlite(connection) or len(steps) < 2 else _pipeline(connection):
        for statement, values in steps:
            run(connection, statement, **values)


@contextlib.contextmanager
def _pipeline(connection: Connection) -> Iterator[None]:
    try:
        with driver_of(connection).pipeline():
            yield
    except _errors(connection) as error:  # of a statement that was sent before
        raise DBAPIError.instance("pipeline", None, error, _errors(connection), dialect=connection.dialect) from error


def driver_of(connection: Connection) -> Any:
    """The driver's own connection: SQLAlchemy takes as long for one statement as a vote needs."""
    return connection.connection.driver_connection


def _errors(connection: Connection) -> type[Exception]:
    return connection.dialect.loaded_dbapi.Error


_NONE = Rows([])


def _made(connection: Connection, statement: Any) -> _Compiled:
    key = (id(statement), connection.dialect.name)
    made = _COMPILED.get(key)
    if made is None:
        made = _COMPILED[key] = _compile(connection, statement)
    return made


def _compile(connection: Connection, statement: Any) -> _Compiled:
    made = statement.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    order = tuple(made.positiontup) if made.positiontup is not None else None
    columns = statement.exported_columns if isinstance(statement, sqlalchemy.Select) else None
    row = None if columns is None else partial(tuple.__new__, namedtuple("Row", [c.name for c in columns], rename=True))
    return _Compiled(statement, str(made), order, {name: value for name, value in made.params.items() if value is not None}, row)


def plain(connection: Connection, statement: str) -> None:
    """A few words for the driver, without parameters and rows. Raises what ``exec_driver_sql`` does."""
    try:
        driver_of(connection).execute(statement)
    except _errors(connection) as error:
        raise DBAPIError.instance(statement, None, error, _errors(connection), dialect=connection.dialect) from error


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def _sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where `begin` says, not where Python's driver guesses
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    plain(connection, "BEGIN")


def _begin_immediate(connection: Connection) -> None:
    plain(connection, "BEGIN IMMEDIATE")


def _lock(connection: Connection) -> None:
    plain(connection, f"SELECT pg_advisory_xact_lock({_LOCK})")
