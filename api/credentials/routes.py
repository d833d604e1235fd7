"""Confirming an address, and choosing another password, over HTTP."""

from typing import Any

from flask import request
from sqlalchemy import Connection

from api import db
from api.audit import queries as trail
from api.auth import accounts, doors, links, mails, passwords, reauthentication, totp
from api.auth.password_rules import names_of, refuse_names
from api.auth.schemas import UserOut
from api.credentials import requests
from api.credentials.schemas import AddressIn, ChangeIn, MessageOut, NewPasswordIn
from api.errors import Conflict, Invalid, NotFound
from api.statements import Row
from api.web import IN_PERSON, PUBLIC, Resource, caller, for_audit

credentials = Resource("credentials", __name__)
SMALL = 16 << 10  # bytes: what anybody may send is looked at before it is known whose it is
ASKED = {
    "message": "If an account has this address, a mail with a link is on its way. It can take a minute; if it does not "
    "come, look among the spam, and whether this is the account's address."
}
ENDED = "Every other session was ended, and links that were sent before are good no longer."
KEYS_ENDED = "Your API keys were removed too."
CURRENT = "/current_password"


@credentials.put("/auth/confirmation/<token>", status=204, allow=PUBLIC, limit="auth", audit="user.email_confirmed",
                 audited=UserOut(), problems=(404, 409))  # fmt: skip
def confirm(conn: Connection, token: str) -> Any:
    """Show that an address is yours, by the link that was mailed to it. A new address is the account's from then on."""
    link = links.take(conn, token, links.CONFIRMATION)
    user = accounts.get(conn, link["user_id"])
    if user is None or not user["active"] or link["email"] not in (user["email"], user["new_email"]):
        raise NotFound(links.NO_LONGER)
    after = confirmed(conn, user) if link["email"] == user["email"] else moved(conn, user)
    for_audit(before=user, after=after, actor_id=user["id"])


@credentials.put("/auth/confirmation", body=AddressIn(), max_body=SMALL, returns=MessageOut(), status=202,
                 allow=PUBLIC, limit="auth")  # fmt: skip
def ask_for_confirmation(conn: Connection, body: dict[str, Any]) -> Any:
    """Have the link that confirms an address sent again. Says the same whether or not there is such an account."""
    requests.put(conn, links.CONFIRMATION, body["email"], request.remote_addr)
    return ASKED


@credentials.put("/auth/forgot-password", body=AddressIn(), max_body=SMALL, returns=MessageOut(), status=202,
                 allow=PUBLIC, limit="auth")  # fmt: skip
def forgot(conn: Connection, body: dict[str, Any]) -> Any:
    """Have a link sent that lets you choose a new password. Says the same whether or not there is such an account."""
    requests.put(conn, links.RESET, body["email"], request.remote_addr)
    return ASKED


def hash_for_link(token: str, body: dict[str, Any]) -> dict[str, Any]:
    """Hash the new password before the transaction opens, if the link is good: a bad one costs no hash."""
    with db.reading() as conn:
        user = whose(conn, links.look(conn, token, links.RESET, links.INVITATION))
    refuse_names(body["password"], names_of(user))
    return {"new_hash": passwords.hash_password(body.pop("password"))}


@credentials.put("/auth/reset-password/<token>", body=NewPasswordIn(), max_body=SMALL, status=204, allow=PUBLIC,
                 limit="auth", prepare=hash_for_link, audit="user.password_reset", audited=UserOut(),
                 problems=(404,))  # fmt: skip
def reset(conn: Connection, body: dict[str, Any], token: str, new_hash: str) -> Any:  # noqa: ARG001 (hashed before)
    """Choose a new password, by the link that was mailed to you. Every session of yours ends."""
    user = whose(conn, links.take(conn, token, links.RESET, links.INVITATION))
    was = user if user["email_confirmed_at"] else of_a_stranger(conn, user)
    seen = was["email_confirmed_at"] or db.now()  # whoever chose it has read the account's mail
    after = accounts.change(conn, was, password_hash=new_hash, email_confirmed_at=seen, new_email=None)
    doors.close(conn, user, keys=True)
    mails.warn(
        conn, user, "Your password was changed", f"Your password was set by a link from a mail. {ENDED} {KEYS_ENDED}"
    )
    for_audit(before=user, after=after, actor_id=user["id"])


def check_current(body: dict[str, Any]) -> dict[str, Any]:
    """Check the current password and hash the new one before the transaction opens. Guessing is as slow as at login."""
    user = reauthentication.prove(body["current_password"], body["code"], CURRENT)
    if passwords.normal(body["current_password"]) == passwords.normal(body["new_password"]):
        same = "Is the one you have. Choose another one."
        raise Invalid(f"new_password: {same}", fields=[("/new_password", same)])
    refuse_names(body["new_password"], names_of(user), "/new_password")
    return {"proven": user, "new_hash": passwords.hash_password(body.pop("new_password"))}


@credentials.put("/auth/change-password", body=ChangeIn(), max_body=SMALL, status=204, allow=IN_PERSON,
                 prepare=check_current, audit="user.password_changed", audited=UserOut(), problems=(403,))  # fmt: skip
def change(conn: Connection, body: dict[str, Any], proven: Row, new_hash: str) -> Any:
    """Choose another password. Every other session of yours ends."""
    user = reauthentication.still_proven(conn, proven, body["code"], CURRENT)
    after = accounts.change(conn, user, password_hash=new_hash, new_email=None)
    doors.close(conn, user, keep=caller()["session_id"], keys=False)
    mails.warn(conn, user, "Your password was changed", f"Your password was changed. {ENDED}")
    for_audit(before=user, after=after)


def confirmed(conn: Connection, user: Row) -> Row:
    """Record that an account's address is its owner's. Once is enough."""
    return user if user["email_confirmed_at"] else accounts.change(conn, user, email_confirmed_at=db.now())


def moved(conn: Connection, user: Row) -> Row:
    """Let the address to be of an account be its address. Raises Conflict if another account has it meanwhile."""
    new = user["new_email"]
    if accounts.taken(conn, None, new, user["id"]):
        raise Conflict("Another account has this address meanwhile. Choose another one for yours, or sign in to that.")
    after = accounts.change(conn, user, email=new, new_email=None, email_confirmed_at=db.now())
    links.forget(conn, user["id"], links.CONFIRMATION, links.RESET, links.INVITATION)  # sent to the old one
    mails.address_changed(conn, user, after)
    return after


def whose(conn: Connection, link: Row) -> Row:
    """Return the row of the account that a link is for, if the link was sent to its address. Raises NotFound."""
    user = accounts.get(conn, link["user_id"])
    if user is None or not user["active"] or link["email"] != user["email"]:
        raise NotFound(links.NO_LONGER)
    return user


def of_a_stranger(conn: Connection, user: Row) -> Row:
    """Take off an account what somebody set up who never showed that its address is his. Return its row.

    For who shows it now, for the first time: the second factor may be a stranger's, who typed the address. An address
    that an admin gave the account is unconfirmed too, and no way round the second factor.
    """
    if user["totp_secret"] is None or trail.was_done_by_another(conn, "user.changed", user["id"]):
        return user
    return totp.remove(conn, user)
