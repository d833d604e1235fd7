"""Jobs as those see them who asked for them. Every function takes a connection first."""

import dataclasses
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, func, literal_column, select

from api.jobs import outcomes
from api.jobs.kinds import VENDOR
from api.statements import Row, Statement
from api.tables import job_counts, job_history, jobs
from api.web import Listing

TIMELINE = 200  # events of a job that are shown, the last ones
LARGE = {"payload", "result"}  # columns that no list needs

FILTERS = {
    "status": jobs.c.status == bindparam("status"),
    "lane": jobs.c.lane == bindparam("lane"),
    "owner_id": jobs.c.owner_id == bindparam("owner_id"),
    "kind": jobs.c.kind == bindparam("kind"),
}
JOBS = Listing(jobs, FILTERS, key="seq", columns=[column for column in jobs.columns if column.name not in LARGE])
EVENTS = Statement(
    select(job_history)
    .where(job_history.c.job_seq == bindparam("number"))
    .order_by(job_history.c.seq.desc())
    .limit(bindparam("most"))
)
OF_A_VENDOR = func.substr(job_counts.c.lane, 1, 1) != literal_column("':'")  # with which other kinds' lanes begin


def find(conn: Connection, owner_id: str | None, query: dict[str, Any]) -> Any:
    """Return the part of the list that a query asks for, and the counts: of one owner's jobs for vendors, or of all."""
    lane = query.pop("vendor_type", None)
    counted = counts(conn, owner_id, lane)
    of = {"owner_id": owner_id, "kind": VENDOR} if owner_id else {}
    wanted = of | ({"lane": lane} if lane else {})
    query["sort"] = query["sort"].replace("created_at", "seq")  # the same order, and a quicker one
    total = counted[query["status"]] if "status" in query else sum(counted.values())
    part = JOBS.read(conn, **query, **wanted, total=lambda: total)
    return dataclasses.replace(part, items=[described(row) for row in part.items], beside={"counts": counted})


def counts(conn: Connection, owner_id: str | None, lane: str | None = None) -> dict[str, int]:
    """Return how many jobs there are of each status: one owner's for vendors, or all; of one lane, or any."""
    given = {"owner": owner_id, "its_lane": lane}
    found = _counts(owner_id is not None, lane is not None).all(
        conn, **{name: value for name, value in given.items() if value is not None}
    )
    return dict.fromkeys(outcomes.STATUSES, 0) | {row["status"]: row["n"] for row in found}


def show(conn: Connection, row: Row) -> Row:
    """Return a job as the wire sees it, with what happened to it."""
    events = EVENTS.all(conn, number=row["seq"], most=TIMELINE)
    payload = row["payload"] if row["kind"] == VENDOR else None  # nobody is to read a mail here
    return described(row) | {"vendor_payload": payload, "timeline": events[::-1]}


def described(row: Row) -> Row:
    """Return the row of a job with the names that people know."""
    return row | {"request_id": row["id"], "vendor_type": row["lane"] if row["kind"] == VENDOR else None}


@lru_cache(maxsize=4)
def _counts(of_one: bool, in_lane: bool) -> Statement:
    found = select(job_counts.c.status, func.sum(job_counts.c.n).label("n")).group_by(job_counts.c.status)
    if of_one:
        found = found.where(job_counts.c.owner_id == bindparam("owner"), OF_A_VENDOR)
    return Statement(found.where(job_counts.c.lane == bindparam("its_lane")) if in_lane else found)
