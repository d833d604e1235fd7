"""Signing up, in and out over HTTP."""

from typing import Any
from uuid import UUID

from flask import current_app, request
from sqlalchemy import Connection

from api import db
from api.auth import accounts, cookies, devices, mails, passwords, tokens, totp
from api.auth.names import folded
from api.auth.password_rules import names_of, refuse_names
from api.auth.schemas import (
    LoginIn,
    LogoutQuery,
    OwnSessionOut,
    RefreshIn,
    RegisterIn,
    SessionOut,
    SessionQuery,
    TokensOut,
    UserOut,
)
from api.errors import EmailNotConfirmed, Forbidden, NotFound, Unauthenticated
from api.web import IN_PERSON, PUBLIC, Resource, bearer, caller, for_audit, forgive, slow_down

auth = Resource("auth", __name__)
NO_ADMIN = (
    "Only the first account may ask for the role admin, and only where REGISTER_ADMIN says so. Leave role out; whoever "
    "runs this server makes an admin with `walnut user create NAME EMAIL --role admin`."
)
SEND_IT = 'Send the refresh token: {"refresh_token": "..."}, as Bearer, or in the cookie of the login.'
NOT_CONFIRMED = (
    "This address is not confirmed yet. Open the link in the mail that was sent to it; "
    "PUT /api/v1/auth/confirmation with your email has a new one sent."
)
SMALL = 16 << 10  # bytes: what anybody may send is looked at before it is known whose it is


def hash_first(body: dict[str, Any]) -> dict[str, Any]:
    """Hash the new password before the transaction opens, and forget it."""
    refuse_names(body["password"], names_of(body))
    return {"password_hash": passwords.hash_password(body.pop("password"))}


def check_first(body: dict[str, Any]) -> dict[str, Any]:
    """Check address, password and code before the transaction opens. Who does not exist takes as long as who does."""
    account = folded(body["email"])
    slow_down(account)
    with db.reading() as conn:
        user = accounts.by_email(conn, body["email"])
    same = passwords.matches(body["password"], user["password_hash"] if user else None)
    if user is None or not same or not user["active"]:  # who is shut out is told no more than a stranger
        raise Unauthenticated("The email or the password is not right.")
    totp.check_first(user, body["code"], Unauthenticated)
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
    mails.ask_to_confirm(conn, user)
    for_audit(actor_id=user["id"])
    return user


@auth.post("/auth/login", body=LoginIn(), max_body=SMALL, returns=TokensOut(), allow=PUBLIC, limit="auth",
           prepare=check_first, audit="session.opened", audited=SessionOut(), problems=(401, 403))  # fmt: skip
def login(conn: Connection, body: dict[str, Any], user: Any) -> Any:
    """Sign in with address and password, and the code of an account that has a second factor."""
    now = accounts.get(conn, user["id"])
    if now is None or not now["active"] or now["password_hash"] != user["password_hash"]:
        raise Unauthenticated("The email or the password is not right.")
    if not now["email_confirmed_at"] and current_app.extensions["settings"].require_confirmed_email:
        raise EmailNotConfirmed(NOT_CONFIRMED)
    totp.check(conn, now, body["code"], Unauthenticated)
    return answered(tokens.open_session(conn, user["id"]), in_cookie=body["cookie"])


@auth.post("/auth/refresh", also=("/auth/refresh-token",), body=RefreshIn(), max_body=SMALL, returns=TokensOut(),
           allow=PUBLIC, limit="auth", transaction=False, cookie=cookies.NAME, problems=(401, 403))  # fmt: skip
def refresh(body: dict[str, Any]) -> Any:
    """Trade a refresh token for a new pair of tokens."""
    given = body.get("refresh_token") or ("Authorization" in request.headers and bearer(SEND_IT))
    token = given or cookies.shown() or bearer(SEND_IT)
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
    return answered(pair, in_cookie=not given)


@auth.route("/auth/logout", methods=["POST", "PUT"], query=LogoutQuery(), status=204, allow=IN_PERSON,
            audit="session.ended", audited=SessionOut())  # fmt: skip
def logout(conn: Connection, query: dict[str, Any]) -> Any:
    """End this session, or all of yours."""
    me, own = caller()["id"], caller()["session_id"]
    ended = tokens.end_session(conn, me, own)
    if ended is None:
        raise Unauthenticated("This session has ended already.", reason="invalid_token")
    for_audit(before=ended | {"ended_at": None}, after=ended)
    if query["all"]:
        tokens.end_other_sessions(conn, me, keep=own)
    cookies.clear(204)


@auth.get("/auth/sessions", query=SessionQuery(), returns=OwnSessionOut(), many=True, allow=IN_PERSON)
def index(conn: Connection, query: dict[str, Any]) -> Any:
    """List where you are signed in, the last used first unless `sort` says otherwise."""
    return devices.signed_in(conn, caller(), **query)


@auth.delete("/auth/sessions/<uuid:session_id>", status=204, allow=IN_PERSON, audit="session.ended",
             audited=SessionOut())  # fmt: skip
def end(conn: Connection, session_id: UUID) -> Any:
    """Sign out one of your sessions, at once and everywhere."""
    ended = tokens.end_session(conn, caller()["id"], str(session_id))
    if ended is None:
        raise NotFound(f"You have no open session {session_id}. GET /auth/sessions lists those you have.")
    for_audit(before=ended | {"ended_at": None}, after=ended)


def answered(pair: dict[str, Any], *, in_cookie: bool) -> dict[str, Any]:
    """Return what a sign-in answers: with its refresh token, or beside the cookie that has it."""
    expires = pair.pop("refresh_expires_in")
    return cookies.moved_to_cookie(pair, expires) if in_cookie else pair


def may_ask_for_admin(conn: Connection) -> bool:
    """Tell whether the next account may be an admin's by its own wish: the first one, where the settings say so."""
    return current_app.extensions["settings"].register_admin == "first" and not accounts.any_exist(conn)
