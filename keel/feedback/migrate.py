"""From whatever a database holds to the tables of today: numbered steps, each done once, all in one transaction."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import Connection

from keel.core.errors import ConfigError
from keel.feedback.sql import is_sqlite
from keel.feedback.steps import APPEND_ONLY, STEPS

VERSION = len(STEPS)
_TABLE = "keel_schema"


def version(connection: Connection) -> int:
    """The number of steps that this database has seen; 0 for an empty one. Raises ConfigError when it holds tables of something else."""
    names = sqlalchemy.inspect(connection).get_table_names()
    if _TABLE not in names:
        if names:
            raise ConfigError(f"the database holds other tables ({', '.join(sorted(names)[:5])}) and no feedback", "give an empty one")
        return 0
    return int(connection.exec_driver_sql(f"SELECT coalesce(max(version), 0) FROM {_TABLE}").scalar_one())


def migrate(connection: Connection, upto: int = VERSION) -> int:
    """Do the steps that are missing; returns how many. Raises ConfigError when a newer Keel made the database."""
    found = version(connection)
    if found > VERSION:
        raise ConfigError(f"the store has schema {found}, this version of Keel knows {VERSION}", "use the version of Keel that wrote it")
    if found == 0 and not sqlalchemy.inspect(connection).has_table(_TABLE):
        connection.exec_driver_sql(f"CREATE TABLE {_TABLE} (version BIGINT NOT NULL, PRIMARY KEY (version))")
    for number in range(found + 1, upto + 1):
        for statement in STEPS[number - 1].split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        for table in APPEND_ONLY[number - 1]:
            _protect(connection, table)
        connection.exec_driver_sql(f"INSERT INTO {_TABLE} (version) VALUES ({number})")
    return max(0, upto - found)


def _protect(connection: Connection, table: str) -> None:
    """The database itself refuses to change or delete a row of this table."""
    refusal = f"rows of {table} are never changed"
    if is_sqlite(connection):
        for what in ("UPDATE", "DELETE"):
            body = f"BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            connection.exec_driver_sql(f"CREATE TRIGGER {table}_no_{what.lower()} {body}")
        return
    function = f"CREATE FUNCTION {table}_keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{refusal}'; END $$"
    connection.exec_driver_sql(function)
    trigger = f"CREATE TRIGGER {table}_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
    connection.exec_driver_sql(f"{trigger} FOR EACH STATEMENT EXECUTE FUNCTION {table}_keep()")
