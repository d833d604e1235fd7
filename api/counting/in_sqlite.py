"""Counts in a SQLite file of their own, for every process of this host. Never in the main database.

Nothing here is worth a wait for the disk (`synchronous=OFF`): a power cut may cost the counts of some minutes, or
damage the file, which is then made anew. A wait for another process stops no other greenlet.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from api import sqlite
from api.counting.in_memory import microseconds, worse
from api.rates import Count, Limit, Verdict

PATIENCE_SECONDS = 1.0
REST_SECONDS = 1.0  # after a fault, before the file is tried again
LOOK_SECONDS = 1.0  # how often to look whether the file is still the one that was opened
SWEEP_EVERY, SWEEP = 100, 200  # takes between two sweeps, and the counts that one looks at: twice as many as came new
DAMAGED = {11, 26}  # SQLITE_CORRUPT, SQLITE_NOTADB

PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=OFF",
    "wal_autocheckpoint=100",  # pages: half a megabyte of disk at most, and a checkpoint without fsync is cheap
    "mmap_size=0",
    "trusted_schema=OFF",
    "cell_size_check=ON",
)
TABLE = """CREATE TABLE IF NOT EXISTS counts (
    key TEXT PRIMARY KEY, level INTEGER NOT NULL, at INTEGER NOT NULL, ends INTEGER NOT NULL
) WITHOUT ROWID"""
FIND = "SELECT level, at FROM counts WHERE key = ?"
KEEP = "REPLACE INTO counts VALUES (?, ?, ?, ?)"
STRETCH = "SELECT max(key) FROM (SELECT key FROM counts WHERE key > ? ORDER BY key LIMIT ?)"
SWEPT = "DELETE FROM counts WHERE key > ? AND key <= ? AND ends <= ?"

log = logging.getLogger(__name__)


class InSQLite:
    """Counts in a file that several processes may share. Answers None while the file is of no use."""

    def __init__(self, path: Path, clock: Callable[[], int] = microseconds) -> None:
        """Open nothing yet, so that it is safe before a fork."""
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._driver: Any = None
        self._inode = 0
        self._look_at = self._rests_until = 0.0  # by time.monotonic()
        self._takes, self._hand = 0, ""

    def take(
        self, key: str, limit: Limit, cost: int = 1, *, keep: bool = True, seen: Count | None = None
    ) -> Verdict | None:
        """Count a request and return the verdict. Without `keep` it is only asked.

        `seen` is the count that was seen elsewhere; the worse one is gone on from.
        """

        def counted(driver: Any) -> Verdict:
            now = self._clock()  # under the lock, so that no two processes disagree about who came first
            found = driver.execute(FIND, (key,)).fetchone()
            kept = limit.sane(*found) if found else Count()
            taken = limit.take(worse(limit, kept, seen, now) if seen else kept, now, cost)
            if keep and taken.allowed:
                driver.execute(KEEP, (key, *taken.after, now + limit.lasts(taken.after, now)))
            return limit.verdict(taken, now, cost)

        verdict: Verdict | None = self._ask(counted)
        return verdict

    def clear(self, key: str) -> None:
        """Forget one caller."""
        self._ask(lambda driver: driver.execute("DELETE FROM counts WHERE key = ?", (key,)))

    def reset(self) -> None:
        """Forget everybody."""
        self._ask(lambda driver: driver.execute("DELETE FROM counts"))

    def alive(self) -> bool:
        """Tell whether it can count."""
        return self._ask(lambda _: True) is not None

    def close(self) -> None:
        """Close the connection. The next take opens another."""
        if self._driver:
            self._driver.close()
        self._driver = None

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        """Return the answer of a question asked in a transaction, or None if the file has a fault."""
        if time.monotonic() < self._rests_until:
            return None
        try:
            return sqlite.patiently(lambda: self._transaction(question), time.monotonic() + PATIENCE_SECONDS)
        except (sqlite.driver.Error, OSError) as error:
            self._faulty(error)
            return None

    def _transaction(self, question: Callable[[Any], Any]) -> Any:
        with self._lock:
            driver = self._opened()
            driver.execute("BEGIN IMMEDIATE")
            try:
                answer = question(driver)
                self._sweep(driver)
                driver.execute("COMMIT")
            except BaseException:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
                raise
        return answer

    def _opened(self) -> Any:
        """Return the connection, to the file that is at the path now."""
        if time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            if self._driver and self._inode != _inode(self._path):
                self.close()
        if self._driver is None:
            self._driver = self._connect()
        return self._driver

    def _connect(self) -> Any:
        with suppress(FileExistsError):  # never opened but by SQLite: to close it would void SQLite's locks
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._inode = _inode(self._path)
        driver = sqlite.driver.connect(
            f"file:{quote(str(self._path))}", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in PRAGMAS:
                driver.execute(f"PRAGMA {pragma}")
            driver.execute(TABLE)
        except BaseException:
            driver.close()
            raise
        return driver

    def _sweep(self, driver: Any) -> None:
        """Now and then forget the counts that have run out, in the next stretch of keys."""
        self._takes += 1
        if self._takes % SWEEP_EVERY:
            return
        (end,) = driver.execute(STRETCH, (self._hand, SWEEP)).fetchone()
        if end:
            driver.execute(SWEPT, (self._hand, end, self._clock()))
        self._hand = end or ""

    def _faulty(self, error: Exception) -> None:
        """Let the file rest for a while. A damaged one is removed, unless another process has done that already."""
        self._rests_until = time.monotonic() + REST_SECONDS
        log.warning("the file of limits has a fault", extra={"reason": str(error), "path": str(self._path)})
        with self._lock:
            self.close()
            if sqlite.fault_code(error) in DAMAGED and self._inode == _inode(self._path):
                for end in ("", "-wal", "-shm"):
                    with suppress(OSError):
                        os.unlink(f"{self._path}{end}")
                self._rests_until = 0.0


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
