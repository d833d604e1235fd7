"""What changes about an account, and whom it is told. Every function takes the connection of `db.writing` first."""

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from api.auth import accounts, doors, links, mails, passwords
from api.errors import Invalid
from api.statements import Row


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
    shuts = user["active"] and not becomes["active"]
    forgets = {"new_email": None} if moves or shuts else {}
    after = _changed(conn, user, **wish, **forgets, **({"email_confirmed_at": None} if moves else {}))
    if moves:
        links.forget(conn, user["id"], links.CONFIRMATION, links.RESET, links.INVITATION)  # sent to the old one
        with suppress(Invalid):  # an old address that no mail can go to must not be kept for that
            mails.address_changed(conn, user, after)
        welcome(conn, after)
    if shuts:
        doors.close(conn, user, keys=True)  # for good: to open the account again revives none of them
    return after


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
    mails.ask_new_address(conn, user, new)
    text = f"Somebody who is signed in to your account, and knows its password, wants it to have the address {new}. "
    with suppress(Invalid):
        mails.warn(conn, user, "Your account is to have another address", f"{text}It will, once {new} is confirmed.")
