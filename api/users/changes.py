"""What changes about an account, and whom it is told. Every function takes the connection of `db.writing` first."""

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from api import db
from api.auth import accounts, links, mails, passwords, tokens
from api.errors import Invalid, TooManyRequests
from api.statements import Row

MOST_AN_HOUR = 5  # addresses that one may have mail sent to: what is typed there may be a stranger's


def own(conn: Connection, user: Row, wish: Row) -> Row:
    """Change an account as its owner wishes: `username`, `email`. Return its row. Raises Conflict, TooManyRequests."""
    accounts.refuse_taken(conn, username=wish.get("username"), email=wish.get("email"), user=user["id"])
    values: dict[str, Any] = {"username": wish["username"]} if "username" in wish else {}
    if "email" in wish:
        is_new = wish["email"] != user["email"]  # the present one again: then the new one is not wanted any more
        values["new_email"] = wish["email"] if is_new else None
        if is_new:
            _ask_new_address(conn, user, wish["email"])
            return accounts.change(conn, user, **values)  # a link to the same one as before is a change too
    return _changed(conn, user, **values)


def by_admin(conn: Connection, user: Row, wish: Row) -> Row:
    """Change an account as an admin wishes: `username`, `email`, `role`, `active`. Return its row. Raises Conflict."""
    becomes = user | wish
    accounts.refuse_last_admin(conn, user, role=becomes["role"], active=becomes["active"])
    accounts.refuse_taken(conn, username=wish.get("username"), email=wish.get("email"), user=user["id"])
    moves = becomes["email"] != user["email"]
    after = _changed(conn, user, **wish, **({"new_email": None, "email_confirmed_at": None} if moves else {}))
    if moves:
        links.forget(conn, user["id"], links.CONFIRMATION, links.RESET, links.INVITATION)  # sent to the old one
        with suppress(Invalid):  # an old address that no mail can go to must not be kept for that
            mails.address_changed(conn, user, after)
        welcome(conn, after)
    if user["active"] and not after["active"]:
        close(conn, user["id"])
    return after


def close(conn: Connection, user_id: str) -> None:
    """End what an account has open, for good: its sessions, and the links that would open others."""
    tokens.end_other_sessions(conn, user_id)
    links.forget(conn, user_id, links.RESET, links.INVITATION)


def welcome(conn: Connection, user: Row) -> None:
    """Ask somebody, at an address that an admin typed, to confirm it; who has no password yet, to choose one."""
    if passwords.is_usable(user["password_hash"]):
        mails.ask_to_confirm(conn, user)
    else:
        mails.invite(conn, user)


def _changed(conn: Connection, user: Row, **values: Any) -> Row:
    """Change an account, unless it is so already: then its row is returned as it is, which counts as no change."""
    same = all(user[name] == value for name, value in values.items())
    return user if same else accounts.change(conn, user, **values)


def _ask_new_address(conn: Connection, user: Row, new: str) -> None:
    """Send the link to a new address, and tell the old one."""
    if links.made_since(conn, user["id"], links.CONFIRMATION, db.now() - links.HOUR) >= MOST_AN_HOUR:
        detail = f"{MOST_AN_HOUR} links were sent within an hour. Use the one in the last mail, or wait an hour."
        raise TooManyRequests(detail, policy="mails", retry_after=3600)
    mails.ask_to_confirm(conn, user, new)
    text = f"somebody who is signed in to your account, and knows its password, wants it to have the address {new}. "
    with suppress(Invalid):
        mails.warn(conn, user, "Your account is to have another address", f"{text}It will, once {new} is confirmed.")
