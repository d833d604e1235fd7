"""Vendors as the database sees them. Every function takes a connection first."""

from sqlalchemy import Connection, bindparam, select

from api.statements import Row, Statement
from api.tables import vendors

BY_NAME = Statement(select(vendors).where(vendors.c.name == bindparam("its_name")))


def by_name(conn: Connection, name: str) -> Row | None:
    """Return the row of a vendor, or None."""
    return BY_NAME.first(conn, its_name=name)
