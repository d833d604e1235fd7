"""Tasks as the database sees them. Every function takes a connection first.

Statements are built once: building one costs more than running it.
"""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    exists,
    insert,
    select,
    update,
)

from api import db
from api.errors import Invalid
from api.statements import Row, Statement
from api.tables import task_tags, tasks, users
from api.tasks import search
from api.web import Listing

FILTERS: dict[str, ColumnElement[bool]] = {
    "status": tasks.c.status == bindparam("status"),
    "priority": tasks.c.priority == bindparam("priority"),
    "assignee_id": tasks.c.assignee_id == bindparam("assignee_id"),
    "tag": tasks.c.seq.in_(select(task_tags.c.task_seq).where(task_tags.c.tag == bindparam("tag"))),
    "due_before": tasks.c.due_at < bindparam("due_before"),
    "due_after": tasks.c.due_at > bindparam("due_after"),
    "q": search.matches(bindparam("q")),
}
TASKS = Listing(tasks, FILTERS)
GET = Statement(select(tasks).where(tasks.c.id == bindparam("task_id")))
CREATE = Statement(insert(tasks).returning(tasks))
REMOVE = Statement(delete(tasks).where(tasks.c.id == bindparam("task_id")))
TAG = Statement(insert(task_tags))
UNTAG = Statement(delete(task_tags).where(task_tags.c.task_seq == bindparam("seq")))
USER_EXISTS = Statement(select(exists().where(users.c.id == bindparam("user_id"))))


def find(conn: Connection, **query: Any) -> Any:
    """Return the part of the list that a query asks for: of the tasks that pass every filter, in its order."""
    if "q" in query:
        query["q"] = search.expression(query["q"])
    return TASKS.read(conn, **query)


def get(conn: Connection, task_id: str) -> Row | None:
    """Return the row of a task, or None."""
    return GET.first(conn, task_id=task_id)


def create(conn: Connection, author: str | None, values: Row) -> Row:
    """Add a task and return its row. Raises Invalid if there is no such assignee."""
    _check_assignee(conn, values)
    now = db.now()
    own = {"id": db.new_id(), "created_by": author, "created_at": now, "updated_at": now, "version": 1}
    task = CREATE.one(conn, **values, **own)
    _tag(conn, task, values["tags"])
    return task


def change(conn: Connection, task: Row, values: Row) -> Row:
    """Change fields of a task and return its new row. Raises Invalid if there is no such assignee."""
    _check_assignee(conn, values)
    if "tags" in values:
        UNTAG.run(conn, seq=task["seq"])
        _tag(conn, task, values["tags"])
    changed = {f"new_{name}": value for name, value in values.items()}
    return _change(frozenset(values)).one(conn, **changed, task_id=task["id"], now=db.now())


def remove(conn: Connection, task: Row) -> None:
    """Delete a task."""
    REMOVE.run(conn, task_id=task["id"])


@lru_cache(maxsize=512)
def _change(names: frozenset[str]) -> Statement:
    new: dict[str, Any] = {name: bindparam(f"new_{name}", type_=tasks.c[name].type) for name in sorted(names)}
    task = update(tasks).where(tasks.c.id == bindparam("task_id"))
    new |= {"updated_at": bindparam("now"), "version": tasks.c.version + 1}
    return Statement(task.values(new).returning(tasks))


def _tag(conn: Connection, task: Row, tags: list[str]) -> None:
    TAG.run_many(conn, ({"task_seq": task["seq"], "tag": tag} for tag in tags))


def _check_assignee(conn: Connection, values: Row) -> None:
    assignee = values.get("assignee_id")
    if assignee and not USER_EXISTS.value(conn, user_id=assignee):
        raise Invalid("There is no such assignee.", fields=[("/assignee_id", "Is no account's id.")])
