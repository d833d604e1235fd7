"""Writes down who did what, in the deed's own transaction: no change without its entry, no entry without its change."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import g, request
from sqlalchemy import Connection

from api import audit_trail, failpoints
from api.observe import note, request_id
from api.statements import Row
from api.web.contract import Contract
from api.web.guard import actor
from api.web.output import shaper


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Record the action that the contract names: what the subject was, and what the view returns of it.

    Before and after hold the fields of the contract's `audited`, or of what it returns, and nothing else. A view that
    returns the very row that was there before has changed nothing, so there is no entry.
    """
    schema = contract.audited or contract.returns
    if not (contract.audit and schema):
        return view
    action, shape = contract.audit, shaper(schema)

    @wraps(view)
    def audited(conn: Connection, **kwargs: Any) -> Any:
        g.audit = {}
        result = view(conn, **kwargs)
        said = {"after": result} | g.audit
        if said["after"] is not None and said["after"] is said.get("before"):
            return result
        subject_id = _subject_id(action, said, kwargs)
        parts = {name: shape(said[name]) for name in ("before", "after") if said.get(name) is not None}
        record(conn, action, subject_id, actor_id=said.get("actor_id", actor()), **parts)
        return result

    return audited


def for_audit(**said: Any) -> None:
    """Say what the entry of this request cannot know by itself.

    `before`: the row as it was. `after`: the row as it is now, where the view returns something else. `actor_id`: who
    acts, where nobody is signed in yet.
    """
    g.setdefault("audit", {}).update(said)


def record(conn: Connection, action: str, subject_id: str, **more: Any) -> None:
    """Add an entry for a change that no contract names. `before`, `after` and `actor_id` as in audit_trail.append."""
    failpoints.reach("audit.before")
    if request:  # none: it is a command that does it
        more |= {"address": request.remote_addr, "request_id": request_id()}
    seq = audit_trail.append(conn, action, subject_id, **more)
    failpoints.reach("audit.after")
    note(audit_seq=seq)  # the log, which is kept elsewhere, bears witness that there was an entry of this number


def _subject_id(action: str, said: dict[str, Any], arguments: dict[str, Any]) -> str:
    """Return the subject's id: from the row after, or before, or from the path, as in /tasks/<task_id>."""
    row: Row | None = said["after"] or said.get("before")
    if row is not None:
        return str(row["id"])
    return str(arguments[f"{action.partition('.')[0]}_id"])
