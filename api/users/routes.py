"""Accounts over HTTP: one's own, and those of others for who looks after them."""

from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import Connection

from api.auth import accounts, passwords, reauthentication
from api.auth.password_rules import names_of, refuse_names
from api.auth.schemas import Proof, UserOut
from api.errors import Forbidden, NotFound
from api.statements import Row
from api.users import changes, erasure, export, queries
from api.users.schemas import ExportOut, OwnChange, UserChange, UserFilter, UserIn
from api.web import (
    IN_PERSON,
    SIGNED_IN,
    Resource,
    actor,
    caller,
    for_audit,
    may,
    unchanged_since,
)

users = Resource("users", __name__)
MANAGE, ADMIN = "users:manage", "admin"
SMALL = 16 << 10  # bytes: nothing here is longer than a password
CURRENT = "/current_password"
NOT_YOURS = "You may see your own account only: GET /users/me. For others it needs the permission users:manage."
SIGN_IN = "Sign in for this (POST /api/v1/auth/login), and send the access token instead."
IN_YOUR_OWN_NAME = "This is your own account: {} asks for your password."


@users.get("/users/me", also=("/users/profile",), returns=UserOut(), allow=SIGNED_IN)
def me(conn: Connection) -> Any:
    """Show your own account."""
    return accounts.get(conn, actor())


def prove_if_needed(body: dict[str, Any]) -> dict[str, Any]:
    """Check the password, if it was given."""
    given = body.pop("current_password", None)
    return {"proven": None if given is None else reauthentication.prove(given, body.get("code"), CURRENT)}


@users.patch("/users/me", body=OwnChange(partial=True), max_body=SMALL, returns=UserOut(), allow=IN_PERSON,
             prepare=prove_if_needed, audit="user.changed", problems=(403, 409, 429))  # fmt: skip
def change_me(conn: Connection, body: dict[str, Any], proven: Row | None) -> Any:
    """Change your name or address. A new address needs your password, and counts once you use the link mailed to it."""
    code = body.pop("code", None)
    if "email" in body and proven is None:
        raise reauthentication.wrong_password(CURRENT)
    user = reauthentication.still_proven(conn, proven, code, CURRENT) if proven else reauthentication.own(conn)
    for_audit(before=user)
    return changes.own(conn, user, body)


def prove(body: dict[str, Any]) -> dict[str, Any]:
    """Check what only the owner of an account knows."""
    return {"proven": reauthentication.prove(body["password"], body["code"])}


@users.delete("/users/me", body=Proof(), max_body=SMALL, status=204, allow=IN_PERSON, prepare=prove,
              audit="user.erased", audited=UserOut(), problems=(403, 409))  # fmt: skip
def erase_me(conn: Connection, body: dict[str, Any], proven: Row) -> Any:
    """Erase your account and what is yours, for good. Tasks stay, without your name."""
    user = reauthentication.still_proven(conn, proven, body["code"])
    for_audit(before=user)
    erasure.erase(conn, user)


@users.get("/users/me/export", returns=ExportOut(), allow=IN_PERSON, storable=False, transaction=False,
           problems=(429,))  # fmt: skip
def export_me() -> Any:
    """Download all that is kept about you, as one JSON document."""
    return export.answer()


@users.get("/users", query=UserFilter(), returns=UserOut(), many=True, allow=MANAGE)
def index(conn: Connection, query: dict[str, Any]) -> Any:
    """List accounts, the newest first unless `sort` says otherwise."""
    return queries.find(conn, **query)


def hash_first(body: dict[str, Any]) -> dict[str, Any]:
    """Hash the password before the transaction opens, and forget it. Without one nobody can sign in yet."""
    password = body.pop("password", None)
    if password is None:
        return {"password_hash": passwords.unusable()}
    refuse_names(password, names_of(body))
    return {"password_hash": passwords.hash_password(password)}


@users.post("/users", body=UserIn(partial=("password",)), max_body=SMALL, returns=UserOut(), status=201, location="id",
            allow=MANAGE, prepare=hash_first, idempotent=True, audit="user.created", problems=(409,))  # fmt: skip
def create(conn: Connection, body: dict[str, Any], password_hash: str) -> Any:
    """Make an account for somebody, who is told by mail; without a password, with a link to choose one.

    By an API key no admin can be made.
    """
    if body["role"] == ADMIN:
        in_person_only("make an admin")
    accounts.refuse_taken(conn, username=body["username"], email=body["email"])
    user = accounts.create(conn, **body, password_hash=password_hash)
    changes.welcome(conn, user)
    return user


@users.get("/users/<uuid:user_id>", returns=UserOut(), allow=SIGNED_IN, problems=(403,))
def show(conn: Connection, user_id: UUID) -> Any:
    """Show an account: anybody's to who looks after accounts, to others their own."""
    if str(user_id) != actor() and not may(caller(), MANAGE):
        raise Forbidden(NOT_YOURS)  # also if there is none
    return accounts.get(conn, str(user_id)) or missing(user_id)


@users.patch("/users/<uuid:user_id>", body=UserChange(partial=True), max_body=SMALL, returns=UserOut(),
             conditional=True, allow=MANAGE, audit="user.changed", problems=(409,))  # fmt: skip
def change(conn: Connection, user_id: UUID, body: dict[str, Any]) -> Any:
    """Change an account. It acts on its owner's next request; `active: false` ends all his sessions.

    By an API key neither a role can be changed nor the account of an admin.
    """
    user = as_seen(conn, user_id)
    if user["role"] == ADMIN:
        in_person_only("change the account of an admin")
    if body.get("role", user["role"]) != user["role"]:
        in_person_only("change a role")
    if "email" in body and user["id"] == actor():
        raise Forbidden(IN_YOUR_OWN_NAME.format("PATCH /users/me"), fields=[("/email", "Is your own address.")])
    return changes.by_admin(conn, user, body)


@users.delete("/users/<uuid:user_id>", status=204, conditional=True, allow=MANAGE, audit="user.erased",
              audited=UserOut(), problems=(409,))  # fmt: skip
def erase(conn: Connection, user_id: UUID) -> Any:
    """Erase an account and what is its owner's, for good. Tasks stay, without the name.

    By an API key no admin can be erased.
    """
    user = as_seen(conn, user_id)
    if user["role"] == ADMIN:
        in_person_only("erase an admin")
    accounts.refuse_last_admin(conn, user)
    if user["id"] == actor():
        raise Forbidden(IN_YOUR_OWN_NAME.format("DELETE /users/me"))
    erasure.erase(conn, user)


def in_person_only(deed: str) -> None:
    """Refuse to let a program do this: whoever found its key would be an admin himself. Raises Forbidden."""
    if caller()["scopes"] is not None:
        raise Forbidden(f"An API key cannot {deed}. {SIGN_IN}")


def as_seen(conn: Connection, user_id: UUID) -> Row:
    """Return the account, if it is as the caller's If-Match says. Raises NotFound, PreconditionFailed."""
    user = accounts.get(conn, str(user_id)) or missing(user_id)
    unchanged_since(user)
    for_audit(before=user)
    return user


def missing(user_id: UUID) -> NoReturn:
    """Raise NotFound."""
    raise NotFound(f"There is no account {user_id}.")
