"""Moves what the write-ahead log holds into the database file, from one process of the host, off the request path.

PASSIVE when the log has grown: waits for nobody. TRUNCATE when it is large and nobody is in the way, which gives the
disk space back, and after a person was erased, whose bytes the log still holds until then. See
https://sqlite.org/wal.html#ckpt, docs/decisions/0003-group-commit.md and docs/decisions/0023-erasure.md.
"""

import logging
import threading
import time
from pathlib import Path

from sqlalchemy import Connection, Engine, bindparam, func, select
from sqlalchemy.exc import DBAPIError

from api import sqlite
from api.audit_trail import FORGOTTEN
from api.lease import Lease
from api.settings import Settings
from api.sqlite import MEGABYTE
from api.statements import Statement
from api.tables import audit_entries

EVERY_SECONDS = 1.0
LOG_BYTES = 4 * MEGABYTE  # 1,000 pages
TRUNCATE_BYTES = 64 * MEGABYTE
REWRITTEN_BYTES = 32 * MEGABYTE  # of a database that is written anew after an erasure: writers wait for that meanwhile
RESTS = 20  # times as long as it took
TURN_MILLISECONDS = 2000  # how long to wait for a turn to write: it holds up nobody
BUSY_MILLISECONDS = 25  # how long writers may be held up until the last reader has let go of the log

ERASED = Statement(
    select(func.coalesce(func.max(audit_entries.c.seq), 0)).where(
        audit_entries.c.action == bindparam("deed", FORGOTTEN)
    )
)

log = logging.getLogger(__name__)


class Remains:
    """What the database has let go of and the disk has not: bytes of people who were erased.

    What there is to do follows from the audit trail and from a file beside the database, which names the last erasure
    whose bytes are gone. So no crash can lose it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = path.with_name(path.name + "-wiped")
        self._rewritten = ""  # the last erasure that the database was written anew after
        self._rests_until = 0.0

    def gone(self, conn: Connection) -> bool:
        """See that they are gone. False: somebody is in the way, so it is to be tried again."""
        last = str(ERASED.value(conn))
        if last == (self._mark.read_text() if self._mark.exists() else "0"):
            return True
        if not checkpoint(conn, "PASSIVE"):  # a reader needs the log as it is: who tried more would hold up writers
            return False
        if self._rewritten != last:
            if time.monotonic() < self._rests_until:
                return False
            self._rewrite(conn)
            self._rewritten = last
        return self._note(last, conn)

    def wipe(self, conn: Connection) -> bool:
        """Write the database anew, whatever its size and whoever waits. False: a reader is in the way of the log."""
        last = str(ERASED.value(conn))
        rewrite(conn)
        return self._note(last, conn)

    def _rewrite(self, conn: Connection) -> None:
        """Write the database anew, if it is not large. Then it rests: who erases accounts in a row holds up nobody."""
        began = time.monotonic()
        if self._path.stat().st_size <= REWRITTEN_BYTES:
            rewrite(conn)
            self._rests_until = time.monotonic() + RESTS * (time.monotonic() - began)
        else:
            log.warning("bytes of who was erased may be left in unused parts of pages until `walnut db vacuum`")

    def _note(self, last: str, conn: Connection) -> bool:
        if emptied := checkpoint(conn, "TRUNCATE"):
            self._mark.write_text(last)
        return emptied


def rewrite(conn: Connection) -> None:
    """Write the database anew, without what secure_delete leaves.

    SQLite overwrites what it deletes, but not the copies that stay behind in the unused part of a page when it moves
    cells to another one (`rebuildPage` in btree.c): 2 of 60 databases of some hundred people had one.
    """
    conn.exec_driver_sql(f"PRAGMA busy_timeout={TURN_MILLISECONDS}")
    conn.exec_driver_sql("VACUUM")
    conn.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")


def checkpoint(conn: Connection, mode: str) -> bool:
    """Move the log into the file. Return whether all of it could be moved, and the log was emptied if TRUNCATE asks."""
    busy, pages, moved = conn.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()
    log.debug("checkpoint", extra={"mode": mode, "busy": busy, "wal_pages": pages, "moved_pages": moved})
    return not busy and pages == moved


def keep_short(settings: Settings, stop: threading.Event) -> None:
    """Checkpoint until `stop` is set. One process of a host does it; the others stand by, should that one die."""
    engine = engine_of(settings)
    path = path_of(engine)
    lease, remains, stopping = Lease(path.with_name(path.name + "-checkpointer")), Remains(path), False
    held: list[Connection] = []  # who closes a file's last connection locks everybody out meanwhile: once is enough
    try:
        while not stopping:
            stopping = stop.wait(EVERY_SECONDS)  # once more on the way out, when nobody else is there any more
            if lease.held():
                _checkpoint(engine, held, path.with_name(path.name + "-wal"), remains)
    finally:
        for conn in held:
            conn.close()
        lease.close()
        engine.dispose()


def tidied(settings: Settings, *, whole: bool = False) -> bool:
    """See at once that bytes of who was erased are gone, with no server that would. `whole`: whatever the size.

    False: a reader is in the way of the log. Raises Unavailable if there is no turn to write.
    """
    engine = engine_of(settings)
    try:
        with sqlite.naming_faults(), engine.connect() as conn:
            remains = Remains(path_of(engine))
            return remains.wipe(conn) if whole else remains.gone(conn)
    finally:
        engine.dispose()


def engine_of(settings: Settings) -> Engine:
    """Return an engine whose connections wait a moment for others, in C: no greenlet runs in their process."""
    return sqlite.engine(settings.database, f"busy_timeout={BUSY_MILLISECONDS}")


def path_of(engine: Engine) -> Path:
    """Return the database's file."""
    return Path(engine.url.database or "").absolute()


def _checkpoint(engine: Engine, held: list[Connection], wal: Path, remains: Remains) -> None:
    try:
        if not held:
            held.append(sqlite.open_connection(engine)[0])
        size = wal.stat().st_size if wal.exists() else 0
        if remains.gone(held[0]) and size >= LOG_BYTES:
            checkpoint(held[0], "TRUNCATE" if size > TRUNCATE_BYTES else "PASSIVE")
    except (DBAPIError, sqlite.driver.Error, OSError) as error:  # a full disk, say: the next try may find it mended
        level = logging.DEBUG if sqlite.fault_code(error) in sqlite.BUSY else logging.WARNING
        log.log(level, "checkpoint failed", extra={"reason": str(getattr(error, "orig", error))})
