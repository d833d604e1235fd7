"""Vendors as the database sees them. Every function takes a connection first."""

from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select, update

from api import db
from api.errors import Conflict
from api.secret_box import SecretBox
from api.statements import Row, Statement
from api.tables import job_counts, lanes, vendors
from api.vendors import keys
from api.web import Listing

VENDORS = Listing(vendors, {})
NAMES = Statement(select(vendors.c.name).where(vendors.c.active).order_by(vendors.c.name).limit(50))
BY_NAME = Statement(select(vendors).where(vendors.c.name == bindparam("its_name")))
ALL = Statement(select(vendors).order_by(vendors.c.name))
CREATE = Statement(insert(vendors).returning(vendors))
REMOVE = Statement(delete(vendors).where(vendors.c.id == bindparam("vendor_id")))
CLOSED = Statement(select(lanes.c.closed_until).where(lanes.c.name == bindparam("lane")))
FORGIVE = Statement(update(lanes).where(lanes.c.name == bindparam("lane")).values(failures=0, closed_until=0))
FORGET_LANE = Statement(delete(lanes).where(lanes.c.name == bindparam("lane")))
RESEAL = Statement(
    update(vendors).where(vendors.c.id == bindparam("vendor_id")).values(secrets=bindparam("new_secrets"))
)
OPEN_JOBS = Statement(
    select(func.sum(job_counts.c.n)).where(
        job_counts.c.lane == bindparam("its_lane"),
        job_counts.c.status.in_([literal_column("'pending'"), literal_column("'processing'")]),
    )
)


def find(conn: Connection, **query: Any) -> Any:
    """Return the part of the list that a query asks for, in its order."""
    return VENDORS.read(conn, **query)


def all_of_them(conn: Connection) -> list[Row]:
    """Return every vendor, by name."""
    return ALL.all(conn)


def names(conn: Connection) -> list[str]:
    """Return the names of the vendors that take jobs, the first 50 of them."""
    return [row["name"] for row in NAMES.all(conn)]


def by_name(conn: Connection, name: str) -> Row | None:
    """Return the row of a vendor, or None."""
    return BY_NAME.first(conn, its_name=name)


def with_state(conn: Connection, vendor: Row) -> Row:
    """Return the row of a vendor, and until when it is left alone because it failed: `paused_until`, or None."""
    until = CLOSED.value(conn, lane=vendor["name"]) or 0
    return vendor | {"paused_until": until if until > db.now() else None}


def create(conn: Connection, values: Row, key: str, box: SecretBox) -> Row:
    """Add a vendor with its first key and return its row. Raises Conflict if the name is taken."""
    if by_name(conn, values["name"]):
        raise Conflict(
            f"There is a vendor {values['name']} already.", fields=[("/name", "Is taken. Choose another one.")]
        )
    now = db.now()
    own = {"id": db.new_id(), "secrets": keys.kept(key, box), "created_at": now, "updated_at": now, "version": 1}
    return CREATE.one(conn, **values, **own)


def change(conn: Connection, vendor: Row, values: Row) -> Row:
    """Change terms of a vendor and return its new row."""
    if "url" in values:  # what the old one was blamed for is not the new one's fault
        forget_failures(conn, vendor)
    changed = {f"new_{name}": value for name, value in values.items()}
    return _change(frozenset(values)).one(conn, **changed, vendor_id=vendor["id"], now=db.now())


def forget_failures(conn: Connection, vendor: Row) -> None:
    """Let a vendor that was left alone because it failed be called again, within its limit as before."""
    FORGIVE.run(conn, lane=vendor["name"])


def rotate(conn: Connection, vendor: Row, key: str) -> Row:
    """Give a vendor a new key and return its new row: the keys before are good for a while longer. Raises Invalid."""
    return change(conn, vendor, {"secrets": keys.rotated(vendor, key, db.now())})


def remove(conn: Connection, vendor: Row) -> None:
    """Delete a vendor, and what its lane has counted. Raises Conflict while there are jobs for it."""
    if count := OPEN_JOBS.value(conn, its_lane=vendor["name"]):
        jobs = "1 job waits or is under way" if count == 1 else f"{count} jobs wait or are under way"
        raise Conflict(
            f"{jobs} for {vendor['name']}. Cancel what is not wanted and wait for the rest; "
            "or change the vendor to active: false, and it is called no more."
        )
    REMOVE.run(conn, vendor_id=vendor["id"])
    FORGET_LANE.run(conn, lane=vendor["name"])


def rekey(conn: Connection, box: SecretBox) -> int:
    """Encrypt the keys of every vendor anew, under the newest key there is. Return how many. Raises Unreadable."""
    found = all_of_them(conn)
    for vendor in found:
        RESEAL.run(conn, vendor_id=vendor["id"], new_secrets=box.reseal(vendor["secrets"]))
    return len(found)


@lru_cache(maxsize=512)
def _change(columns: frozenset[str]) -> Statement:
    new: dict[str, Any] = {name: bindparam(f"new_{name}", type_=vendors.c[name].type) for name in sorted(columns)}
    new |= {"updated_at": bindparam("now"), "version": vendors.c.version + 1}
    return Statement(update(vendors).where(vendors.c.id == bindparam("vendor_id")).values(new).returning(vendors))
