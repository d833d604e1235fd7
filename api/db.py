"""One SQLite file: many readers, and one writer at a time whose commit answers everyone who joined it.

Read with `with reading() as conn:`, write with `with writing() as conn:`. Both hand out a SQLAlchemy connection, and
leave a fault of the disk or of the lock as `errors.Unavailable`. Nothing inside either block may wait for anything
but the database: under gevent that would hold the write lock while others run.
"""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from flask import Flask, current_app
from sqlalchemy import URL, Connection, make_url
from uuid_utils import uuid7

from api import sqlite
from api.group_commit import Change, Writer
from api.settings import Settings

READ_SECONDS = 2.0
WATCHED_STEPS = 100_000  # of SQLite's virtual machine, between two looks at the clock: some milliseconds


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its database. Opens nothing yet, so that it is safe before a fork."""
    app.extensions["database"] = Database(settings.database)


def database() -> "Database":
    """Return the database of the current app."""
    found: Database = current_app.extensions["database"]
    return found


def reading(*, snapshot: bool = True) -> "Reading":
    """Return a block that sees one snapshot of the database, cannot write, and never waits for a writer.

    Without `snapshot` each statement sees what is committed when it runs: cheaper, for a single one.
    """
    return Reading(database(), snapshot)


def writing() -> Change:
    """Return a block for a change: durable on disk when it is left, or undone whole if it raises.

    Raises Unavailable when the lock is not to be had within sqlite.BUSY_SECONDS, or the disk refuses.
    """
    return Change(database().writer())


def now() -> int:
    """Return the time in milliseconds since 1970. The one clock of everything that is stored."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """Return a new id: a UUIDv7, which sorts by the time it was made (RFC 9562, 5.7)."""
    return str(uuid7())


class Watch:
    """Ends what a reader asks when it takes READ_SECONDS: meanwhile nobody else of the process is served."""

    def __init__(self, driver: Any) -> None:
        self.until = 0.0
        driver.set_progress_handler(lambda: time.monotonic() > self.until, WATCHED_STEPS)


class Reader(NamedTuple):
    """A connection that cannot write, its driver's, and what bounds its time."""

    conn: Connection
    driver: Any
    watch: Watch


class Database:
    """The connections of one process to one file."""

    def __init__(self, url: URL | str) -> None:
        self.url = make_url(url)
        self.path = Path(self.url.database or "").absolute()
        self._readers = sqlite.engine(self.url, "query_only=ON")
        self._idle: list[Reader] = []
        self._writer: Writer | None = None
        self._first = threading.Lock()

    def reader(self) -> Reader:
        """Return an idle reader. Readers are kept: opening one costs more than most questions."""
        if self._idle:
            return self._idle.pop()
        conn, driver = sqlite.open_connection(self._readers)
        return Reader(conn, driver, Watch(driver))

    def keep(self, reader: Reader) -> None:
        """Take a reader back."""
        self._idle.append(reader)

    def writer(self) -> Writer:
        """Return the writer, opened the first time."""
        if self._writer is None:
            with self._first, sqlite.naming_faults():
                self._writer = self._writer or Writer(self.url, self.path)
        return self._writer

    def close(self) -> None:
        """Close every connection that nobody is using."""
        while self._idle:
            self._idle.pop().conn.close()
        if self._writer:
            self._writer.close()
        self._readers.dispose()


class Reading:
    """What `reading` gives. A class, because a generator would cost as much as the question asked in it."""

    __slots__ = ("_database", "_reader", "_snapshot")

    def __init__(self, database: Database, snapshot: bool) -> None:
        self._database = database
        self._snapshot = snapshot

    def __enter__(self) -> Connection:
        with sqlite.naming_faults():
            self._reader = self._database.reader()
            self._reader.watch.until = time.monotonic() + READ_SECONDS
            if self._snapshot:
                self._begin(self._reader.driver)
        return self._reader.conn

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._end()
        sqlite.raise_named(error)

    def _begin(self, driver: Any) -> None:
        """Take the snapshot. Another process may be mending the WAL after a crash, so busy is retried here too."""
        driver.execute("BEGIN")
        try:
            sqlite.patiently(lambda: driver.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone())
        except sqlite.driver.Error:
            self._end()
            raise

    def _end(self) -> None:
        if self._snapshot:
            self._reader.driver.rollback()
        self._database.keep(self._reader)
