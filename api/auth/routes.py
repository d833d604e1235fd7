"""Signing up, in and out over HTTP."""

from typing import Any

from flask import current_app
from sqlalchemy import Connection

from api import db
from api.auth import accounts, passwords, tokens
from api.auth.names import folded
from api.auth.schemas import LoginIn, LogoutQuery, RefreshIn, RegisterIn, SessionOut, TokensOut, UserOut
from api.errors import Forbidden, Unauthenticated
from api.web import IN_PERSON, PUBLIC, Resource, bearer, caller, for_audit, forgive, record, slow_down

auth = Resource("auth", __name__)
NO_ADMIN = (
    "Only the first account may ask for the role admin, and only where REGISTER_ADMIN says so. Leave role out; whoever "
    "runs this server makes an admin with `walnut user create NAME EMAIL --role admin`."
)
SMALL = 16 << 10  # bytes: what anybody may send is looked at before it is known whose it is


def hash_first(body: dict[str, Any]) -> dict[str, Any]:
    """Hash the new password before the transaction opens, and forget it."""
    return {"password_hash": passwords.hash_password(body.pop("password"))}


def check_first(body: dict[str, Any]) -> dict[str, Any]:
    """Check address and password before the transaction opens. Who does not exist takes as long as who does."""
    account = folded(body["email"])
    slow_down(account)
    with db.reading() as conn:
        user = accounts.by_email(conn, body["email"])
    if not passwords.matches(body["password"], user["password_hash"] if user else None):
        raise Unauthenticated("The email or the password is not right.")
    forgive(account)
    return {"user": user}


@auth.post("/auth/register", body=RegisterIn(), max_body=SMALL, returns=UserOut(), status=201, allow=PUBLIC,
           limit="auth", prepare=hash_first, audit="user.registered", problems=(403, 409))  # fmt: skip
def register(conn: Connection, body: dict[str, Any], password_hash: str) -> Any:
    """Make an account."""
    if body["role"] != "user" and not may_ask_for_admin(conn):
        raise Forbidden(NO_ADMIN)
    accounts.refuse_taken(conn, username=body["username"], email=body["email"])
    user = accounts.create(conn, **body, password_hash=password_hash)
    for_audit(actor_id=user["id"])
    return user


@auth.post("/auth/login", body=LoginIn(), max_body=SMALL, returns=TokensOut(), allow=PUBLIC, limit="auth",
           prepare=check_first, audit="session.opened", audited=SessionOut(), problems=(401,))  # fmt: skip
def login(conn: Connection, body: dict[str, Any], user: Any) -> Any:  # noqa: ARG001 (checked before)
    """Sign in with address and password."""
    now = accounts.get(conn, user["id"])
    if now is None or not now["active"] or now["password_hash"] != user["password_hash"]:
        raise Unauthenticated("The email or the password is not right.")
    return tokens.open_session(conn, user["id"])


@auth.post("/auth/refresh", also=("/auth/refresh-token",), body=RefreshIn(), max_body=SMALL, returns=TokensOut(),
           allow=PUBLIC, limit="auth", transaction=False, problems=(401,))  # fmt: skip
def refresh(body: dict[str, Any]) -> Any:
    """Trade a refresh token for a new pair of tokens."""
    token = body.get("refresh_token") or bearer('Send the refresh token: {"refresh_token": "..."}, or as Bearer.')
    if token.count(".") == 2:
        raise Unauthenticated(
            "That is an access token. Send the refresh token of the same answer.", reason="invalid_token"
        )
    with db.writing() as conn:  # committed also when it ends the session
        pair = tokens.rotate(conn, token)
    if pair is None:
        raise Unauthenticated(
            "This refresh token was used before. Its session has ended: sign in again.", reason="invalid_token"
        )
    return pair


@auth.route("/auth/logout", methods=["POST", "PUT"], query=LogoutQuery(), status=204, allow=IN_PERSON,
            audit="session.ended", audited=SessionOut())  # fmt: skip
def logout(conn: Connection, query: dict[str, Any]) -> Any:
    """End this session, or all of yours."""
    me, own = caller()["id"], caller()["session_id"]
    ended = tokens.end_all_sessions(conn, me) if query["all"] else [tokens.end_session(conn, own)]
    found = {row["id"]: row for row in ended if row}
    if own not in found:
        raise Unauthenticated("This session has ended already.", reason="invalid_token")
    for_audit(before=found[own] | {"ended_at": None}, after=found.pop(own))
    for other in found.values():  # each has its entry, as if it had been ended by itself
        shape = SessionOut().dump
        record(
            conn,
            "session.ended",
            other["id"],
            actor_id=me,
            before=shape(other | {"ended_at": None}),
            after=shape(other),
        )


def may_ask_for_admin(conn: Connection) -> bool:
    """Tell whether the next account may be an admin's by its own wish: the first one, where the settings say so."""
    return current_app.extensions["settings"].register_admin == "first" and not accounts.any_exist(conn)
