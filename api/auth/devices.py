"""Where a person is signed in, as he is shown it: what clients say of themselves, made safe to keep and to read."""

from dataclasses import replace
from typing import Any

from flask import request
from sqlalchemy import Connection, and_, bindparam

from api import db
from api.statements import Row
from api.tables import sessions
from api.web import Listing, ip

CHARACTERS = 200
SESSIONS = Listing(
    sessions,
    {
        "user_id": sessions.c.user_id == bindparam("user_id"),
        "now": and_(sessions.c.ended_at.is_(None), sessions.c.expires_at > bindparam("now")),
    },
)


def signed_in(conn: Connection, caller: Row, **query: Any) -> Any:
    """Return a part of the list of the caller's sessions that are alive, each with whether it is the `current` one."""
    found = SESSIONS.read(conn, user_id=caller["id"], now=db.now(), **query)
    return replace(found, items=[row | {"current": row["id"] == caller["session_id"]} for row in found.items])


def address() -> str | None:
    """Return the address that the current request comes from; None if what a proxy says of it is none."""
    found = ip(request.remote_addr or "")
    return str(found) if found else None


def device() -> str | None:
    """Return the User-Agent of the current request: one line, with nothing in it that cannot be seen; None without."""
    said = request.headers.get("User-Agent", "")[: 4 * CHARACTERS]  # of UTF-8, which takes up to four bytes
    text = said.encode("latin1", "replace").decode(errors="replace")  # PEP 3333
    seen = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(seen.split())[:CHARACTERS] or None
