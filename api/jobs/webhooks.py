"""Webhooks: a vendor that took a job on says how it ended. Each is taken in once, with what it changes in one commit.

It may come before the vendor's own answer to the call, after a time-out, twice, or for a job that has ended meanwhile:
the first word about a job counts. Whoever is still at it finds that out by the job's status (api/jobs/queue.py).
"""

from sqlalchemy import Connection, bindparam, insert, select

from api import db, metrics
from api.errors import Conflict, NotFound
from api.jobs import outcomes, queue
from api.jobs.kinds import VENDOR, Event
from api.observe import note
from api.statements import Row, Statement, expired
from api.tables import webhook_ids

KEPT = 24 * 3600 * 1000  # milliseconds for which an id is known; its signature is good for minutes
BATCH = 500
COUNTED = {"completed": "done", "failed": "failed"}  # as the metrics call them
UNSAID = "The vendor says that it failed, and not why."

KNOWN = Statement(
    select(webhook_ids).where(webhook_ids.c.vendor == bindparam("its_vendor"), webhook_ids.c.id == bindparam("its_id"))
)
KEEP = Statement(insert(webhook_ids))
SWEEP = expired(webhook_ids.c.at, webhook_ids.c.at)


def receive(conn: Connection, vendor: str, webhook_id: str, told: Row, now: int) -> Row:
    """Take in what a vendor tells, and return what became of it. `now` is in milliseconds.

    Raises NotFound if it has no such job, and Conflict if it was never called for it; then the id counts as unused.
    """
    said = {"request_id": told["request_id"], "reason": None}
    if KNOWN.first(conn, its_vendor=vendor, its_id=webhook_id):
        return said | {"outcome": "duplicate"}
    KEEP.run(conn, vendor=vendor, id=webhook_id, at=now)
    job = queue.get(conn, told["request_id"])
    if job is None or job["lane"] != vendor:
        raise NotFound(f"{vendor} has no job {told['request_id']}.")
    if job["status"] == outcomes.PENDING and not job["attempts"]:
        raise Conflict("The job was not handed to the vendor yet.")
    if job["status"] not in (outcomes.PENDING, outcomes.PROCESSING):
        return said | {"outcome": "ignored", "reason": _ignored(conn, job, webhook_id, now)}
    return said | {"outcome": _ended(conn, job, webhook_id, told, now)}


def report(received: Row, webhook_id: str) -> None:
    """Tell the log and the metrics what became of a webhook, once that is durable."""
    outcome = received["outcome"]
    note(job_id=received["request_id"], webhook_id=webhook_id, outcome=outcome)
    if counted := COUNTED.get(outcome):
        metrics.JOB_OUTCOMES.labels(VENDOR, counted).inc()


def sweep(conn: Connection) -> int:
    """Forget some of the ids that are old, and return how many: to be called again until there are none."""
    return SWEEP.run(conn, before=db.now() - KEPT, batch=BATCH)


def _ended(conn: Connection, job: Row, webhook_id: str, told: Row, now: int) -> str:
    """End a job that is under way, or that waits to be tried again because the webhook was late."""
    came = [Event(now, "webhook", webhook_id)]
    if told["status"] == "failed":
        outcomes.end(conn, job, now, events=came, error=told["error"] or UNSAID)
        return "failed"
    outcomes.end(conn, job, now, events=came, result=told["result"])
    return "completed"


def _ignored(conn: Connection, job: Row, webhook_id: str, now: int) -> str:
    """Let it be seen that a webhook came for a job that had ended. Return why it changes nothing."""
    reason = f"The job is {job['status']} already."
    outcomes.tell(conn, job, Event(now, "webhook", f"{webhook_id}: ignored. {reason}"))
    return reason
