"""Who is calling, and may they. What no route allows, is denied.

A verified token is remembered until it expires, because checking its signature costs more than the rest of the
corridor. Whether its session still lives, and what its user may do, is read from the database on every request.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache, wraps
from typing import Any, NamedTuple

from flask import Flask, current_app, g, request
from flask_jwt_extended import JWTManager, create_access_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt import ExpiredSignatureError, PyJWTError
from sqlalchemy import Connection, bindparam, select

from api import db, sqlite
from api.errors import Forbidden, Unauthenticated
from api.observe import note
from api.settings import Settings
from api.statements import Row, Statement
from api.tables import sessions, users
from api.web.contract import Contract

PUBLIC = "public"  # anybody
SIGNED_IN = "signed in"  # any account that may sign in
PERMISSIONS = {
    "admin": frozenset({SIGNED_IN, "tasks:read", "tasks:write", "jobs:submit", "users:manage", "audit:read"}),
    "user": frozenset({SIGNED_IN, "tasks:read", "jobs:submit"}),
}
ROLES = tuple(sorted(PERMISSIONS))
ALLOWABLE = PERMISSIONS["admin"] | {PUBLIC}

ISSUER = AUDIENCE = "walnut"
CLAIMS = ("iss", "aud", "sub", "sid", "jti", "iat", "exp")

CALLER = Statement(
    select(users.c.id, users.c.username, users.c.role, users.c.active, sessions.c.id.label("session_id"))
    .select_from(sessions.join(users))
    .where(
        sessions.c.id == bindparam("sid"),
        sessions.c.user_id == bindparam("sub"),
        sessions.c.ended_at.is_(None),
        sessions.c.expires_at > bindparam("now"),
    )
)


class Token(NamedTuple):
    """What an access token says, once its signature is checked. `expires_at` is in seconds since 1970."""

    user_id: str
    session_id: str
    expires_at: float


def init_app(app: Flask, settings: Settings) -> None:
    """Configure flask-jwt-extended: one algorithm, every claim required."""
    app.config.update(
        JWT_SECRET_KEY=settings.jwt_secret,
        JWT_ALGORITHM="HS256",
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=settings.access_token_ttl),
        JWT_ENCODE_ISSUER=ISSUER,
        JWT_DECODE_ISSUER=ISSUER,
        JWT_ENCODE_AUDIENCE=AUDIENCE,
        JWT_DECODE_AUDIENCE=AUDIENCE,
    )
    JWTManager(app)


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Let in whom the contract allows."""
    if contract.allow == PUBLIC:
        return view

    @wraps(view)
    def guarded(**kwargs: Any) -> Any:
        token = _token()
        with db.reading(snapshot=False) as conn:
            sqlite.patiently(lambda: _let_in(conn, token, contract.allow))
        return view(**kwargs)

    @wraps(view)
    def guarded_read(**kwargs: Any) -> Any:
        token = _token()
        with db.reading() as g.conn:  # one snapshot: what the caller may see, and what he sees
            _let_in(g.conn, token, contract.allow)
            return view(**kwargs)

    return guarded_read if contract.transaction and not contract.writes else guarded


def caller() -> Row:
    """Return the row of who is calling: id, username, role, active, session_id."""
    found: Row = g.caller
    return found


def actor() -> str | None:
    """Return the id of who is calling, or None if nobody is signed in."""
    found = g.get("caller")
    return found["id"] if found else None


def access_token(user_id: str, session_id: str) -> str:
    """Return a signed access token for a session (RFC 9068 in all but its media type)."""
    token: str = create_access_token(user_id, additional_claims={"sid": session_id})
    return token


def bearer() -> str:
    """Return the token of the Authorization header. Raises Unauthenticated if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Sign in first, and send the access token as 'Authorization: Bearer TOKEN'.")
    return token.strip()


def _token() -> Token:
    token = _verified(bearer(), current_app.config["JWT_SECRET_KEY"])
    if token.expires_at <= time.time():
        raise _expired()
    return token


def _let_in(conn: Connection, token: Token, permission: str) -> None:
    """Remember who is calling. Raises Unauthenticated or Forbidden if that is nobody who may."""
    found = CALLER.first(conn, sid=token.session_id, sub=token.user_id, now=db.now())
    if found is None or not found["active"]:
        raise Unauthenticated("This session has ended. Sign in again.", reason="invalid_token")
    g.caller = found
    note(user_id=found["id"])
    if permission not in PERMISSIONS.get(found["role"], ()):
        raise Forbidden(f"This needs the permission {permission}, which the role {found['role']} does not have.")


@lru_cache(maxsize=10_000)
def _verified(token: str, _key: str) -> Token:
    """Check a token's signature and claims once. The key is named so that another key is another question."""
    try:
        claims = decode_token(token)
    except ExpiredSignatureError:
        raise _expired() from None
    except (JWTExtendedException, PyJWTError, ValueError):
        raise _invalid() from None
    if any(claims.get(name) is None for name in CLAIMS) or claims.get("type") != "access":
        raise _invalid()
    return Token(str(claims["sub"]), str(claims["sid"]), float(claims["exp"]))


def _expired() -> Unauthenticated:
    return Unauthenticated("The access token has expired. Refresh it, or sign in again.", reason="invalid_token")


def _invalid() -> Unauthenticated:
    return Unauthenticated("The access token is not one of ours. Sign in again.", reason="invalid_token")
