"""Tasks over HTTP: a route declares, the corridor keeps, the view is what is left."""

from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import Connection

from api.audit import queries as trail
from api.audit.schemas import HistoryOut, HistoryQuery
from api.errors import NotFound
from api.tasks import queries
from api.tasks.schemas import TaskChange, TaskFilter, TaskIn, TaskOut
from api.web import Resource, actor, for_audit, unchanged_since

tasks = Resource("tasks", __name__)


@tasks.get(
    "/tasks", query=TaskFilter(), returns=TaskOut(), many=True, allow="tasks:read", cache=("tasks",), shared=True
)
def index(conn: Connection, query: dict[str, Any]) -> Any:
    """List tasks, the newest first unless `sort` says otherwise."""
    return queries.find(conn, **query)


@tasks.post("/tasks", body=TaskIn(), returns=TaskOut(), status=201, location="id", allow="tasks:write",
            idempotent=True, audit="task.created")  # fmt: skip
def create(conn: Connection, body: dict[str, Any]) -> Any:
    """Add a task."""
    return queries.create(conn, actor(), body)


@tasks.get("/tasks/<uuid:task_id>", returns=TaskOut(), allow="tasks:read", cache=("tasks",), shared=True)
def show(conn: Connection, task_id: UUID) -> Any:
    """Fetch one task."""
    return queries.get(conn, str(task_id)) or missing(task_id)


@tasks.put("/tasks/<uuid:task_id>", body=TaskIn(), returns=TaskOut(), conditional=True, allow="tasks:write",
           audit="task.replaced")  # fmt: skip
def replace(conn: Connection, task_id: UUID, body: dict[str, Any]) -> Any:
    """Replace a task: what is left out goes back to its default."""
    return queries.change(conn, as_seen(conn, task_id), body)


@tasks.patch("/tasks/<uuid:task_id>", body=TaskChange(partial=True), returns=TaskOut(), conditional=True,
             allow="tasks:write", audit="task.changed")  # fmt: skip
def change(conn: Connection, task_id: UUID, body: dict[str, Any]) -> Any:
    """Change some fields of a task."""
    return queries.change(conn, as_seen(conn, task_id), body)


@tasks.delete("/tasks/<uuid:task_id>", status=204, conditional=True, allow="tasks:write",
              audit="task.removed", audited=TaskOut())  # fmt: skip
def remove(conn: Connection, task_id: UUID) -> Any:
    """Delete a task."""
    queries.remove(conn, as_seen(conn, task_id))


@tasks.get("/tasks/<uuid:task_id>/history", query=HistoryQuery(), returns=HistoryOut(), allow="tasks:read")
def history(conn: Connection, task_id: UUID, query: dict[str, Any]) -> Any:
    """Show what was done to a task, the newest first; also to one that has been deleted."""
    found = trail.history(conn, "task", str(task_id), **query)
    if not found["items"] and queries.get(conn, str(task_id)) is None:
        missing(task_id)
    return found


def as_seen(conn: Connection, task_id: UUID) -> Any:
    """Return the task, if it is as the caller's If-Match says. Raises NotFound, PreconditionFailed."""
    task = queries.get(conn, str(task_id)) or missing(task_id)
    unchanged_since(task)
    for_audit(before=task)
    return task


def missing(task_id: UUID) -> NoReturn:
    """Raise NotFound."""
    raise NotFound(f"There is no task {task_id}.")
