"""All that is kept about a person as one JSON document, written while it is read: a part at a time.

Each part is read in a snapshot of its own, and sent before the next one is read. So neither the write-ahead log nor
anybody else waits for a slow client, and it takes no more memory for somebody who has much. It goes on only while the
session lives that asked for it: whoever ends that, ends this.
"""

import errno
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson
from flask import Response, current_app, stream_with_context
from marshmallow import Schema
from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, or_, select, tuple_

from api import db
from api.audit import queries as trail
from api.audit.schemas import EntryOut
from api.auth import accounts
from api.auth.schemas import UserOut
from api.errors import TooManyRequests
from api.jobs import queries as jobs_of
from api.jobs.kinds import VENDOR
from api.statements import Row, Statement
from api.tables import api_keys, audit_entries, jobs, sessions, tasks
from api.tasks.schemas import TaskOut
from api.users.schemas import JobExport, KeyExport, SessionExport
from api.web import IN_PERSON, caller, rfc3339, rights_of

PART = 100  # rows that are read at once
LARGE_PART = 5  # of jobs: each may have a megabyte of payload, and one of result
PERSON: Any = bindparam("person")

Shape = Callable[[Connection, Row], Row]
ANOTHER = or_(tasks.c.created_by != PERSON, tasks.c.created_by.is_(None))
BY_ANOTHER = or_(audit_entries.c.actor_id != PERSON, audit_entries.c.actor_id.is_(None))


class Part:
    """One list of the document: which rows of a table, in an order that an index has, and how each is shown."""

    def __init__(
        self, table: Table, order: tuple[str, ...], schema: Schema, *of: ColumnElement[bool],
        shape: Shape | None = None, most: int = PART,
    ) -> None:  # fmt: skip
        columns = [table.c[name] for name in order]
        last = [bindparam(f"last_{name}", type_=table.c[name].type) for name in order]
        found: Select[Any] = select(table).where(*of).order_by(*columns).limit(bindparam("most"))
        self._first, self._next = Statement(found), Statement(found.where(tuple_(*columns) > tuple_(*last)))
        self._order, self._most = order, most
        self._dump, self._shape = schema.dump, shape

    def pieces(self, person: str, session: str) -> Iterator[bytes]:
        """Yield the list as JSON, piece by piece. Raises ConnectionResetError once the session has ended."""
        last: Row | None = None
        while True:
            with db.reading() as conn:
                break_off_without(conn, session)
                rows = self._after(conn, person, last)
                shown = [self._dump(self._shape(conn, row) if self._shape else row) for row in rows]
            yield b"," * bool(last and shown) + orjson.dumps(shown)[1:-1]
            if len(rows) < self._most:
                return
            last = rows[-1]
            time.sleep(0)  # others are served

    def _after(self, conn: Connection, person: str, last: Row | None) -> list[Row]:
        if last is None:
            return self._first.all(conn, person=person, most=self._most)
        given = {f"last_{name}": last[name] for name in self._order}
        return self._next.all(conn, person=person, most=self._most, **given)


def job(conn: Connection, row: Row) -> Row:
    """Return a job with its timeline, and the key that its owner gave it without what it was put behind.

    What came of another one than a vendor's names files and servers of ours: how it ended says its status.
    """
    shown = jobs_of.show(conn, row)
    if row["kind"] != VENDOR:
        timeline = [event | {"detail": None} for event in shown["timeline"]]
        return shown | {"deduplication_key": None, "result": None, "error": None, "timeline": timeline}
    key = row["dedup_key"].split("/", 2)[-1] if row["dedup_key"] else None
    return shown | {"deduplication_key": key}


def deed(_conn: Connection, row: Row) -> Row:
    """Return an entry of what one did. What an account of somebody else was called is that one's own business."""
    about_another = row["action"].startswith("user.") and row["subject_id"] != row["actor_id"]
    return trail.entry(row) | ({"before": None, "after": None} if about_another else {})


def deed_of_another(_conn: Connection, row: Row) -> Row:
    """Return an entry that somebody else made: where that one was is his own business."""
    shown = trail.entry(row) | {"address": None}
    if shown["after"]:
        shown["after"].pop("requested_from", None)  # credentials/requests.py: by whom, is not known
    return shown


OWN_TASKS = (tasks, ("seq",), TaskOut())
PARTS = {
    "sessions": Part(sessions, ("id",), SessionExport(), sessions.c.user_id == PERSON),
    "api_keys": Part(api_keys, ("created_at", "id"), KeyExport(), api_keys.c.user_id == PERSON),
    "tasks_created": Part(*OWN_TASKS, tasks.c.created_by == PERSON),
    "tasks_assigned": Part(tasks, ("created_at", "id"), TaskOut(), tasks.c.assignee_id == PERSON, ANOTHER),
    "jobs": Part(jobs, ("seq",), JobExport(), jobs.c.owner_id == PERSON, shape=job, most=LARGE_PART),
    "deeds": Part(audit_entries, ("seq",), EntryOut(), audit_entries.c.actor_id == PERSON, shape=deed),
    "changes": Part(
        audit_entries, ("seq",), EntryOut(), audit_entries.c.subject_id == PERSON, BY_ANOTHER, shape=deed_of_another
    ),
}  # fmt: skip


def answer() -> Response:
    """Return the document as an answer to be downloaded. Raises TooManyRequests if one is under way already."""
    person, session = caller()["id"], caller()["session_id"]
    busy: set[str] = current_app.extensions.setdefault("exports", set())
    if person in busy:
        raise TooManyRequests("You are downloading this already. Let that end first.", policy="exports", retry_after=5)
    busy.add(person)
    headers = {"Content-Disposition": 'attachment; filename="walnut-export.json"', "Cache-Control": "no-store"}
    response = Response(
        stream_with_context(document(person, session)), headers=headers, content_type="application/json"
    )
    response.call_on_close(partial(busy.discard, person))
    return response


def break_off_without(conn: Connection, session: str) -> None:
    """Break the answer off once its session has ended: it has begun, so it can no longer be refused.

    Raises ConnectionResetError, at which Gunicorn hangs up: the client sees that this is not all.
    """
    if IN_PERSON not in rights_of(conn, [session], strict=False).get(session, ()):
        raise ConnectionResetError(errno.ECONNRESET, "the session has ended")


def document(person: str, session: str) -> Iterator[bytes]:
    """Yield the document piece by piece. Raises ConnectionResetError once the session has ended."""
    with db.reading() as conn:
        account = accounts.get(conn, person)
    yield b'{"exported_at":%b,"account":%b' % (
        orjson.dumps(rfc3339(db.now())),
        orjson.dumps(UserOut().dump(account) if account else {}),
    )
    for name, part in PARTS.items():
        yield b',"%b":[' % name.encode()
        yield from part.pieces(person, session)
        yield b"]"
    yield b"}"
