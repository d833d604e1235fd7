"""Tasks as the database sees them. Every function takes a connection first.

Statements are built once: building one costs more than running it. A list's statement is built once for each set of
filters and kept.
"""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from api import db
from api.errors import Invalid
from api.tables import task_tags, tasks, users
from api.tasks import search
from api.web import Page

FILTERS: dict[str, ColumnElement[bool]] = {
    "status": tasks.c.status == bindparam("status"),
    "priority": tasks.c.priority == bindparam("priority"),
    "assignee_id": tasks.c.assignee_id == bindparam("assignee_id"),
    "tag": tasks.c.seq.in_(select(task_tags.c.task_seq).where(task_tags.c.tag == bindparam("tag"))),
    "due_before": tasks.c.due_at < bindparam("due_before"),
    "due_after": tasks.c.due_at > bindparam("due_after"),
    "q": search.matches(bindparam("q")),
}
GET = select(tasks).where(tasks.c.id == bindparam("task_id"))
CREATE = insert(tasks).returning(tasks)
REMOVE = delete(tasks).where(tasks.c.id == bindparam("task_id"))
TAG = insert(task_tags)
UNTAG = delete(task_tags).where(task_tags.c.task_seq == bindparam("seq"))
USER_EXISTS = select(exists().where(users.c.id == bindparam("user_id")))


def page(conn: Connection, *, page: int, limit: int, sort: str, **filters: Any) -> Page:
    """Return one page of the tasks that pass every filter."""
    if "q" in filters:
        filters["q"] = search.expression(filters["q"])
    found, count = _list(frozenset(filters), sort)
    rows = conn.execute(found, {**filters, "limit": limit, "offset": (page - 1) * limit}).mappings().all()
    return Page(rows, page, limit, conn.execute(count, filters).scalar_one())


def get(conn: Connection, task_id: str) -> Any:
    """Return the row of a task, or None."""
    return conn.execute(GET, {"task_id": task_id}).mappings().one_or_none()


def create(conn: Connection, author: str | None, values: dict[str, Any]) -> Any:
    """Add a task and return its row. Raises Invalid if there is no such assignee."""
    _check_assignee(conn, values)
    now = db.now()
    own = {"id": db.new_id(), "created_by": author, "created_at": now, "updated_at": now, "version": 1}
    task = conn.execute(CREATE, values | own).mappings().one()
    _tag(conn, task["seq"], values["tags"])
    return task


def change(conn: Connection, task: Any, values: dict[str, Any]) -> Any:
    """Change fields of a task and return its new row. Raises Invalid if there is no such assignee."""
    _check_assignee(conn, values)
    if "tags" in values:
        conn.execute(UNTAG, {"seq": task["seq"]})
        _tag(conn, task["seq"], values["tags"])
    changed = {f"new_{name}": value for name, value in values.items()}
    statement = _change(frozenset(values))
    return conn.execute(statement, changed | {"task_id": task["id"], "now": db.now()}).mappings().one()


def remove(conn: Connection, task: Any) -> None:
    """Delete a task."""
    conn.execute(REMOVE, {"task_id": task["id"]})


@lru_cache(maxsize=512)
def _list(filters: frozenset[str], sort: str) -> tuple[Select[Any], Select[Any]]:
    """Return the statements that find a page of a list, and count the list."""
    wanted = [FILTERS[name] for name in sorted(filters)]
    found = select(tasks).where(*wanted).order_by(*_order(sort)).limit(bindparam("limit")).offset(bindparam("offset"))
    return found, select(func.count()).select_from(tasks).where(*wanted)


def _order(sort: str) -> list[ColumnElement[Any]]:
    """Return the order of a list, in which no two tasks are equal and those without the value come last."""
    column = tasks.c[sort.removeprefix("-")]
    if sort.startswith("-"):
        return [column.desc(), tasks.c.id.desc()]
    empty_last: list[ColumnElement[Any]] = [column.is_(None)] if column.nullable else []
    return [*empty_last, column, tasks.c.id]


@lru_cache(maxsize=512)
def _change(names: frozenset[str]) -> ReturningUpdate[Any]:
    new = {name: bindparam(f"new_{name}", type_=tasks.c[name].type) for name in sorted(names)}
    task = update(tasks).where(tasks.c.id == bindparam("task_id"))
    return task.values(new | {"updated_at": bindparam("now"), "version": tasks.c.version + 1}).returning(tasks)


def _tag(conn: Connection, seq: int, tags: list[str]) -> None:
    if tags:
        conn.execute(TAG, [{"task_seq": seq, "tag": tag} for tag in tags])


def _check_assignee(conn: Connection, values: dict[str, Any]) -> None:
    assignee = values.get("assignee_id")
    if assignee and not conn.execute(USER_EXISTS, {"user_id": assignee}).scalar_one():
        raise Invalid("There is no such assignee.", fields=[("/assignee_id", "Is no account's id.")])
