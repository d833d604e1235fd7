"""API keys as Bearer: whose one is, and when it was used last.

A key has 256 random bits, so that its hash needs no salt and no slow function. Whether it is still good is asked of the
database on each request, and what it may do then is the guard's question.
"""

import hashlib
import logging
import time
from collections import OrderedDict

import gevent
from sqlalchemy import bindparam, or_, select, update

from api import db, sqlite
from api.group_commit import Change
from api.statements import Row, Statement
from api.tables import api_keys, users

PREFIX = "walnut_"  # finds one that was published by mistake, and tells it from an access token
USED_SECONDS = 60  # `last_used_at` is that exact: a commit for each request would be dear
MANY = 10_000

LIVES = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > bindparam("now"))
KNOWN = Statement(
    select(api_keys.c.id, api_keys.c.user_id, api_keys.c.expires_at)
    .select_from(api_keys.join(users))
    .where(api_keys.c.hash == bindparam("key_hash"), users.c.active, LIVES)
)
USED = Statement(
    update(api_keys)
    .where(
        api_keys.c.id == bindparam("key_id"),
        or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= bindparam("before")),
    )
    .values(last_used_at=bindparam("now"))
)

log = logging.getLogger(__name__)

_noted: OrderedDict[str, float] = OrderedDict()  # when this process last tried to keep that one was used


def api_key_hash(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def known(key: str) -> Row | None:
    """Return id, user_id and expires_at of a key that is good at this moment, and whose owner is active; or None."""
    with db.reading(snapshot=False) as conn:
        return sqlite.patiently(lambda: KNOWN.first(conn, key_hash=api_key_hash(key), now=db.now()))


def used(database: db.Database, caller: Row) -> None:
    """Let it be kept, soon, that a key is in use: `caller` as guard finds one by a key.

    Once a minute at the most, and beside the request, which must neither wait for it nor fail with it.
    """
    key_id, last, now = caller["session_id"], caller["last_used_at"], time.monotonic()
    if last is not None and db.now() - last < USED_SECONDS * 1000:
        return
    if now - _noted.get(key_id, -USED_SECONDS) < USED_SECONDS:
        return
    _noted[key_id] = now
    if len(_noted) > MANY:
        _noted.popitem(last=False)
    gevent.spawn(_keep, database, key_id)


def _keep(database: db.Database, key_id: str) -> None:
    now = db.now()
    try:
        with Change(database.writer()) as conn:
            USED.run(conn, key_id=key_id, now=now, before=now - USED_SECONDS * 1000)
    except Exception as fault:  # noqa: BLE001 (a full disk, a busy database: the next minute's use is as good)
        log.info("not kept when an API key was used: %s", fault)
