"""Sessions and their refresh tokens: opaque, kept as hashes, spent once.

Each refresh spends a token and gives its successor. A client whose answer got lost asks again within the grace and gets
the same successor, which is computed from the spent token, so that nothing readable is kept. A spent token that comes
later was stolen, or the successor was: the session ends. (RFC 9700, 4.14.2; docs/decisions/0005-refresh-tokens.md)
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from contextlib import suppress
from typing import Any

from flask import current_app, has_request_context
from sqlalchemy import Connection, bindparam, insert, or_, select, update

from api import audit_trail, db
from api.auth import accounts, devices, mails
from api.auth.schemas import SessionOut
from api.errors import Invalid, Unauthenticated
from api.settings import Settings
from api.statements import Row, Statement, expired
from api.tables import refresh_tokens, sessions, users
from api.web import access_token, actor, for_audit, record, rfc3339

BATCH = 500  # sessions that are removed in one transaction
TWICE = "a refresh token was used twice"

FIND = Statement(
    select(
        refresh_tokens.c.hash,
        refresh_tokens.c.spent_at,
        sessions.c.id.label("session_id"),
        sessions.c.user_id,
        sessions.c.ended_at,
        sessions.c.expires_at,
        sessions.c.absolute_expires_at,
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
SEE = Statement(
    update(sessions)
    .where(sessions.c.id == bindparam("session"))
    .values(
        expires_at=bindparam("until"),
        last_seen_at=bindparam("now"),
        address=bindparam("seen_address"),
        device=bindparam("seen_device"),
    )
)
END = Statement(
    update(sessions)
    .where(
        sessions.c.id == bindparam("session"),
        sessions.c.user_id == bindparam("user"),
        sessions.c.ended_at.is_(None),
    )
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
    until = _until(now, absolute)
    opened = {
        "id": session_id,
        "user_id": user_id,
        "created_at": now,
        "expires_at": until,
        "absolute_expires_at": absolute,
        "last_seen_at": now,
        "address": devices.address(),
        "device": devices.device(),
        "ended_at": None,
    }
    OPEN.run(conn, **opened)
    for_audit(after=opened, actor_id=user_id)
    _keep(conn, token, session_id)
    return _pair(user_id, session_id, token, until - now)


def rotate(conn: Connection, token: str) -> dict[str, Any] | None:
    """Spend a refresh token and return what a refresh answers, or None if that ended the session: it was spent before.

    Raises Unauthenticated if the token is unknown, or its session over.
    """
    found, now = FIND.first(conn, token_hash=_hash(token)), db.now()
    if found is None or found["ended_at"] or found["expires_at"] <= now or not found["active"]:
        raise Unauthenticated("The refresh token is not good any more. Sign in again.", reason="invalid_token")
    successor = _spent(conn, token, found, now)
    if successor is None:
        _end_stolen(conn, found)
        return None
    until = _until(now, found["absolute_expires_at"])
    seen = {"seen_address": devices.address(), "seen_device": devices.device()}
    SEE.run(conn, session=found["session_id"], now=now, until=until, **seen)
    return _pair(found["user_id"], found["session_id"], successor, until - now)


def end_session(conn: Connection, user_id: str, session_id: str) -> Row | None:
    """Sign out a session of a user's, on every replica at once: guard reads it on each request.

    Return its row, if it was open. Its audit entry is the caller's to make.
    """
    return END.first(conn, session=session_id, user=user_id, now=db.now())


def end_other_sessions(conn: Connection, user_id: str, keep: str | None = None) -> list[Row]:
    """Sign a user out everywhere but in one session, each with its audit entry. Return the rows of the ended ones."""
    ended = END_OTHERS.all(conn, user=user_id, keep=keep, now=db.now())
    for row in ended:
        _record_end(conn, row)
    return ended


def sweep(conn: Connection) -> int:
    """Remove some sessions that have run out, and return how many: to be called again until there are none."""
    return SWEEP.run(conn, before=db.now(), batch=BATCH)


def _spent(conn: Connection, token: str, found: Row, now: int) -> str | None:
    """Spend a token and return its successor; of one that was spent before, the same, if that is still in order."""
    possible = [_successor(token, secret) for secret in _settings().jwt_secrets]
    if SPEND.run(conn, token_hash=found["hash"], now=now):
        _keep(conn, possible[0], found["session_id"])
        return possible[0]
    grace = _settings().refresh_token_grace * 1000
    if grace == 0 or now - found["spent_at"] >= grace:
        return None
    # It may have been spent under the key before this one.
    return next((one for one in possible if UNSPENT.first(conn, token_hash=_hash(one))), None)


def _end_stolen(conn: Connection, found: Row) -> None:
    """End a session one of whose tokens somebody else has too, and tell its owner: nobody knows which of them asks."""
    ended = end_session(conn, found["user_id"], found["session_id"])
    user = accounts.get(conn, found["user_id"])
    if ended is None or user is None:
        return
    _record_end(conn, ended, reason=TWICE)
    with suppress(Invalid):  # an address that no mail can go to saves no thief
        mails.warn(
            conn,
            user,
            "A session of yours was ended",
            f"Your session that began at {rfc3339(ended['created_at'])} was ended, because {TWICE}. That happens when "
            "somebody has a copy of it; it can also happen when a device was restored from a backup.",
        )


def _record_end(conn: Connection, row: Row, **more: str) -> None:
    shape = SessionOut().dump
    change = {"before": shape(row | {"ended_at": None}), "after": shape(row) | more}
    if has_request_context():
        record(conn, "session.ended", row["id"], actor_id=actor() or row["user_id"], **change)
    else:  # a command's doing
        audit_trail.append(conn, "session.ended", row["id"], **change)


def _until(now: int, absolute: int) -> int:
    """Return when a session that was used now expires unless it is used again: at the latest when it must."""
    return min(now + _settings().refresh_token_ttl * 1000, absolute)


def _pair(user_id: str, session_id: str, refresh_token: str, good_for: int) -> dict[str, Any]:
    return {
        "access_token": access_token(user_id, session_id),
        "token_type": "Bearer",
        "expires_in": _settings().access_token_ttl,
        "refresh_token": refresh_token,
        "refresh_expires_in": good_for // 1000,
    }


def _keep(conn: Connection, token: str, session_id: str) -> None:
    KEEP.run(conn, hash=_hash(token), session_id=session_id, created_at=db.now(), spent_at=None)


def _hash(token: str) -> str:
    """A token has 256 random bits: no salt and no slow hash needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def _successor(token: str, secret: str) -> str:
    digest = hmac.digest(secret.encode(), b"refresh-token-successor:" + token.encode(), "sha256")
    return urlsafe_b64encode(digest).decode().rstrip("=")


def _settings() -> Settings:
    found: Settings = current_app.extensions["settings"]
    return found
