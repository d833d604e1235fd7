"""The two vendors to try the gateway with, which every database has unless MOCK_VENDORS says no."""

from sqlalchemy import Connection

from api.db import Database, Reading
from api.group_commit import Change
from api.secret_box import SecretBox
from api.settings import Settings
from api.statements import Row
from api.vendors import keys, queries
from api.vendors.schemas import MODES, VendorIn


def ensure(settings: Settings) -> None:
    """Add those that are missing, before anything is served. One that somebody has changed stays as it is."""
    if not settings.mock_vendors:
        return
    database, box = Database(settings.database), SecretBox(settings)
    try:
        with Reading(database, snapshot=False) as conn:
            if not missing(conn):
                return
        with Change(database.writer()) as conn:  # another replica may have come first, so it looks once more
            for mode in missing(conn):
                queries.create(conn, _terms(mode), keys.new(), box)
    finally:
        database.close()


def missing(conn: Connection) -> list[str]:
    """Return the names of those that are not there."""
    return [mode for mode in MODES if queries.by_name(conn, mode) is None]


def _terms(mode: str) -> Row:
    given = {"name": mode, "url": f"mock:{mode}", "mode": mode, "concurrency": 25, "callback_timeout": 60}
    terms: Row = VendorIn(exclude=["secret"]).load(given)
    return terms
