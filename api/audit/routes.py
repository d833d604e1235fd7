"""The audit trail over HTTP."""

import threading
from typing import Any

from sqlalchemy import Connection

from api.audit import queries, verify
from api.audit.schemas import TrailOut, TrailQuery, VerdictOut, VerifyQuery
from api.errors import Unavailable
from api.web import Resource

VERIFY_SECONDS = 20.0  # a longer trail is checked in several requests
ONE_AT_A_TIME = threading.Lock()  # in a process: each takes what time the others leave

audit = Resource("audit", __name__)


@audit.get("/audit", query=TrailQuery(), returns=TrailOut(), allow="audit:read")
def index(conn: Connection, query: dict[str, Any]) -> Any:
    """List who changed what, the newest first."""
    return queries.page(conn, **query)


@audit.get("/audit/verify", query=VerifyQuery(), returns=VerdictOut(), allow="audit:read", transaction=False)
def check(query: dict[str, Any]) -> Any:
    """Check that nobody changed, removed or put in an entry, and name the first one."""
    if not ONE_AT_A_TIME.acquire(blocking=False):
        raise Unavailable("Somebody else has the trail checked at this moment. Try again later.", retry_after=5)
    try:
        return verify.verify(query["after"], seconds=VERIFY_SECONDS)
    finally:
        ONE_AT_A_TIME.release()
