"""Closes what an account has open, when its password changes or somebody shuts it: nothing from before lets one in."""

from sqlalchemy import Connection, bindparam, delete

from api.auth import links, tokens
from api.statements import Row, Statement
from api.tables import api_keys
from api.web import actor, record

REMOVE_KEYS = Statement(delete(api_keys).where(api_keys.c.user_id == bindparam("user")).returning(api_keys))


def close(conn: Connection, user: Row, *, keep: str | None = None, keys: bool) -> None:
    """End a user's sessions but one, and his links; `keys`: his API keys too. `user` is his row as it was.

    The address to be goes with its link: whoever had the account for a moment may have named it. To forget that name
    too (`new_email`) is for who changes the row.
    """
    tokens.end_other_sessions(conn, user["id"], keep)
    links.forget(conn, user["id"], links.RESET, links.INVITATION)
    if user["new_email"]:
        links.forget(conn, user["id"], links.CONFIRMATION)
    for key in REMOVE_KEYS.all(conn, user=user["id"]) if keys else ():
        record(conn, "api_key.removed", key["id"], actor_id=actor(), before={"user_id": user["id"]})
