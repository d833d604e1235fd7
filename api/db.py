"""One SQLite file: many readers, and one writer at a time whose commit answers everyone who joined it.

Read with `with reading() as conn:`, write with `with writing() as conn:`. Both hand out a SQLAlchemy connection, and
leave a fault of the disk or of the lock as `errors.Unavailable`. Nothing inside either block may wait for anything
but the database: under gevent that would hold the write lock while others run.
"""

import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from flask import Flask, current_app
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from uuid_utils import uuid7

from api.errors import Unavailable
from api.settings import Settings

try:
    import pysqlite3.dbapi2 as sqlite
except ImportError:  # it has wheels for Linux on x86_64 only; `sqlite_is_safe` judges what is here instead
    import sqlite3 as sqlite

SQLITE_VERSION: str = sqlite.sqlite_version
BUSY_SECONDS = 5.0  # how long a writer waits for the lock before the client hears 503
MEGABYTE = 1 << 20
PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "mmap_size=0",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "secure_delete=ON",
    f"journal_size_limit={16 * MEGABYTE}",
)
# The checkpointer (api/checkpoints.py) keeps the WAL short. This is the safety net should it be away: 16 MB in pages.
SAFETY_NET = "wal_autocheckpoint=4096"

BUSY = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED
FAULTS = {
    5: "The database is busy. Try again in a moment.",
    6: "The database is busy. Try again in a moment.",
    7: "The server is out of memory. Try again in a moment.",
    8: "The database cannot be written to.",
    10: "The disk does not answer.",
    11: "The database file is damaged. Restore a backup.",
    13: "The disk is full. Nothing was changed.",
    14: "The database file cannot be opened.",
    15: "The database is busy. Try again in a moment.",
    26: "The database file is damaged. Restore a backup.",
}


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its database. Opens nothing yet, so that it is safe before a fork."""
    app.extensions["database"] = Database(settings.database)


def database() -> "Database":
    """Return the database of the current app."""
    found: Database = current_app.extensions["database"]
    return found


def reading() -> "Snapshot":
    """One snapshot of the database. Cannot write. Never waits for a writer."""
    return Snapshot(database())


@contextmanager
def writing() -> Iterator[Connection]:
    """A change: durable on disk when the block is left, or undone whole if the block raises.

    Raises Unavailable when the lock is not to be had within BUSY_SECONDS, or the disk refuses.
    """
    with database().writing() as conn:
        yield conn


def now() -> int:
    """Return the time in milliseconds since 1970. The one clock of everything that is stored."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """Return a new id: a UUIDv7, which sorts by the time it was made (RFC 9562, 5.7)."""
    return str(uuid7())


def sqlite_is_safe(version: tuple[int, ...] = sqlite.sqlite_version_info) -> bool:
    """Tell whether this SQLite has the WAL-reset bug mended (https://sqlite.org/wal.html#walresetbug).

    3.7.0 to 3.51.2 can lose a committed transaction when two connections checkpoint while a third commits.
    """
    if version >= (3, 51, 3):
        return version[:3] != (3, 52, 0)  # withdrawn
    return (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def connect(url: URL | str, *pragmas: str) -> Engine:
    """Return an engine whose connections carry our pragmas, never wait in C, and begin only when told to."""
    engine = create_engine(
        url,
        module=sqlite,
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,  # Database keeps the connections itself
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={"timeout": 0, "check_same_thread": False, "cached_statements": 512},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        for pragma in (*PRAGMAS, *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def fault_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of an error of the driver or of SQLAlchemy, if it has one."""
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def named(error: Exception) -> Exception:
    """Return the error as `Unavailable` if it is the disk's or the lock's fault, otherwise as it was."""
    detail = FAULTS.get(fault_code(error) or 0)
    return Unavailable(detail) if detail else error


@contextmanager
def naming_faults() -> Iterator[None]:
    """Turn a fault of the disk or the lock into `Unavailable`, and let every other error pass."""
    try:
        yield
    except (DBAPIError, sqlite.Error) as error:
        fault = named(error)
        if fault is error:
            raise
        raise fault from error


def pause() -> None:
    """Give way for a moment. A short, fixed, jittered time is fairer than a growing one: p99 38 ms against 105."""
    time.sleep(random.uniform(0.001, 0.003))  # noqa: S311 (jitter, no secret)


class Database:
    """The connections of one process to one file."""

    def __init__(self, url: URL | str) -> None:
        self.url = make_url(url)
        self.path = Path(self.url.database or "").absolute()
        self._readers = connect(self.url, "query_only=ON")
        self._idle: list[tuple[Connection, Any]] = []
        self._writer: Writer | None = None
        self._first = threading.Lock()

    def writing(self) -> Any:
        """See `writing`."""
        if self._writer is None:
            with self._first, naming_faults():
                self._writer = self._writer or Writer(self.url, self.path)
        return self._writer.writing()

    def close(self) -> None:
        """Close every connection that nobody is using."""
        while self._idle:
            self._idle.pop()[0].close()
        if self._writer:
            self._writer.close()
        self._readers.dispose()

    def reader(self) -> tuple[Connection, Any]:
        """Return an idle reader and its driver. Readers are kept: opening one costs more than most questions."""
        return self._idle.pop() if self._idle else self._opened()

    def keep(self, reader: tuple[Connection, Any]) -> None:
        """Take a reader back."""
        self._idle.append(reader)

    def _opened(self) -> tuple[Connection, Any]:
        conn = self._readers.connect()
        return conn, conn.connection.dbapi_connection


class Snapshot:
    """What `reading` gives. A class, because a generator would cost as much as the question asked in it."""

    __slots__ = ("_database", "_reader")

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Connection:
        with naming_faults():
            self._reader = self._database.reader()
            try:
                self._begin(self._reader[1])
            except sqlite.Error:
                self._end()
                raise
        return self._reader[0]

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._end()
        if isinstance(error, DBAPIError | sqlite.Error) and (fault := named(error)) is not error:
            raise fault from error

    def _begin(self, driver: Any) -> None:
        """Take the snapshot. Another process may be mending the WAL after a crash, so busy is retried here too."""
        deadline = time.monotonic() + BUSY_SECONDS
        driver.execute("BEGIN")
        while True:
            try:
                driver.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
            except sqlite.Error as error:
                if fault_code(error) not in BUSY or time.monotonic() > deadline:
                    raise
                pause()
            else:
                return

    def _end(self) -> None:
        self._reader[1].rollback()
        self._database.keep(self._reader)


class Group:
    """The writers that share one commit."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None


class Writer:
    """The one writing connection of a process.

    The first writer begins the transaction and leads: it lets those who are ready join, each under a savepoint, then
    commits for all. Everyone is answered after that commit. A statement that fails undoes its own savepoint only; a
    commit that fails, fails everyone in the group.
    """

    def __init__(self, url: URL, path: Path) -> None:
        self._conn = connect(url, SAFETY_NET if sqlite_is_safe() else "wal_autocheckpoint=0").connect()
        self._driver: Any = self._conn.connection.dbapi_connection
        self._turn = threading.Lock()  # one writer inside at a time; gevent makes it a greenlet's lock
        self._group: Group | None = None  # whose transaction is open
        self._others = Others(path.with_name(path.name + "-writers"))
        self._not_before = 0.0  # other processes' turn until then, by time.monotonic()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See the module's `writing`."""
        deadline = time.monotonic() + BUSY_SECONDS
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise Unavailable(FAULTS[5])
        leads = self._group is None
        try:
            group = self._group or self._begin(deadline)
        except BaseException:
            self._turn.release()
            raise
        try:
            with naming_faults(), self._savepoint(group):
                yield self._conn
        finally:
            self._turn.release()
            if leads:
                self._lead(group)
        group.ended.wait()
        if group.error:
            raise group.error

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()
        self._conn.engine.dispose()
        self._others.close()

    def _begin(self, deadline: float) -> Group:
        """Take the write lock, giving way to the other greenlets while another process has it."""
        if (rest := self._not_before - time.monotonic()) > 0:
            time.sleep(rest)
        try:
            while not self._begun(deadline):
                self._others.wait_in_line()
                pause()
        finally:
            self._others.leave_line()
        self._group = Group()
        return self._group

    def _begun(self, deadline: float) -> bool:
        try:
            self._driver.execute("BEGIN IMMEDIATE")
        except sqlite.Error as error:
            if fault_code(error) in BUSY and time.monotonic() < deadline:
                return False
            raise named(error) from error
        return True

    @contextmanager
    def _savepoint(self, group: Group) -> Iterator[None]:
        self._driver.execute("SAVEPOINT request")
        try:
            yield
        except BaseException as error:
            self._undo(group, error)
            raise
        self._driver.execute("RELEASE request")

    def _undo(self, group: Group, error: BaseException) -> None:
        if self._driver.in_transaction:
            self._driver.execute("ROLLBACK TO request")
            self._driver.execute("RELEASE request")
        else:  # a full or failing disk makes SQLite undo the whole transaction, and everybody's change with it
            group.error = named(error) if isinstance(error, Exception) else Unavailable(FAULTS[10])
            self._end(group)

    def _lead(self, group: Group) -> None:
        """Let those who are ready join, then commit for all of them."""
        try:
            time.sleep(0)
        finally:  # also when this greenlet is being ended: others are waiting for the commit
            with self._turn:
                if group is self._group:
                    self._commit(group)

    def _commit(self, group: Group) -> None:
        try:
            self._driver.execute("COMMIT")
        except sqlite.Error as error:
            group.error = named(error)
            if self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
        finally:
            self._end(group)
        if self._others.are_waiting():
            self._not_before = time.monotonic() + random.uniform(0.002, 0.004)  # noqa: S311 (jitter)

    def _end(self, group: Group) -> None:
        self._group = None
        group.ended.set()


class Others:
    """Lets processes see that another one waits for the write lock, so that a busy one gives it a turn.

    A process in line shares a lock on a file beside the database; the kernel lets go of it should the process die.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._in_line = False

    def wait_in_line(self) -> None:
        """Show that this process waits."""
        self._in_line = self._in_line or self._lock(fcntl.LOCK_SH)

    def leave_line(self) -> None:
        """Show that it waits no longer."""
        if self._in_line:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._in_line = False

    def are_waiting(self) -> bool:
        """Tell whether another process waits."""
        if not self._lock(fcntl.LOCK_EX):
            return True
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _lock(self, how: int) -> bool:
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
