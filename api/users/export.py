"""All that is kept about a person as one JSON document, written while it is read: a part at a time.

Each part is read in a snapshot of its own, and sent before the next one is read. So neither the write-ahead log nor
anybody else waits for a slow client, and it takes no more memory for somebody who has much.
"""

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
from api.web import rfc3339

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

    def pieces(self, person: str) -> Iterator[bytes]:
        """Yield the list as JSON, piece by piece."""
        last: Row | None = None
        while True:
            with db.reading() as conn:
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
    """Return a job with its timeline, and the key that its owner gave it without what it was put behind."""
    key = row["dedup_key"].split("/", 2)[-1] if row["dedup_key"] and row["kind"] == VENDOR else None
    return jobs_of.show(conn, row) | {"deduplication_key": key}


def entry(_conn: Connection, row: Row) -> Row:
    """Return an entry of the audit trail."""
    return trail.entry(row)


def entry_of_another(_conn: Connection, row: Row) -> Row:
    """Return an entry that somebody else made: where that one was is his own business."""
    return trail.entry(row) | {"address": None}


OWN_TASKS = (tasks, ("seq",), TaskOut())
PARTS = {
    "sessions": Part(sessions, ("id",), SessionExport(), sessions.c.user_id == PERSON),
    "api_keys": Part(api_keys, ("created_at", "id"), KeyExport(), api_keys.c.user_id == PERSON),
    "tasks_created": Part(*OWN_TASKS, tasks.c.created_by == PERSON),
    "tasks_assigned": Part(tasks, ("created_at", "id"), TaskOut(), tasks.c.assignee_id == PERSON, ANOTHER),
    "jobs": Part(jobs, ("seq",), JobExport(), jobs.c.owner_id == PERSON, shape=job, most=LARGE_PART),
    "deeds": Part(audit_entries, ("seq",), EntryOut(), audit_entries.c.actor_id == PERSON, shape=entry),
    "changes": Part(
        audit_entries, ("seq",), EntryOut(), audit_entries.c.subject_id == PERSON, BY_ANOTHER, shape=entry_of_another
    ),
}  # fmt: skip


def answer(person: str) -> Response:
    """Return the document as an answer to be downloaded. Raises TooManyRequests if one is under way already."""
    busy: set[str] = current_app.extensions.setdefault("exports", set())
    if person in busy:
        raise TooManyRequests("You are downloading this already. Let that end first.", policy="exports", retry_after=5)
    busy.add(person)
    headers = {"Content-Disposition": 'attachment; filename="walnut-export.json"', "Cache-Control": "no-store"}
    response = Response(stream_with_context(document(person)), headers=headers, content_type="application/json")
    response.call_on_close(partial(busy.discard, person))
    return response


def document(person: str) -> Iterator[bytes]:
    """Yield the document piece by piece."""
    with db.reading() as conn:
        account = accounts.get(conn, person)
    yield b'{"exported_at":%b,"account":%b' % (
        orjson.dumps(rfc3339(db.now())),
        orjson.dumps(UserOut().dump(account) if account else {}),
    )
    for name, part in PARTS.items():
        yield b',"%b":[' % name.encode()
        yield from part.pieces(person)
        yield b"]"
    yield b"}"
