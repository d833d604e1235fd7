"""Removes what has expired, in small steps between other writes, from the process that supervises the others.

Every replica does it: who comes second finds nothing left to do.
"""

import logging
import threading
from collections.abc import Callable

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from api import sqlite
from api.db import Database
from api.errors import Unavailable
from api.group_commit import Change
from api.jobs import outbox, webhooks
from api.settings import Settings
from api.web import sweep_idempotency_keys

EVERY_SECONDS = 60.0
PAUSE_SECONDS = 0.05  # between two steps: each holds the write lock for some milliseconds

SWEEPS = {"idempotency_keys": sweep_idempotency_keys, "webhook_ids": webhooks.sweep}

log = logging.getLogger(__name__)


def keep_swept(settings: Settings, stop: threading.Event) -> None:
    """Sweep until `stop` is set."""
    database = Database(settings.database)
    try:
        while not stop.wait(EVERY_SECONDS):
            _sweep(database, stop)
            _sweep_outbox(settings)
    finally:
        database.close()


def _sweep(database: Database, stop: threading.Event) -> None:
    removed = dict.fromkeys(SWEEPS, 0)
    try:
        for name, sweep in SWEEPS.items():
            while step := _step(database, sweep):
                removed[name] += step
                if stop.wait(PAUSE_SECONDS):
                    return
    except (Unavailable, DBAPIError, sqlite.driver.Error) as error:  # busy or full: in a minute it is tried again
        log.warning("sweep failed", extra={"reason": str(error)})
    log.debug("sweep", extra=removed)


def _sweep_outbox(settings: Settings) -> None:
    try:
        removed = outbox.sweep(settings.instance_path)
    except OSError as error:
        log.warning("sweep failed", extra={"reason": str(error)})
    else:
        log.debug("sweep", extra={"mails": removed})


def _step(database: Database, sweep: Callable[[Connection], int]) -> int:
    """Remove some of what has expired, and return how much."""
    with Change(database.writer()) as conn:
        return sweep(conn)
