"""What happened since: read from the two logs that every change is written into, in its own commit.

Both are numbered in the order of their commits, so a pair of numbers says exactly what somebody has heard of, on
whatever replica. docs/decisions/0018-events.md says why there is no third log.
"""

import heapq
import re
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, func, literal_column, select, text

from api.jobs.kinds import VENDOR
from api.statements import Row, Statement
from api.tables import audit_entries, job_history, jobs
from api.web import rfc3339

POSITION = r"^[0-9]{1,18}-[0-9]{1,18}$"
STATUS = {  # of a job from an event of its history on. What is not here changes none, and is told by GET /jobs/{id}
    "created": "pending",
    "claimed": "processing",
    "accepted": "processing",
    "retry": "pending",
    "given back": "pending",
    "retried": "pending",
    "complete": "complete",
    "failed": "failed",
    "cancelled": "cancelled",
}

DATA_VERSION = Statement(text("PRAGMA data_version"))
LAST = Statement(
    select(
        select(func.coalesce(func.max(audit_entries.c.seq), 0)).scalar_subquery().label("audit"),
        select(func.coalesce(func.max(job_history.c.seq), 0)).scalar_subquery().label("jobs"),
    )
)
TASKS = Statement(
    select(audit_entries.c.seq, audit_entries.c.at, audit_entries.c.action, audit_entries.c.subject_id)
    .where(
        audit_entries.c.seq > bindparam("after"),
        audit_entries.c.seq <= bindparam("until"),
        func.substr(audit_entries.c.action, 1, 5) == literal_column("'task.'"),
    )
    .order_by(audit_entries.c.seq)
    .limit(bindparam("most"))
)
JOBS = Statement(
    select(job_history.c.seq, job_history.c.at, job_history.c.event, jobs.c.id, jobs.c.owner_id, jobs.c.lane)
    .select_from(job_history.join(jobs))
    .where(
        job_history.c.seq > bindparam("after"),
        job_history.c.seq <= bindparam("until"),
        job_history.c.event.in_([literal_column(f"'{name}'") for name in STATUS]),
        jobs.c.kind == literal_column(f"'{VENDOR}'"),
    )
    .order_by(job_history.c.seq)
    .limit(bindparam("most"))
)
KEPT = Statement(
    select(func.count())
    .select_from(job_history)
    .where(job_history.c.seq > bindparam("after"), job_history.c.seq <= bindparam("until"))
)


class Position(NamedTuple):
    """How far somebody has heard: the number of an audit entry, and that of a line of the jobs' history."""

    audit: int
    jobs: int

    def __str__(self) -> str:
        return f"{self.audit}-{self.jobs}"

    def behind(self, other: "Position") -> int:
        """Return how many numbers of either log are missing, at the most; negative if this one is ahead in one."""
        missing = other.audit - self.audit, other.jobs - self.jobs
        return min(missing) if min(missing) < 0 else max(missing)


class Event(NamedTuple):
    """Something that happened. `position` is that of who has heard of it, and of all before it."""

    position: Position
    owner: str | None  # of the job; None: it was a task, or the job is nobody's
    is_task: bool
    text: bytes  # as it is sent


def parsed(position: str) -> Position | None:
    """Return a position that was written as `str` writes it; None if it is none."""
    if not re.fullmatch(POSITION, position):
        return None
    audit, _, told = position.partition("-")
    return Position(int(audit), int(told))


def data_version(conn: Connection) -> int:
    """Return a number that another connection's commit changes (https://sqlite.org/pragma.html#pragma_data_version).

    It asks the shared memory of the write-ahead log, and no page. A connection does not see its own commits in it.
    """
    return int(DATA_VERSION.value(conn))


def last(conn: Connection) -> Position:
    """Return the end of both logs."""
    return Position(**LAST.one(conn))


def is_whole(conn: Connection, after: Position, until: Position) -> bool:
    """Tell whether nothing was removed from between: jobs may be, with their history, and audit entries never are."""
    return bool(KEPT.value(conn, after=after.jobs, until=until.jobs) == until.jobs - after.jobs)


def between(conn: Connection, after: Position, until: Position, most: int) -> tuple[list[Event], Position]:
    """Return what happened after one position until another, up to so many of each log, and how far that is."""
    entries = TASKS.all(conn, after=after.audit, until=until.audit, most=most)
    told = JOBS.all(conn, after=after.jobs, until=until.jobs, most=most)
    reached = Position(
        entries[-1]["seq"] if len(entries) == most else until.audit,
        told[-1]["seq"] if len(told) == most else until.jobs,
    )
    return list(_events(after, entries, told)), reached


def _events(here: Position, entries: list[Row], told: list[Row]) -> Iterator[Event]:
    """Yield what two logs tell, in the order of time as far as each log's own order leaves it."""
    for row in heapq.merge(entries, told, key=itemgetter("at")):
        if "action" in row:
            here = here._replace(audit=row["seq"])
            data = {"type": row["action"], "id": row["subject_id"], "at": rfc3339(row["at"])}
            yield Event(here, None, True, sent(here, row["action"], data))
        else:
            here = here._replace(jobs=row["seq"])
            name = f"job.{row['event'].replace(' ', '_')}"
            data = {"type": name, "id": row["id"], "at": rfc3339(row["at"]), "request_id": row["id"]}
            data |= {"vendor_type": row["lane"], "status": STATUS[row["event"]]}
            yield Event(here, row["owner_id"], False, sent(here, name, data))


def sent(position: Position, name: str, data: dict[str, Any]) -> bytes:
    """Return an event as it is sent. JSON has no line ends, so the data is one line."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name.encode(), str(position).encode(), orjson.dumps(data))
