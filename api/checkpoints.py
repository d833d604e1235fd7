"""Moves what the write-ahead log holds into the database file, from one process of the host, off the request path.

PASSIVE when the log has grown: waits for nobody. TRUNCATE when it is large and nobody is in the way, which gives the
disk space back. See https://sqlite.org/wal.html#ckpt and docs/decisions/0003-group-commit.md.
"""

import logging
import threading
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from api import sqlite
from api.lease import Lease
from api.settings import Settings
from api.sqlite import MEGABYTE

EVERY_SECONDS = 1.0
LOG_BYTES = 4 * MEGABYTE  # 1,000 pages
TRUNCATE_BYTES = 64 * MEGABYTE

log = logging.getLogger(__name__)


def keep_short(settings: Settings, stop: threading.Event) -> None:
    """Checkpoint until `stop` is set. One process of a host does it; the others stand by, should that one die."""
    engine = sqlite.engine(settings.database)
    path = Path(engine.url.database or "").absolute()
    lease = Lease(path.with_name(path.name + "-checkpointer"))
    try:
        while not stop.wait(EVERY_SECONDS):
            if lease.held():
                _checkpoint(engine, path.with_name(path.name + "-wal"))
    finally:
        lease.close()
        engine.dispose()


def _checkpoint(engine: Engine, wal: Path) -> None:
    size = wal.stat().st_size if wal.exists() else 0
    if size < LOG_BYTES:
        return
    mode = "TRUNCATE" if size > TRUNCATE_BYTES else "PASSIVE"
    try:
        with engine.connect() as conn:
            busy, pages, moved = conn.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()
    except DBAPIError as error:  # a full disk, say; the log stays as long as it is until the next try
        log.warning("checkpoint failed", extra={"reason": str(error.orig)})
    else:
        log.debug("checkpoint", extra={"mode": mode, "busy": busy, "wal_pages": pages, "moved_pages": moved})
