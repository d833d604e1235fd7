"""Walks along the audit trail and finds the first entry that is not as it was written.

In batches, each in a snapshot of its own: entries are only ever added, so what was in order stays so, and nobody holds
up the write-ahead log meanwhile. docs/decisions/0011-audit.md says what is found, and what cannot be.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from api import audit_trail, db, sqlite
from api.audit_trail import FORGOTTEN, GENESIS
from api.statements import Row, Statement
from api.tables import audit_entries

BATCH = 500
CHANGED = "It was changed or put in, or stands in another's place."
NOWHERE = -(2**63)  # before any number that somebody could have given an entry

AFTER = Statement(
    select(audit_entries)
    .where(audit_entries.c.seq > bindparam("after"))
    .order_by(audit_entries.c.seq)
    .limit(bindparam("batch"))
)
HASH = Statement(select(audit_entries.c.hash).where(audit_entries.c.seq == bindparam("number")))
ERASURE = Statement(
    select(audit_entries.c.seq).where(
        audit_entries.c.subject_id == bindparam("person"),
        audit_entries.c.action == FORGOTTEN,
        audit_entries.c.seq >= bindparam("number"),
    )
)


class Link(NamedTuple):
    """An entry by its number and its hash: as far as a check has come, or what somebody noted earlier."""

    seq: int
    hash: bytes


class Tampered(Exception):
    """The first thing that is not as it was written."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"Entry {seq}: {reason}")
        self.seq = seq
        self.reason = reason


def verify(after: int = 0, *, seconds: float | None = None, noted: Link | None = None) -> Row:
    """Check the entries from `after` on, for so many seconds at most, and return a verdict as VerdictOut has it.

    `noted` is an entry that somebody wrote down: the only way to find out that a whole end was put back to what it was
    before, with the signature it had then.
    """
    deadline = time.monotonic() + seconds if seconds else None
    walk, tampered, complete = Walk(after, noted), None, False
    try:
        walk.start()
        while not (complete := walk.batch()) and (deadline is None or time.monotonic() < deadline):
            time.sleep(0)  # others have their turn
    except Tampered as error:
        tampered, complete = {"seq": error.seq, "reason": error.reason}, True
    return {
        "intact": tampered is None,
        "complete": complete,
        "checked_to": walk.reached.seq,
        "head": walk.reached.hash.hex(),
        "tampered": tampered,
    }


class Walk:
    """A check under way: how far it has come. Every method raises Tampered."""

    def __init__(self, after: int, noted: Link | None) -> None:
        self.reached = Link(after, GENESIS)
        self._noted = noted
        self._size = BATCH

    def start(self) -> None:
        """Find the entry to go on from."""
        if self.reached.seq:
            with db.reading() as conn:
                found = HASH.first(conn, number=self.reached.seq)
            if found is None:
                raise Tampered(self.reached.seq, "It was removed, or there have never been so many.")
            self.reached = Link(self.reached.seq, found["hash"])

    def batch(self) -> bool:
        """Check the next entries, and the end if they are the last. Return whether that was all."""
        with db.reading() as conn:
            rows = self._read(conn)
            for row in rows:
                with _other_types_are_tampering(row["seq"], CHANGED):
                    self._check(conn, row)
                self.reached = Link(row["seq"], row["hash"])
            if complete := len(rows) < self._size:
                with _other_types_are_tampering(self.reached.seq, audit_trail.UNKNOWN_END):
                    self._check_end(conn)
        return complete

    def _read(self, conn: Connection) -> list[Row]:
        """Return the next entries: one by one after some that cannot be read, to name the first of those."""
        try:
            return AFTER.all(conn, after=self.reached.seq or NOWHERE, batch=self._size)
        except (sqlite.driver.Error, TypeError) as error:
            if isinstance(error, sqlite.driver.Error) and sqlite.named(error) is not error:
                raise  # the disk's fault, or the lock's
        if self._size == 1:
            raise Tampered(self.reached.seq + 1, "It cannot be read.")
        self._size = 1
        return self._read(conn)

    def _check(self, conn: Connection, row: Row) -> None:
        seq, expected = row["seq"], self.reached.seq + 1
        if seq > expected:
            raise Tampered(expected, "It was removed.")
        if seq < expected or audit_trail.chained(self.reached.hash, row) != row["hash"]:
            raise Tampered(seq, CHANGED)
        if self._noted and self._noted.seq == seq and self._noted.hash != row["hash"]:
            raise Tampered(seq, "It is not the entry that was noted.")
        _check_part(conn, row, "address", row["actor_id"])
        _check_part(conn, row, "change", audit_trail.whose(row))

    def _check_end(self, conn: Connection) -> None:
        """Hold the last entry against the end that was signed."""
        seq, head = self.reached.seq, audit_trail.HEAD.first(conn)
        if head is None:
            raise Tampered(seq, "What was signed as the end is gone.")
        if seq < head["seq"]:
            raise Tampered(seq + 1, "It was removed, with all that came after it.")
        if seq > head["seq"]:
            raise Tampered(head["seq"] + 1, "It was put in after the end.")
        if self.reached.hash != head["hash"] or not audit_trail.is_genuine(head):
            raise Tampered(seq, audit_trail.UNKNOWN_END)
        if self._noted and self._noted.seq > seq:
            raise Tampered(seq + 1, "It was removed: an entry after it had been noted.")


@contextmanager
def _other_types_are_tampering(seq: int, reason: str) -> Iterator[None]:
    """Raise Tampered where a value has another type than was ever written: SQLite keeps any in any column."""
    try:
        yield
    except (TypeError, AttributeError):
        raise Tampered(seq, reason) from None


def _check_part(conn: Connection, row: Row, name: str, person: str | None) -> None:
    """Check a part that may be blank, if the person it is about was erased."""
    text, salt = row[name], row[f"{name}_salt"]
    if salt is None and text is None:
        if person is None or ERASURE.first(conn, person=person, number=row["seq"]) is None:
            raise Tampered(row["seq"], f"Its {name} was blanked, and nobody was erased.")
    elif salt is None or audit_trail.digest(salt, text) != row[f"{name}_digest"]:
        raise Tampered(row["seq"], f"Its {name} was changed.")
