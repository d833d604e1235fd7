"""Removes what has expired, in small steps between other writes, from one supervising process of the host."""

import logging
import threading
from collections.abc import Callable

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from api import db, sqlite
from api.auth import links, tokens
from api.db import Database, Reading
from api.errors import Unavailable
from api.group_commit import Change
from api.jobs import outbox, queue, webhooks
from api.lease import Lease
from api.settings import Settings
from api.web import sweep_idempotency_keys

EVERY_SECONDS = 60.0
PAUSE_SECONDS = 0.05  # between two steps: each holds the write lock for some milliseconds

Sweep = Callable[[Connection], int]  # removes some, and returns how many

log = logging.getLogger(__name__)


def keep_swept(settings: Settings, stop: threading.Event) -> None:
    """Sweep until `stop` is set."""
    database = Database(settings.database)
    lease = Lease(database.path.with_name(f"{database.path.name}-sweeper"))
    try:
        while not stop.wait(EVERY_SECONDS):
            if lease.held():
                _sweep(database, sweeps(settings), stop)
                _sweep_outbox(settings, database)
    finally:
        lease.close()
        database.close()


def sweeps(settings: Settings) -> dict[str, Sweep]:
    """Return what is to be removed, by name."""
    return {
        "idempotency_keys": sweep_idempotency_keys,
        "webhook_ids": webhooks.sweep,
        "sessions": tokens.sweep,
        "one_time_tokens": links.sweep,
        "jobs": lambda conn: queue.sweep(conn, db.now() - settings.job_retention * 1000),
    }


def _sweep(database: Database, expired: dict[str, Sweep], stop: threading.Event) -> None:
    removed = dict.fromkeys(expired, 0)
    try:
        for name, sweep in expired.items():
            while step := _step(database, sweep):
                removed[name] += step
                if stop.wait(PAUSE_SECONDS):
                    return
    except (Unavailable, DBAPIError, sqlite.driver.Error) as error:  # busy or full: in a minute it is tried again
        log.warning("sweep failed", extra={"reason": str(error)})
    log.debug("sweep", extra=removed)


def _sweep_outbox(settings: Settings, database: Database) -> None:
    def there(job_ids: list[str]) -> set[str]:
        with Reading(database, snapshot=False) as conn:
            return queue.there(conn, job_ids)

    try:
        removed = outbox.sweep(settings.instance_path, there)
    except (OSError, Unavailable, DBAPIError, sqlite.driver.Error) as error:
        log.warning("sweep failed", extra={"reason": str(error)})
    else:
        log.debug("sweep", extra={"mails": removed})


def _step(database: Database, sweep: Sweep) -> int:
    """Remove some of what has expired, and return how much."""
    with Change(database.writer()) as conn:
        return sweep(conn)
