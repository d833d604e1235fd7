"""Who is calling, and may they. What no route allows, is denied.

Whether the session of a token still lives, and what its user may do, is read from the database on every request.
"""

import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import orjson
from flask import g
from sqlalchemy import Connection, bindparam, func, select

from api import db, sqlite
from api.errors import Forbidden, Unauthenticated
from api.observe import note
from api.statements import Row, Statement
from api.tables import sessions, users
from api.web.access_tokens import Token, presented, remember_alive, remember_ended
from api.web.contract import Contract

PUBLIC = "public"  # anybody
SIGNED_IN = "signed in"  # any account that may sign in
IN_PERSON = "in person"  # the same, by a session: what an account is protected with is no business of a program's key
OWN = {SIGNED_IN, IN_PERSON}
JOBS = {"jobs:submit", "jobs:manage", "vendors:manage"}
PERMISSIONS = {
    "admin": frozenset({*OWN, "tasks:read", "tasks:write", "users:manage", "audit:read", *JOBS}),
    "user": frozenset({*OWN, "tasks:read", "jobs:submit"}),
}
ROLES = tuple(sorted(PERMISSIONS))
ALLOWABLE = PERMISSIONS["admin"] | {PUBLIC}

AT_ONCE_SECONDS = 0.005  # a write that follows its check so soon came before whatever ended the session meanwhile

LIVES = (sessions.c.ended_at.is_(None), sessions.c.expires_at > bindparam("now"))
CALLER_QUERY = (
    select(users.c.id, users.c.username, users.c.role, users.c.active, sessions.c.id.label("session_id"))
    .select_from(sessions.join(users))
    .where(sessions.c.id == bindparam("sid"), sessions.c.user_id == bindparam("sub"), *LIVES)
)
CALLER = Statement(CALLER_QUERY)
GIVEN = func.json_each(bindparam("ids")).table_valued("value")
ROLES_OF = Statement(
    select(sessions.c.id, users.c.role)
    .select_from(GIVEN.join(sessions, sessions.c.id == GIVEN.c.value).join(users))
    .where(users.c.active, *LIVES)
)


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Let in whom the contract allows."""
    if contract.allow == PUBLIC:
        return view

    @wraps(view)
    def guarded(**kwargs: Any) -> Any:
        token = presented()
        with db.reading(snapshot=False) as conn:
            sqlite.patiently(lambda: _let_in(conn, token, contract.allow))
        return view(**kwargs)

    @wraps(view)
    def guarded_read(**kwargs: Any) -> Any:
        token = presented()
        with db.reading() as g.conn:  # one snapshot: what the caller may see, and what he sees
            _let_in(g.conn, token, contract.allow)
            return view(**kwargs)

    return guarded_read if contract.transaction and not contract.writes else guarded


def check_again(conn: Connection, permission: str) -> None:
    """Check inside a write's transaction: the session may have ended while the body or the lock was waited for."""
    if permission != PUBLIC and time.monotonic() - g.let_in_at > AT_ONCE_SECONDS:
        _let_in(conn, presented(), permission)


def refuse_who_is_gone(permission: str) -> None:
    """Check once more, for who met a row that was not there: an account is erased at any moment, his own too."""
    if permission != PUBLIC:
        with db.reading(snapshot=False) as conn:
            _let_in(conn, presented(), permission)


def caller() -> Row:
    """Return the row of who is calling: id, username, role, active, session_id."""
    found: Row = g.caller
    return found


def actor() -> str | None:
    """Return the id of who is calling, or None if nobody is signed in."""
    found = g.get("caller")
    return found["id"] if found else None


def roles_of(conn: Connection, session_ids: Iterable[str]) -> dict[str, str]:
    """Return the roles of the users of those sessions that are still good."""
    found = ROLES_OF.all(conn, ids=orjson.dumps(list(session_ids)).decode(), now=db.now())
    return {row["id"]: row["role"] for row in found}


def may(caller: Row, permission: str) -> bool:
    """Tell whether a caller, as CALLER finds one, may do this."""
    return caller["active"] and permission in PERMISSIONS.get(caller["role"], ())


def _let_in(conn: Connection, token: Token, permission: str) -> None:
    """Remember who is calling. Raises Unauthenticated or Forbidden if that is nobody who may."""
    found = CALLER.first(conn, sid=token.session_id, sub=token.user_id, now=db.now())
    if found is None or not found["active"]:
        remember_ended(token.session_id)
        raise Unauthenticated("This session has ended. Sign in again.", reason="invalid_token")
    remember_alive(token.session_id)
    g.caller, g.let_in_at = found, time.monotonic()
    note(user_id=found["id"])
    if not may(found, permission):
        raise Forbidden(f"This needs the permission {permission}, which the role {found['role']} does not have.")
