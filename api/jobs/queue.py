"""The queue, which is a table: jobs are put in by the transaction of whoever wants them, and nothing can lose one.

A worker claims a job in one UPDATE, which counts the attempt; the number of the attempt is the fence: whoever comes
back with an outcome of an earlier one changes nothing. What has ended stays ended. Every function takes a connection
first; those that change something need the one of `db.writing`. docs/decisions/0016-jobs.md says why it is like this.
"""

from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import Connection, Text, bindparam, cast, delete, func, insert, literal_column, select, update

from api import db
from api.errors import Conflict
from api.group_commit import after_commit
from api.jobs.bell import bells
from api.jobs.kinds import KINDS, VENDOR, Event, lane_of
from api.jobs.outcomes import CANCELLED, FAILED, PENDING, PROCESSING, move, tell, tell_all
from api.statements import Row, Statement, expired
from api.tables import job_counts, jobs
from api.vendors import queries as vendors

IS_PENDING = jobs.c.status == literal_column("'pending'")  # as the partial indices say it
BATCH = 200  # jobs that are removed in one transaction
BY_PENDING = (jobs, "INDEXED BY ix_jobs_pending", "sqlite")
BY_PROCESSING = (jobs, "INDEXED BY ix_jobs_processing", "sqlite")
IS_PROCESSING = jobs.c.status == literal_column("'processing'")

ENQUEUE = Statement(insert(jobs).returning(jobs))
GET = Statement(select(jobs).where(jobs.c.id == bindparam("job_id")))
SAME = Statement(
    select(jobs).where(
        jobs.c.dedup_key == bindparam("key"),
        jobs.c.status.in_([literal_column("'pending'"), literal_column("'processing'")]),
    )
)
TAKE = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), cast(jobs.c.payload, Text) != literal_column("'null'"))
    .values(payload=bindparam("nothing", type_=jobs.c.payload.type))
)
OF_OWNER = Statement(
    select(jobs.c.id).where(jobs.c.owner_id == bindparam("owner"), jobs.c.kind == bindparam("its_kind"))
)
REMOVE_OF_OWNER = Statement(delete(jobs).where(jobs.c.owner_id == bindparam("owner")))
UNCOUNT_OWNER = Statement(delete(job_counts).where(job_counts.c.owner_id == bindparam("owner")))
GIVEN = func.json_each(bindparam("ids")).table_valued("value")
THERE = Statement(select(jobs.c.id).select_from(GIVEN.join(jobs, jobs.c.id == GIVEN.c.value)))
SWEEP = expired(jobs.c.seq, jobs.c.finished_at)
CLAIM = Statement(
    update(jobs)
    .where(
        jobs.c.seq.in_(
            select(jobs.c.seq)
            .with_hint(*BY_PENDING)
            .where(
                IS_PENDING,
                jobs.c.lane == bindparam("its_lane"),
                jobs.c.priority == bindparam("its_priority"),
                jobs.c.run_at <= bindparam("now"),
            )
            .order_by(jobs.c.run_at, jobs.c.seq)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True)  # PostgreSQL; SQLite has one writer anyway
        )
    )
    .values(
        status=PROCESSING,
        attempts=jobs.c.attempts + 1,
        worker_id=bindparam("worker"),
        updated_at=bindparam("now"),
        version=jobs.c.version + 1,
    )
    .returning(
        *(jobs.c.seq, jobs.c.id, jobs.c.kind, jobs.c.lane, jobs.c.status, jobs.c.payload, jobs.c.attempts),
        *(jobs.c.run_at, jobs.c.max_attempts, jobs.c.traceparent, jobs.c.created_at, jobs.c.worker_id),
    )
)


def enqueue(
    conn: Connection,
    kind: str,
    payload: Any,
    *,
    lane: str | None = None,
    owner_id: str | None = None,
    priority: int = 3,
    run_at: int | None = None,
    max_attempts: int | None = None,
    dedup_key: str | None = None,
    traceparent: str | None = None,
) -> Row:
    """Put a job into the queue, in the transaction of what it belongs to, and return its row.

    `run_at` is in milliseconds since 1970, `priority` from 1, the most urgent, to 5. While a job with the same
    `dedup_key` waits or is under way, that one is returned instead.
    """
    if dedup_key and (same := SAME.first(conn, key=dedup_key)):
        return same
    now, lane = db.now(), lane or lane_of(kind)
    job = ENQUEUE.one(
        conn,
        **{"id": db.new_id(), "kind": kind, "lane": lane, "owner_id": owner_id},
        **{"status": PENDING, "priority": priority, "run_at": run_at or now, "attempts": 0, "worker_id": None},
        **{"max_attempts": max_attempts or attempts(conn, kind, lane), "dedup_key": dedup_key, "payload": payload},
        **{"result": None, "error": None, "traceparent": traceparent, "created_at": now, "updated_at": now},
        **{"finished_at": None, "version": 1},
    )
    tell(conn, job, Event(now, "created"))
    after_commit(conn, bells().ring)
    return job


def get(conn: Connection, job_id: str) -> Row | None:
    """Return the row of a job, or None."""
    return GET.first(conn, job_id=job_id)


def claim(conn: Connection, worker_id: str, lane: str, priority: int, most: int, now: int) -> list[Row]:
    """Take up to so many jobs of a lane and a priority whose time has come, those that wait longest first."""
    claimed = CLAIM.all(conn, its_lane=lane, its_priority=priority, now=now, most=most, worker=worker_id)
    claimed.sort(key=lambda job: (job["run_at"], job["seq"]))
    tell_all(conn, [(job, Event(now, "claimed")) for job in claimed])
    return claimed


def cancel(conn: Connection, job: Row, now: int) -> Row:
    """End a job that has not ended yet: nobody will begin with it, and what comes of one under way is not kept.

    Raises Conflict if it has ended.
    """
    if job["status"] not in (PENDING, PROCESSING):
        raise Conflict(f"The job is {job['status']} already.")
    move(conn, job, CANCELLED, now, [Event(now, CANCELLED)], finished=now)
    return _found(conn, job)


def retry(conn: Connection, job: Row, now: int) -> Row:
    """Let a failed or cancelled job begin again, with as many attempts as a new one. Otherwise raises Conflict."""
    if job["status"] not in (FAILED, CANCELLED):
        raise Conflict(f"The job is {job['status']}: only one that failed or was cancelled can be tried again.")
    if job["kind"] == VENDOR and vendors.by_name(conn, job["lane"]) is None:
        raise Conflict(f"There is no vendor {job['lane']} any more: add it again first.")
    if other := replaced_by(conn, job):
        raise Conflict(f"The job {other['id']} has its deduplication key now. Let that one end, or cancel it first.")
    most = job["attempts"] + attempts(conn, job["kind"], job["lane"])
    move(conn, job, PENDING, now, [Event(now, "retried")], then=now, most=most)
    after_commit(conn, bells().ring)
    return _found(conn, job)


def take(conn: Connection, job_id: str) -> bool:
    """Forget what a job was to do, in the transaction that does it, so that it is done once however often it is tried.

    False: it was done before, by a worker that was not there any more to say so.
    """
    return bool(TAKE.run(conn, job_id=job_id, nothing=None))


def replaced_by(conn: Connection, job: Row) -> Row | None:
    """Return the job that was submitted under the same key after this one ended, while it has not ended itself."""
    return SAME.first(conn, key=job["dedup_key"]) if job["dedup_key"] else None


def attempts(conn: Connection, kind: str, lane: str) -> int:
    """Return how many attempts a job gets."""
    vendor = vendors.by_name(conn, lane)
    return int(vendor["attempts"]) if vendor else KINDS[kind].attempts


def remove_of(conn: Connection, owner_id: str, kind: str) -> list[str]:
    """Remove all jobs of a person, whatever they are and however far, with their histories and counts: as if there had
    been none. Return the ids of those of a kind. Who is at one of them finds nothing to record its outcome in.
    """
    found = [row["id"] for row in OF_OWNER.all(conn, owner=owner_id, its_kind=kind)]
    REMOVE_OF_OWNER.run(conn, owner=owner_id)
    UNCOUNT_OWNER.run(conn, owner=owner_id)
    return found


def there(conn: Connection, job_ids: Iterable[str]) -> set[str]:
    """Return those of the ids that are jobs'."""
    return {row["id"] for row in THERE.all(conn, ids=orjson.dumps(list(job_ids)).decode())}


def _found(conn: Connection, job: Row) -> Row:
    return GET.one(conn, job_id=job["id"])


def sweep(conn: Connection, before: int) -> int:
    """Remove some of the jobs that ended before this time, and return how many: to be called until there are none."""
    return SWEEP.run(conn, before=before, batch=BATCH)
