"""SQLite itself: which library, how a connection is opened, and what its faults mean.

docs/decisions/0002-sqlite-library.md says why the library is not Python's own where there is a choice.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from sqlalchemy import URL, Connection, Engine, FromClause, create_engine
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from api import metrics
from api.errors import Unavailable

try:
    import pysqlite3.dbapi2 as _library
except ImportError:  # it has wheels for Linux on x86_64 only; `is_safe` judges what is here instead
    import sqlite3 as _library

driver: Any = _library
VERSION: str = driver.sqlite_version
BUSY_SECONDS = 5.0  # how long to wait for a lock before the client hears 503
MEGABYTE = 1 << 20
PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "mmap_size=0",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "secure_delete=ON",
    "recursive_triggers=ON",  # so that a REPLACE, too, is stopped by what forbids to delete
    f"journal_size_limit={16 * MEGABYTE}",
)
BUSY = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED
FAULTS = {
    5: "The database is busy. Try again in a moment.",
    6: "The database is busy. Try again in a moment.",
    7: "The server is out of memory. Try again in a moment.",
    8: "The database cannot be written to.",
    9: "This takes too long to look up. Ask for less at once: fewer words, a narrower filter.",
    10: "The disk does not answer.",
    11: "The database file is damaged. Restore a backup.",
    13: "The disk is full. Nothing was changed.",
    14: "The database file cannot be opened.",
    15: "The database is busy. Try again in a moment.",
    26: "The database file is damaged. Restore a backup.",
}

Result = TypeVar("Result")


def is_safe(version: tuple[int, ...] = driver.sqlite_version_info) -> bool:
    """Tell whether this SQLite has the WAL-reset bug mended (https://sqlite.org/wal.html#walresetbug).

    3.7.0 to 3.51.2 can lose a committed transaction when two connections checkpoint while a third commits.
    """
    if version >= (3, 51, 3):
        return version[:3] != (3, 52, 0)  # withdrawn
    return (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


class Compiler(SQLiteCompiler):
    """SQLAlchemy's, and INDEXED BY: `select(...).with_hint(table, "INDEXED BY name", "sqlite")`.

    Where the choice of the index decides how the cost grows, it is not left to a planner that knows no figures.
    https://sqlite.org/lang_indexedby.html
    """

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:  # noqa: ARG002
        """Return what stands behind a table."""
        return text


def engine(url: URL, *pragmas: str, mode: str = "rw") -> Engine:
    """Return an engine whose connections carry our pragmas, never wait in C, and begin only when told to.

    A file that is not there is not made, unless `mode` is "rwc": an empty database is worse than none.
    """
    made = create_engine(
        url,
        module=driver,
        creator=lambda: _connect(url, mode, pragmas),
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,  # who needs connections again keeps them
        hide_parameters=True,  # errors end in the log, and parameters are people's data
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=_json_value,
    )
    made.dialect.statement_compiler = Compiler
    return made


def _json_value(stored: Any) -> Any:
    """Return what a JSON column says. A bare number is stored as one, for SQLite takes the type JSON for a numeric one.

    https://sqlite.org/datatype3.html#determination_of_column_affinity
    """
    return stored if isinstance(stored, int | float) else orjson.loads(stored)


def _connect(url: URL, mode: str, pragmas: tuple[str, ...]) -> Any:
    file = f"file:{quote(str(Path(url.database or '').absolute()))}?mode={mode}"
    connection = driver.connect(
        file, uri=True, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    for pragma in (*PRAGMAS, *pragmas):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def open_connection(engine: Engine) -> tuple[Connection, Any]:
    """Return a new connection and its driver's. Waits for a process that is closing or mending the file."""
    conn = patiently(engine.connect)
    return conn, conn.connection.dbapi_connection


def patiently(
    attempt: Callable[[], Result], deadline: float | None = None, meanwhile: Callable[[], object] = bool
) -> Result:
    """Return `attempt()`, tried again while the database is busy, until `deadline` (time.monotonic()).

    Other greenlets run meanwhile: a wait in C would stop the one that holds the lock. A short, fixed, jittered pause is
    fairer than a growing one: p99 38 ms against 105.
    """
    deadline = deadline or time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return attempt()
        except (DBAPIError, driver.Error) as error:
            if fault_code(error) not in BUSY or time.monotonic() > deadline:
                raise
        metrics.DATABASE_BUSY.inc()
        meanwhile()
        time.sleep(random.uniform(0.001, 0.003))  # noqa: S311 (jitter, no secret)


def fault_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of an error of the driver or of SQLAlchemy, if it has one."""
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def named(error: Exception) -> Exception:
    """Return the error as `Unavailable` if it is the disk's or the lock's fault, otherwise as it was."""
    detail = FAULTS.get(fault_code(error) or 0)
    return Unavailable(detail) if detail else error


def raise_named(error: BaseException | None) -> None:
    """Raise `Unavailable` from an error that is the disk's or the lock's fault, and do nothing about any other."""
    if isinstance(error, DBAPIError | driver.Error) and (fault := named(error)) is not error:
        raise fault from error


@contextmanager
def naming_faults() -> Iterator[None]:
    """Turn a fault of the disk or the lock into `Unavailable`, and let every other error pass."""
    try:
        yield
    except (DBAPIError, driver.Error) as error:
        raise_named(error)
        raise
