"""Jobs that look after jobs, in steps, so that none holds the write lock for long."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, bindparam, select

from api import audit_trail, db
from api.errors import Conflict
from api.jobs import outcomes, queue
from api.jobs.kinds import Done, Failed, Job, Outcome, kind
from api.statements import Row, Statement
from api.tables import jobs

BATCH = 200
PAUSE_SECONDS = 0.02  # between two steps, for others who write

ENDED_BEFORE = Statement(
    select(jobs)
    .where(jobs.c.status == outcomes.FAILED, jobs.c.seq > bindparam("after"), jobs.c.finished_at <= bindparam("until"))
    .order_by(jobs.c.seq)
    .limit(bindparam("most"))
)


@kind("maintenance", attempts=3, seconds=3600)
def maintain(job: Job) -> Outcome:
    """Do what the payload's `task` names."""
    task = TASKS.get(job.payload["task"])
    return Done(result=task(job)) if task else Failed(error=f"There is no task {job.payload['task']}.")


def retry_failed(job: Job) -> dict[str, int]:
    """Let all jobs begin again that had failed when this was asked for, of one lane or of any."""
    return {"retried": sum(retrying(job.payload["lane"], job.created_at))}


def retrying(lane: str | None, until: int) -> Iterator[int]:
    """Let all jobs begin again that had failed until then, of one lane or of any; yield how many after each step."""
    after = 0
    while True:
        with db.writing() as conn:
            found = ENDED_BEFORE.all(conn, after=after, until=until, most=BATCH)
            retried = sum(_retry(conn, failed) for failed in found if lane in (None, failed["lane"]))
        if not found:
            return
        yield retried
        after = found[-1]["seq"]
        time.sleep(PAUSE_SECONDS)


def _retry(conn: Connection, failed: Row) -> bool:
    """Let one begin again, unless its vendor is gone, or another one has its deduplication key and so its work."""
    try:
        queue.retry(conn, failed, db.now())
    except Conflict:
        return False
    audit_trail.append(conn, "job.retried", failed["id"], before={"status": failed["status"]})
    return True


TASKS: dict[str, Callable[[Job], Any]] = {"retry_failed": retry_failed}
