"""Who is calling, and may they. What no route allows, is denied.

Whether the session of a token still lives or an API key is still good, and what its user may do, is read from the
database on every request. By a key he may do what it was made for, and of that only what he may at that moment.
"""

import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import orjson
from flask import current_app, g
from sqlalchemy import Connection, Select, bindparam, func, null, select

from api import db, sqlite
from api.errors import Forbidden, SecondFactorNeeded, Unauthenticated
from api.observe import note
from api.statements import Row, Statement
from api.tables import api_keys, sessions, users
from api.web import api_keys as keys
from api.web.access_tokens import Token, presented, remember_alive, remember_ended, unknown_key
from api.web.contract import Contract

PUBLIC = "public"  # anybody
SIGNED_IN = "signed in"  # any account that may sign in, by a session or by any API key
IN_PERSON = "in person"  # the same, by a session: what an account is protected with is no business of a program's key
OWN = {SIGNED_IN, IN_PERSON}
JOBS = {"jobs:submit", "jobs:manage", "vendors:manage"}
PERMISSIONS = {
    "admin": frozenset({*OWN, "tasks:read", "tasks:write", "users:manage", "audit:read", *JOBS}),
    "user": frozenset({*OWN, "tasks:read", "jobs:submit"}),
}
ROLES = tuple(sorted(PERMISSIONS))
SCOPES = tuple(sorted(PERMISSIONS["admin"] - OWN))  # what an API key can be made for
ALLOWABLE = PERMISSIONS["admin"] | {PUBLIC}
NOTHING: frozenset[str] = frozenset()

AT_ONCE_SECONDS = 0.005  # a write that follows its check so soon came before whatever ended the session meanwhile

PERSON = (users.c.id, users.c.username, users.c.role, users.c.active, users.c.totp_enabled_at)
BY_SESSION = select(
    *PERSON, sessions.c.id.label("session_id"), null().label("scopes"), null().label("last_used_at")
).where(sessions.c.ended_at.is_(None), sessions.c.expires_at > bindparam("now"))
BY_KEY = select(*PERSON, api_keys.c.id.label("session_id"), api_keys.c.scopes, api_keys.c.last_used_at).where(
    keys.LIVES
)
CALLER_QUERIES: dict[bool, Select[Any]] = {  # by Token.is_key: the same columns, so that nobody else need know
    False: BY_SESSION.select_from(sessions.join(users)).where(
        sessions.c.id == bindparam("sid"), sessions.c.user_id == bindparam("sub")
    ),
    True: BY_KEY.select_from(api_keys.join(users)).where(
        api_keys.c.id == bindparam("sid"), api_keys.c.user_id == bindparam("sub")
    ),
}
CALLERS = {is_key: Statement(query) for is_key, query in CALLER_QUERIES.items()}
GIVEN = func.json_each(bindparam("ids")).table_valued("value")
SESSIONS = Statement(
    BY_SESSION.select_from(GIVEN.join(sessions, sessions.c.id == GIVEN.c.value).join(users)).where(users.c.active)
)
KEYS = Statement(
    BY_KEY.select_from(GIVEN.join(api_keys, api_keys.c.id == GIVEN.c.value).join(users)).where(users.c.active)
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
    """Return the row of who is calling: id, username, role, active, rights.

    Also session_id, which is that of the API key if he shows one: `scopes` is what that was made for, otherwise None.
    """
    found: Row = g.caller
    return found


def actor() -> str | None:
    """Return the id of who is calling, or None if nobody is signed in."""
    found = g.get("caller")
    return found["id"] if found else None


def known(question: Statement, conn: Connection, token: Token, *, strict: bool) -> Row | None:
    """Return who shows a token, as one of CALLER_QUERIES finds him, with his `rights`; None if it is good no longer."""
    found = question.first(conn, sid=token.session_id, sub=token.user_id, now=db.now())
    if found is None or not found["active"]:
        return None
    found["rights"] = rights(found, strict=strict)
    return found


def rights_of(conn: Connection, session_ids: Iterable[str], *, strict: bool) -> dict[str, frozenset[str]]:
    """Return the rights that those of the sessions and API keys give which are still good."""
    wanted, now = set(session_ids), db.now()
    found = SESSIONS.all(conn, ids=orjson.dumps([*wanted]).decode(), now=now)
    if others := wanted - {row["session_id"] for row in found}:
        found += KEYS.all(conn, ids=orjson.dumps([*others]).decode(), now=now)
    return {row["session_id"]: rights(row, strict=strict) for row in found}


def rights(person: Row, *, strict: bool) -> frozenset[str]:
    """Return what somebody may at this moment. `strict`: an admin needs a second factor (REQUIRE_ADMIN_TOTP)."""
    found = PERMISSIONS.get(person["role"], NOTHING)
    if person["scopes"] is not None:
        found &= {SIGNED_IN, *person["scopes"]} - {IN_PERSON}
    if strict and person["role"] == "admin" and person["totp_enabled_at"] is None:
        found &= OWN
    return found


def may(person: Row, permission: str) -> bool:
    """Tell whether a caller may do this."""
    return permission in person["rights"]


def is_strict() -> bool:
    """Tell whether an admin needs a second factor."""
    return bool(current_app.extensions["settings"].require_admin_totp)


def _let_in(conn: Connection, token: Token, permission: str) -> None:
    """Remember who is calling. Raises Unauthenticated or Forbidden if that is nobody who may."""
    found = known(CALLERS[token.is_key], conn, token, strict=is_strict())
    if found is None:
        remember_ended(token.session_id)
        raise unknown_key() if token.is_key else _ended()
    remember_alive(token.session_id)
    g.caller, g.let_in_at = found, time.monotonic()
    note(user_id=found["id"])
    if token.is_key:
        note(api_key_id=token.session_id)
        keys.used(db.database(), found)
    if not may(found, permission):
        raise _refusal(found, permission)


def _ended() -> Unauthenticated:
    return Unauthenticated("This session has ended. Sign in again.", reason="invalid_token")


def _refusal(person: Row, permission: str) -> Forbidden:
    """Return why somebody may not, and what to do about it."""
    scopes, needs = person["scopes"], f"This needs the permission {permission}, which"
    if permission not in PERMISSIONS.get(person["role"], NOTHING):
        return Forbidden(f"{needs} the role {person['role']} does not have.")
    if scopes is not None and permission == IN_PERSON:
        return Forbidden(
            "An API key cannot do this. Sign in (POST /api/v1/auth/login), and send the access token instead."
        )
    if scopes is not None and permission not in {SIGNED_IN, *scopes}:
        return Forbidden(f"{needs} this API key was not made for. Make one for it: POST /api/v1/auth/api-keys.")
    return SecondFactorNeeded(
        "Here an admin needs a second factor for this. Sign in, ask for one with POST /api/v1/auth/totp, and confirm "
        "it with a first code: PUT /api/v1/auth/totp."
    )
