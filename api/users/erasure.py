"""Erases a person: in one commit, from every table. docs/decisions/0023-erasure.md says what that leaves, and why.

After the commit the files of their mails go, at the latest with the next sweep (api/housekeeping.py), and the bytes
that the database has let go of (api/checkpoints.py). Both look at what is there, so that no crash can lose them.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import Connection, bindparam, case, delete, func, null, or_, select, update

from api import audit_trail, db
from api.auth import accounts
from api.errors import Unavailable
from api.group_commit import after_commit
from api.jobs import mail, outbox, queue
from api.statements import Row, Statement
from api.tables import Bytes, audit_entries, idempotency_keys, tasks

AT_ONCE = 100  # mails whose files go right after the commit, while others wait for their turn; the sweep has the rest

PERSON: Any = bindparam("person")
LET_GO = Statement(  # another version, so that neither an ETag nor a kept answer that names the person is good any more
    update(tasks)
    .where(or_(tasks.c.created_by == PERSON, tasks.c.assignee_id == PERSON))
    .values(
        created_by=case((tasks.c.created_by == PERSON, null()), else_=tasks.c.created_by),
        assignee_id=case((tasks.c.assignee_id == PERSON, null()), else_=tasks.c.assignee_id),
        updated_at=bindparam("now"),
        version=tasks.c.version + 1,
    )
)
# What an admin was answered who made the account, and may ask for again: it shows name and address.
MAKERS = select(audit_entries.c.actor_id).where(
    audit_entries.c.subject_id == PERSON, audit_entries.c.action == bindparam("made", "user.created")
)
FORGET_ANSWERS = Statement(
    delete(idempotency_keys).where(
        idempotency_keys.c.user_id.in_(MAKERS),
        func.instr(idempotency_keys.c.body, bindparam("person_bytes", type_=Bytes())) > 0,
    )
)
ERASED = Statement(
    select(audit_entries.c.subject_id, audit_entries.c.at)
    .where(audit_entries.c.action == bindparam("deed", audit_trail.FORGOTTEN))
    .order_by(audit_entries.c.seq)
)


def erase(conn: Connection, user: Row) -> None:
    """Take a person out of every table. Whoever calls adds the entry `user.erased`, in the same transaction.

    Raises Conflict if nobody would be left who may look after the others.
    """
    accounts.refuse_last_admin(conn, user)
    person = user["id"]
    LET_GO.run(conn, person=person, now=db.now())
    mails = queue.remove_of(conn, person, mail.KIND)
    FORGET_ANSWERS.run(conn, person=person, person_bytes=person.encode())
    audit_trail.forget(conn, person)
    accounts.remove(conn, user)  # sessions, tokens, keys, codes and links go with it: ON DELETE CASCADE
    settings = current_app.extensions["settings"]
    after_commit(conn, partial(_remove_files, db.database(), settings.instance_path, mails[:AT_ONCE]))


def all_erased(conn: Connection) -> list[Row]:
    """Return who was ever erased here, and when: rows of subject_id and at, the oldest first."""
    return ERASED.all(conn)


def _remove_files(database: db.Database, instance: Path, mails: list[str]) -> None:
    """Remove the files of mails whose jobs are gone: called too if this was undone and others were not."""
    with suppress(Unavailable, OSError), db.Reading(database, snapshot=False) as conn:
        outbox.remove(instance, set(mails) - queue.there(conn, mails))
