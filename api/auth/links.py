"""What mails carry in their links: tokens of 256 random bits, kept as hashes, good once and not for long.

The token stands behind the `#` of the link, which browsers keep to themselves: no server's log has it. The page it
opens asks before it does anything, so that a mail scanner that follows links changes nothing.
"""

import hashlib
import secrets

from flask import current_app
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from api import db
from api.errors import NotFound
from api.settings import Settings
from api.statements import Row, Statement, expired
from api.tables import one_time_tokens

CONFIRMATION, RESET, INVITATION = "confirmation", "reset", "invitation"
HOUR = 3600_000  # milliseconds
LIFETIME = {CONFIRMATION: 72 * HOUR, RESET: HOUR, INVITATION: 72 * HOUR}
PAGES = {CONFIRMATION: "confirm-email.html", RESET: "reset-password.html", INVITATION: "reset-password.html"}
BATCH = 500
NO_LONGER = "This link is not good any more: it was used, or it is too old. Ask for a new one."

KEEP = Statement(insert(one_time_tokens))
TAKE = Statement(
    delete(one_time_tokens)
    .where(one_time_tokens.c.hash == bindparam("token_hash"), one_time_tokens.c.expires_at > bindparam("now"))
    .returning(one_time_tokens)
)
LOOK = Statement(
    select(one_time_tokens).where(
        one_time_tokens.c.hash == bindparam("token_hash"), one_time_tokens.c.expires_at > bindparam("now")
    )
)
FORGET = Statement(
    delete(one_time_tokens).where(
        one_time_tokens.c.user_id == bindparam("user"), one_time_tokens.c.purpose == bindparam("what_for")
    )
)
SINCE = Statement(
    select(func.count()).where(
        one_time_tokens.c.user_id == bindparam("user"),
        one_time_tokens.c.purpose == bindparam("what_for"),
        one_time_tokens.c.created_at > bindparam("since"),
    )
)
SWEEP = expired(one_time_tokens.c.hash, one_time_tokens.c.expires_at)


def make(conn: Connection, user: Row, purpose: str, email: str | None = None) -> str:
    """Keep a new token for a user and return the link that carries it. `email` is where it goes, if not to his own."""
    token, now = secrets.token_urlsafe(32), db.now()
    KEEP.run(
        conn,
        hash=_hash(token),
        user_id=user["id"],
        purpose=purpose,
        email=email or user["email"],
        created_at=now,
        expires_at=now + LIFETIME[purpose],
    )
    return f"{public_url()}/static/{PAGES[purpose]}#{token}"


def look(conn: Connection, token: str, *purposes: str) -> Row:
    """Return the row of a token: user_id, purpose, email. Raises NotFound if it is none, used, or expired."""
    return _good(LOOK.first(conn, token_hash=_hash(token), now=db.now()), purposes)


def take(conn: Connection, token: str, *purposes: str) -> Row:
    """Use a token up and return its row. As `look`."""
    return _good(TAKE.first(conn, token_hash=_hash(token), now=db.now()), purposes)


def forget(conn: Connection, user_id: str, *purposes: str) -> None:
    """Let a user's links of these kinds be good no longer."""
    for purpose in purposes:
        FORGET.run(conn, user=user_id, what_for=purpose)


def made_since(conn: Connection, user_id: str, purpose: str, since: int) -> int:
    """Return how many links of a kind a user was sent since a moment and has not used."""
    return int(SINCE.value(conn, user=user_id, what_for=purpose, since=since))


def sweep(conn: Connection) -> int:
    """Remove some that have run out, and return how many: to be called again until there are none."""
    return SWEEP.run(conn, before=db.now(), batch=BATCH)


def public_url() -> str:
    """Return how people reach this server."""
    settings: Settings = current_app.extensions["settings"]
    return settings.public_url.rstrip("/") or f"http://{settings.local_address}".replace("127.0.0.1", "localhost")


def _good(found: Row | None, purposes: tuple[str, ...]) -> Row:
    if found is None or found["purpose"] not in purposes:
        raise NotFound(NO_LONGER)
    return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
