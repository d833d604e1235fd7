"""Sessions and their refresh tokens: opaque, kept as hashes, spent once.

Each refresh spends a token and gives its successor. A client whose answer got lost asks again within GRACE and gets
the same successor, which is computed from the spent token, so that nothing readable is kept. A spent token that comes
later was stolen, or the successor was: the session ends. (RFC 9700, 4.14.2; docs/decisions/0005-refresh-tokens.md)
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from typing import Any

from flask import current_app, request
from sqlalchemy import Connection, bindparam, insert, or_, select, update

from api import db
from api.errors import Unauthenticated
from api.settings import Settings
from api.statements import Row, Statement, expired
from api.tables import refresh_tokens, sessions, users
from api.web import access_token, actor, for_audit, record

GRACE = 10_000  # milliseconds

BATCH = 500  # sessions that are removed in one transaction

FIND = Statement(
    select(
        refresh_tokens.c.hash,
        refresh_tokens.c.spent_at,
        sessions.c.id.label("session_id"),
        sessions.c.user_id,
        sessions.c.ended_at,
        sessions.c.expires_at,
        users.c.active,
    )
    .select_from(refresh_tokens.join(sessions).join(users))
    .where(refresh_tokens.c.hash == bindparam("token_hash"))
)
SPEND = Statement(
    update(refresh_tokens)
    .where(refresh_tokens.c.hash == bindparam("token_hash"), refresh_tokens.c.spent_at.is_(None))
    .values(spent_at=bindparam("now"))
)
UNSPENT = Statement(
    select(refresh_tokens.c.hash).where(
        refresh_tokens.c.hash == bindparam("token_hash"), refresh_tokens.c.spent_at.is_(None)
    )
)
SWEEP = expired(sessions.c.id, sessions.c.expires_at)
KEEP = Statement(insert(refresh_tokens))
OPEN = Statement(insert(sessions))
END = Statement(
    update(sessions)
    .where(sessions.c.id == bindparam("session"), sessions.c.ended_at.is_(None))
    .values(ended_at=bindparam("now"))
    .returning(sessions)
)
END_ALL = Statement(
    update(sessions)
    .where(sessions.c.user_id == bindparam("user"), sessions.c.ended_at.is_(None))
    .values(ended_at=bindparam("now"))
    .returning(sessions)
)

END_OTHERS = Statement(
    update(sessions)
    .where(
        sessions.c.user_id == bindparam("user"),
        sessions.c.ended_at.is_(None),
        or_(bindparam("keep").is_(None), sessions.c.id != bindparam("keep")),
    )
    .values(ended_at=bindparam("now"))
    .returning(sessions)
)


def open_session(conn: Connection, user_id: str) -> dict[str, Any]:
    """Sign a user in and return what a login answers."""
    now, session_id, token = db.now(), db.new_id(), secrets.token_urlsafe(32)
    absolute = now + _settings().session_ttl * 1000
    opened = {
        "id": session_id,
        "user_id": user_id,
        "created_at": now,
        "expires_at": min(now + _settings().refresh_token_ttl * 1000, absolute),
        "absolute_expires_at": absolute,
        "last_seen_at": now,
        "address": request.remote_addr,
        "device": request.headers.get("User-Agent", "")[:200],
        "ended_at": None,
    }
    OPEN.run(conn, **opened)
    for_audit(after=opened, actor_id=user_id)
    _keep(conn, token, session_id)
    return _pair(user_id, session_id, token)


def rotate(conn: Connection, token: str) -> dict[str, Any] | None:
    """Spend a refresh token and return what a refresh answers, or None if that ended the session: it was spent before.

    Raises Unauthenticated if the token is unknown, or its session over.
    """
    found = FIND.first(conn, token_hash=_hash(token))
    now = db.now()
    if found is None or found["ended_at"] or found["expires_at"] <= now or not found["active"]:
        raise Unauthenticated("The refresh token is not good any more. Sign in again.", reason="invalid_token")
    successor = _successor(token)
    if SPEND.run(conn, token_hash=found["hash"], now=now):
        _keep(conn, successor, found["session_id"])
    elif now - found["spent_at"] > GRACE or not UNSPENT.first(conn, token_hash=_hash(successor)):
        end_session(conn, found["session_id"])
        record(conn, "session.ended", found["session_id"], after={"reason": "a refresh token was used twice"})
        return None
    return _pair(found["user_id"], found["session_id"], successor)


def end_session(conn: Connection, session_id: str) -> Row | None:
    """Sign a session out, on every replica at once: guard reads it on each request. Return its row, if it was open."""
    return END.first(conn, session=session_id, now=db.now())


def end_all_sessions(conn: Connection, user_id: str) -> list[Row]:
    """Sign a user out everywhere. Return the rows of the sessions that were open."""
    return END_ALL.all(conn, user=user_id, now=db.now())


def end_other_sessions(conn: Connection, user_id: str, keep: str | None = None) -> list[Row]:
    """Sign a user out everywhere but in one session, each with its audit entry. Return the rows of the ended ones."""
    ended = END_OTHERS.all(conn, user=user_id, keep=keep, now=db.now())
    for row in ended:
        record(conn, "session.ended", row["id"], actor_id=actor() or user_id, after={"user_id": user_id})
    return ended


def sweep(conn: Connection) -> int:
    """Remove some sessions that have run out, and return how many: to be called again until there are none."""
    return SWEEP.run(conn, before=db.now(), batch=BATCH)


def _pair(user_id: str, session_id: str, refresh_token: str) -> dict[str, Any]:
    return {
        "access_token": access_token(user_id, session_id),
        "token_type": "Bearer",
        "expires_in": _settings().access_token_ttl,
        "refresh_token": refresh_token,
    }


def _keep(conn: Connection, token: str, session_id: str) -> None:
    KEEP.run(conn, hash=_hash(token), session_id=session_id, created_at=db.now(), spent_at=None)


def _hash(token: str) -> str:
    """A token has 256 random bits: no salt and no slow hash needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def _successor(token: str) -> str:
    digest = hmac.digest(_settings().jwt_secret.encode(), b"refresh-token-successor:" + token.encode(), "sha256")
    return urlsafe_b64encode(digest).decode().rstrip("=")


def _settings() -> Settings:
    found: Settings = current_app.extensions["settings"]
    return found
