"""The writers of a process share a commit: durable is slow one by one, and fast together.

The first writer begins the transaction and leads: it lets those who are ready join, each under a savepoint, then
commits for all. Everyone is answered after that commit. A statement that fails undoes its own savepoint only; a commit
that fails, fails everyone in the group. See docs/decisions/0003-group-commit.md.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import URL, Connection

from api import failpoints, metrics, sqlite
from api.errors import Unavailable
from api.waiting_line import Others

# The checkpointer (api/checkpoints.py) keeps the WAL short. This is the safety net should it be away: 16 MB in pages.
SAFETY_NET = "wal_autocheckpoint=4096"
GONE = "The database file is not there any more. Stop the server, restore a backup, and start it again."
QUANTUM_SECONDS = 0.01  # how long a busy process may go on while another waits: less halves what both get done


class Group:
    """The writers that share one commit."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.changes = 0  # that are to be kept
        self.after: dict[Callable[[], None], None] = {}  # what to do once it is durable; each once, in this order


def after_commit(conn: Connection, action: Callable[[], None]) -> None:
    """Let `action` be called when the transaction open on `conn` is durable: once, however many ask for the same.

    It is a hint to others, and may neither raise nor wait. It is called too when only others in the group succeeded.
    """
    writer: Writer = conn.info["writer"]
    writer.after_commit(action)


class Change:
    """What `db.writing` gives: a savepoint in the open transaction of this process. Left when the disk has it.

    A class, because a generator would cost as much as some of the statements run in it.
    """

    __slots__ = ("_group", "_leads", "_writer")

    def __init__(self, writer: "Writer") -> None:
        self._writer = writer

    def __enter__(self) -> Connection:
        with sqlite.naming_faults():
            self._group, self._leads = self._writer.join()
        return self._writer.conn

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            self._writer.leave(self._group, error, leads=self._leads)
        except sqlite.driver.Error as fault:
            sqlite.raise_named(fault)
            raise
        sqlite.raise_named(error)


class Writer:
    """The one writing connection of a process, and the group whose transaction is open on it."""

    def __init__(self, url: URL, path: Path) -> None:
        self._engine = sqlite.engine(url, SAFETY_NET if sqlite.is_safe() else "wal_autocheckpoint=0")
        self.conn, self._driver = sqlite.open_connection(self._engine)
        self.conn.info["writer"] = self
        self._path = path
        found = os.stat(path)
        self._identity = (found.st_dev, found.st_ino)
        self._turn = threading.Lock()  # one writer inside at a time; gevent makes it a greenlet's lock
        self._group: Group | None = None
        self._others = Others(path.with_name(path.name + "-writers"))
        self._since = 0.0  # when this process last gave others a turn, by time.monotonic()
        self._not_before = 0.0  # and until when

    def join(self) -> tuple[Group, bool]:
        """Take the turn and join the open group, or begin one. Return it, and whether to lead it.

        Raises Unavailable if the turn or the lock is not to be had within BUSY_SECONDS.
        """
        asked = time.monotonic()
        deadline = asked + sqlite.BUSY_SECONDS
        has_turn = self._turn.acquire(timeout=sqlite.BUSY_SECONDS)
        metrics.TURN_WAIT.observe(time.monotonic() - asked)
        if not has_turn:
            raise Unavailable(sqlite.FAULTS[5])
        leads = self._group is None
        try:
            group = self._group or self._begin(deadline)
            self._driver.execute("SAVEPOINT request")
        except BaseException as error:
            if self._group:
                self._fail(self._group, error)
            self._turn.release()
            raise
        return group, leads

    def leave(self, group: Group, error: BaseException | None, *, leads: bool) -> None:
        """Keep or undo what was done since `join`, give the turn away, and wait for the commit of what is kept."""
        try:
            if error is None:
                self._driver.execute("RELEASE request")
                group.changes += 1
            else:
                self._undo(group, error)
        except BaseException as fault:
            self._fail(group, fault)
            raise
        finally:
            self._turn.release()
            if leads:
                self._lead(group)
        if error is None:
            group.ended.wait()
            if group.error:
                raise group.error

    def after_commit(self, action: Callable[[], None]) -> None:
        """As `after_commit` below."""
        if self._group is None:
            raise LookupError("there is no transaction that could be committed")
        self._group.after[action] = None

    def close(self) -> None:
        """Close the connection."""
        self.conn.close()
        self._engine.dispose()
        self._others.close()

    def _begin(self, deadline: float) -> Group:
        """Take the write lock, giving way to the other greenlets while another process has it."""
        asked = time.monotonic()
        if (rest := self._not_before - asked) > 0:
            time.sleep(rest)
        try:
            sqlite.patiently(self._take_lock, deadline, self._others.wait_in_line)
        finally:
            self._others.leave_line()
            metrics.BEGIN_WAIT.observe(time.monotonic() - asked)
        self._group = Group()
        return self._group

    def in_place(self) -> bool:
        """Tell whether the file is still the one that was opened: what is written to one that was removed, is lost."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _take_lock(self) -> None:
        if not self.in_place():
            raise Unavailable(GONE)
        self._driver.rollback()  # what a failing disk may have left open
        self._driver.execute("BEGIN IMMEDIATE")

    def _undo(self, group: Group, error: BaseException) -> None:
        if self._driver.in_transaction:
            self._driver.execute("ROLLBACK TO request")
            self._driver.execute("RELEASE request")
        else:  # a full or failing disk makes SQLite undo the whole transaction, and everybody's change with it
            self._fail(group, error)

    def _lead(self, group: Group) -> None:
        """Let those who are ready join, then commit for all of them."""
        interruption = None
        try:
            time.sleep(0)
            self._turn.acquire()
        except BaseException as error:  # noqa: BLE001 (a time-out, or the end of this greenlet: others still wait)
            interruption = error
            self._turn.acquire()
        try:
            if group is self._group:
                self._commit(group)
        finally:
            self._turn.release()
        if interruption:
            raise interruption

    def _commit(self, group: Group) -> None:
        try:
            failpoints.reach("commit.before")
            with metrics.COMMIT_SECONDS.time():
                self._driver.execute("COMMIT")
            failpoints.reach("commit.after")
        except sqlite.driver.Error as error:
            self._fail(group, error)
        else:
            metrics.COMMIT_CHANGES.observe(group.changes)
            self._end(group)
            for action in group.after if group.changes else ():
                action()
        now = time.monotonic()
        if now - self._since > QUANTUM_SECONDS and self._others.are_waiting():
            self._since = self._not_before = now + random.uniform(0.002, 0.004)  # noqa: S311 (jitter)

    def _fail(self, group: Group, error: BaseException) -> None:
        """Undo everything, and tell everyone in the group."""
        metrics.COMMIT_FAILURES.inc()
        group.error = sqlite.named(error) if isinstance(error, Exception) else Unavailable(sqlite.FAULTS[10])
        self._end(group)
        with suppress(sqlite.driver.Error):  # a disk that refuses this too: `_take_lock` tries again
            self._driver.rollback()

    def _end(self, group: Group) -> None:
        self._group = None
        group.ended.set()
