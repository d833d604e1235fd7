"""Health over HTTP, under /api/vN and at the root."""

from typing import Any

from sqlalchemy import Connection

from api.ops import health
from api.ops.schemas import DatabaseOut, HealthOut, PartOut
from api.web import PUBLIC, Resource

ops = Resource("ops", __name__)


@ops.get("/health", returns=HealthOut(), allow=PUBLIC, limit=None, storable=False)
def show(conn: Connection) -> Any:  # noqa: ARG001 (a snapshot was taken: the database answers)
    """Show how this server is."""
    return health.summary()


@ops.get("/health/db", returns=DatabaseOut(), allow=PUBLIC, limit=None, storable=False)
def database(conn: Connection) -> Any:  # noqa: ARG001 (a snapshot was taken: the database answers)
    """Show how the database is."""
    return health.database()


@ops.get("/health/redis", returns=PartOut(), allow=PUBLIC, limit=None, storable=False, transaction=False)
def redis() -> Any:
    """Show how Redis is."""
    return health.redis()


@ops.get("/health/live", returns=PartOut(), allow=PUBLIC, limit=None, storable=False, transaction=False)
def live() -> Any:
    """Say that this process answers. Touches nothing else: to restart it would not mend a database."""
    return {"status": "ok"}


@ops.get("/health/ready", returns=PartOut(), allow=PUBLIC, limit=None, storable=False)
def ready(conn: Connection) -> Any:  # noqa: ARG001 (a snapshot was taken: the database answers)
    """Say whether to send requests here: the database answers, and this process is not about to end."""
    health.refuse_when_draining()
    health.refuse_without_file()
    return {"status": "ok"}
