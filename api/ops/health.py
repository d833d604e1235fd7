"""How this server is, for people, monitors and load balancers."""

import resource
import sys
import time
from pathlib import Path
from typing import Any

from flask import current_app

from api import db, sqlite
from api.errors import Unavailable
from api.group_commit import GONE
from api.store import store
from api.version import __version__

STARTED = time.monotonic()
STATM = Path("/proc/self/statm")


def summary() -> dict[str, Any]:
    """Return how everything is. Redis only degrades: without it Walnut is slower, not wrong."""
    cache = redis()
    return {
        "status": "degraded" if cache["status"] == "down" or not sqlite.is_safe() else "ok",
        "version": __version__,
        "uptime_seconds": int(time.monotonic() - STARTED),
        "database": database(),
        "redis": cache,
        "memory": {"resident_bytes": resident_bytes()},
    }


def database() -> dict[str, Any]:
    """Return how the database is: whoever calls has read from it already. Raises Unavailable if its file is gone."""
    refuse_without_file()
    return {"status": "ok", "engine": f"SQLite {sqlite.VERSION}", "safe": sqlite.is_safe()}


def refuse_without_file() -> None:
    """Raise Unavailable if the database file was removed or replaced: this process would go on with the old one."""
    if not db.database().writer().in_place():
        raise Unavailable(GONE)


def redis() -> dict[str, Any]:
    """Return how Redis is: "off" when there is to be none."""
    if not store().configured:
        return {"status": "off"}
    return {"status": "ok" if store().alive() else "down"}


def refuse_when_draining() -> None:
    """Raise Unavailable once this process has been told to end, so that a load balancer looks elsewhere."""
    if current_app.extensions.get("draining", bool)():
        raise Unavailable("This server is about to end.", retry_after=5)


def resident_bytes() -> int:
    """Return the memory of this process. Where the kernel does not say, the most it ever had."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
