"""Vendors as the database sees them. Every function takes a connection first."""

from sqlalchemy import Connection, bindparam, select

from api.statements import Row, Statement
from api.tables import vendors

NAMES = Statement(select(vendors.c.name).where(vendors.c.active).order_by(vendors.c.name).limit(50))
BY_NAME = Statement(select(vendors).where(vendors.c.name == bindparam("its_name")))


def names(conn: Connection) -> list[str]:
    """Return the names of the vendors that take jobs, the first 50 of them."""
    return [row["name"] for row in NAMES.all(conn)]


def by_name(conn: Connection, name: str) -> Row | None:
    """Return the row of a vendor, or None."""
    return BY_NAME.first(conn, its_name=name)
