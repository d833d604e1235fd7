"""What comes of a job: each of its moves from one status to the next, and the history that tells of them.

The number of the attempt is the fence: who comes back with the outcome of an earlier one changes nothing, and what has
ended stays ended. Every function takes the connection of `db.writing` first, and times in milliseconds since 1970.
"""

import random
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, insert, null, update

from api import audit_trail
from api.jobs.kinds import KINDS, Again, Awaiting, Done, Event, Failed, GivenBack, Outcome
from api.statements import Row, Statement
from api.tables import job_history, jobs

PENDING, PROCESSING, COMPLETE, FAILED, CANCELLED = "pending", "processing", "complete", "failed", "cancelled"
STATUSES = (PENDING, PROCESSING, COMPLETE, FAILED, CANCELLED)
LONGEST_BACKOFF = 3600_000  # milliseconds
DETAIL = 500  # characters of a line of history

TELL = Statement(insert(job_history))
MOVE = Statement(
    update(jobs)
    .where(
        jobs.c.seq == bindparam("number"),
        jobs.c.id == bindparam("job_id"),  # the number of a job that was removed is given again
        jobs.c.attempts == bindparam("attempt"),
        jobs.c.status == bindparam("old_status"),
        jobs.c.worker_id.is_not_distinct_from(bindparam("worker")),
    )
    .values(
        status=bindparam("new_status"),
        worker_id=null(),
        run_at=bindparam("then"),
        max_attempts=bindparam("most"),
        result=bindparam("new_result", type_=jobs.c.result.type),
        error=bindparam("new_error"),
        finished_at=bindparam("finished"),
        updated_at=bindparam("now"),
        version=jobs.c.version + 1,
    )
)

FORGET = Statement(
    update(jobs)
    .where(jobs.c.seq == bindparam("number"))
    .values(payload=bindparam("nothing", type_=jobs.c.payload.type))
)


def settle(conn: Connection, job: Row, outcome: Outcome, now: int) -> bool:
    """Record what came of an attempt. False: it is no longer this attempt's to say, and nothing was changed.

    `job` is its row as `claim` gave it.
    """
    match outcome:
        case Done(result=result):
            return end(conn, job, now, events=outcome.events, result=result)
        case Failed(error=error):
            return end(conn, job, now, events=outcome.events, error=error)
        case Again(error=error) if job["attempts"] >= job["max_attempts"]:
            return end(conn, job, now, events=outcome.events, error=error)
        case Again(error=error, after=after):
            wait = backoff(job["attempts"]) if after is None else after
            event = Event(now, "retry", f"{error} Next try in {wait / 1000:.1f} s."[:DETAIL])
            return move(conn, job, PENDING, now, [*outcome.events, event], then=now + wait, error=error)
        case Awaiting(within=within):
            return move(conn, job, PROCESSING, now, [*outcome.events, Event(now, "accepted")], then=now + within)
        case GivenBack(why=why):  # the number of the attempt stays used, as the fence, so there is one more of them
            most = job["max_attempts"] + 1
            return move(conn, job, PENDING, now, [*outcome.events, Event(now, "given back", why)], most=most)
    raise TypeError(f"{outcome!r} is no outcome")


def end(
    conn: Connection, job: Row, now: int, *, events: Iterable[Event] = (), result: Any = None, error: str | None = None
) -> bool:
    """End a job, complete with its result or failed with an error. As `settle`."""
    status = COMPLETE if error is None else FAILED
    told = [*events, Event(now, status, error and error[:DETAIL])]
    moved = move(conn, job, status, now, told, finished=now, result=result, error=error)
    known = KINDS.get(job["kind"])
    if moved and known and known.forgets and error is None:
        FORGET.run(conn, number=job["seq"], nothing=None)
    if moved and known and known.audited:
        action = "job.completed" if error is None else "job.failed"
        after = {"status": status, "vendor_type": job["lane"], "attempts": job["attempts"]}
        audit_trail.append(conn, action, job["id"], after=after)
    return moved


def backoff(attempts: int) -> int:
    """Return for how many milliseconds to leave a job alone that has failed so often.

    Anything up to twice the last bound ("full jitter"), so that those who failed together do not come back together:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.randrange(min(LONGEST_BACKOFF, 1000 << min(attempts, 20)))  # noqa: S311 (jitter, no secret)


def move(
    conn: Connection,
    job: Row,
    status: str,
    now: int,
    events: Iterable[Event],
    *,
    then: int | None = None,
    most: int | None = None,
    finished: int | None = None,
    result: Any = None,
    error: str | None = None,
) -> bool:
    """Give a job another status if it is still as the caller knows it, and tell its history. As `settle`."""
    moved = MOVE.run(
        conn,
        number=job["seq"],
        job_id=job["id"],
        attempt=job["attempts"],
        old_status=job["status"],
        worker=job["worker_id"],
        new_status=status,
        then=job["run_at"] if then is None else then,
        most=most or job["max_attempts"],
        new_result=result,
        new_error=error,
        finished=finished,
        now=now,
    )
    if moved:
        tell(conn, job, *events)
    return bool(moved)


def tell(conn: Connection, job: Row, *events: Event) -> None:
    """Add to the history of a job."""
    tell_all(conn, [(job, event) for event in events])


def tell_all(conn: Connection, told: Iterable[tuple[Row, Event]]) -> None:
    """Add to the histories of several jobs."""
    TELL.run_many(
        conn,
        [{"job_seq": job["seq"], "at": at, "event": name, "detail": detail} for job, (at, name, detail) in told],
    )
