"""API keys as the database sees them. Every function takes a connection first."""

from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from api import db
from api.errors import Conflict
from api.statements import Row, Statement
from api.tables import api_keys
from api.web import Listing, api_key_hash

MOST = 50  # of a user
HINT = 12  # characters: the prefix, and 30 bits of 256

KEYS = Listing(
    api_keys,
    {"user_id": api_keys.c.user_id == bindparam("user_id")},
    columns=[column for column in api_keys.columns if column.name != "hash"],
)
COUNT = Statement(select(func.count()).where(api_keys.c.user_id == bindparam("owner")))
CREATE = Statement(insert(api_keys).returning(api_keys))
REMOVE = Statement(
    delete(api_keys)
    .where(api_keys.c.id == bindparam("key_id"), api_keys.c.user_id == bindparam("owner"))
    .returning(api_keys)
)
REMOVE_EXPIRED = Statement(
    delete(api_keys).where(api_keys.c.user_id == bindparam("owner"), api_keys.c.expires_at <= bindparam("now"))
)


def find(conn: Connection, user_id: str, **query: Any) -> Any:
    """Return the part of a user's list that a query asks for."""
    return KEYS.read(conn, user_id=user_id, **query)


def create(conn: Connection, user_id: str, key: str, values: Row) -> Row:
    """Keep what is to be kept of a new key, and return its row. Raises Conflict if its owner has too many."""
    _make_room(conn, user_id)
    own = {"id": db.new_id(), "user_id": user_id, "hash": api_key_hash(key), "hint": key[:HINT]}
    return CREATE.one(conn, **values, **own, created_at=db.now(), last_used_at=None)


def remove(conn: Connection, user_id: str, key_id: str) -> Row | None:
    """Revoke a key of a user: nobody gets in with it from now on. Return its row, or None if he has none such."""
    return REMOVE.first(conn, key_id=key_id, owner=user_id)


def _make_room(conn: Connection, user_id: str) -> None:
    """Let those that have expired stay in the list until their places are needed."""
    if COUNT.value(conn, owner=user_id) < MOST:
        return
    REMOVE_EXPIRED.run(conn, owner=user_id, now=db.now())
    if COUNT.value(conn, owner=user_id) >= MOST:
        raise Conflict(f"You have {MOST} API keys. Remove one first: DELETE /api/v1/auth/api-keys/ID.")
