"""One attempt at a job: its kind carries it out within its time, and whatever goes wrong becomes an outcome."""

import logging

import gevent
import orjson

from api import metrics
from api.errors import Refusal
from api.jobs.kinds import KINDS, Again, Done, Failed, Job, Kind, Outcome
from api.statements import Row

MAX_RESULT = 1 << 20  # bytes
UNKNOWN_KIND_MS = 30_000  # a job of a newer version: a newer worker will come by

log = logging.getLogger("walnut.jobs")


def carried_out(job: Row) -> Outcome:
    """Let its kind carry a job out, and return what came of it, whatever happened."""
    known = KINDS.get(job["kind"])
    if known is None:
        return Again(error=f"This worker does not know the kind {job['kind']}.", after=UNKNOWN_KIND_MS)
    return _storable(_tried(known, _seen_by_its_kind(job)))


def too_late(job: Row, outcome: Outcome) -> str:
    """Say for the history that an attempt ended when that was no longer its job's affair: nothing was kept of it."""
    return f"Attempt {job['attempts']} ended meanwhile ({_name(job, outcome)}). Nothing was kept of it."


def note(job: Row, outcome: Outcome, *, kept: bool) -> None:
    """Tell the log and the metrics how an attempt ended."""
    name = _name(job, outcome) if kept else "late"
    metrics.JOB_OUTCOMES.labels(job["kind"], name).inc()
    level = logging.WARNING if name == "failed" else logging.INFO
    if log.isEnabledFor(level):
        facts = {"job_id": job["id"], "kind": job["kind"], "lane": job["lane"], "attempt": job["attempts"]}
        trace = {"trace_id": job["traceparent"].split("-")[1]} if job["traceparent"] else {}
        reason = {"reason": outcome.error} if isinstance(outcome, Failed | Again) else {}
        log.log(level, "job", extra=facts | {"outcome": name} | trace | reason)


def _seen_by_its_kind(job: Row) -> Job:
    own = (job[name] for name in ("id", "kind", "lane", "payload", "attempts", "traceparent", "created_at"))
    return Job(*own)


def _tried(known: Kind, job: Job) -> Outcome:
    """Return what a kind makes of a job, within its time. A fault of its own is one that may pass."""
    deadline = gevent.Timeout(known.seconds)
    try:
        with deadline:
            outcome = known.run(job)
    except gevent.Timeout as timeout:
        if timeout is not deadline:
            raise
        return Again(error=f"It took longer than {known.seconds:g} s.", to_blame=True)
    except Refusal as refusal:
        return Again(error=refusal.detail)
    except Exception as error:
        log.exception("a job went wrong", extra={"job_id": job.id, "kind": job.kind})
        return Again(error=f"The kind {job.kind} has a fault ({type(error).__name__}). The log has more.")
    return outcome


def _storable(outcome: Outcome) -> Outcome:
    """Return the outcome, or that it failed if its result is nothing that the database can keep."""
    if not isinstance(outcome, Outcome):
        return Failed(error=f"Its kind has a fault: {outcome!r} is no outcome.")
    if not isinstance(outcome, Done):
        return outcome
    try:
        size = len(orjson.dumps([outcome.result])) - 2  # one level deeper, as in an answer
    except TypeError as error:
        return Failed(events=outcome.events, error=f"Its result is nothing that JSON can say ({error}).")
    if size > MAX_RESULT:
        return Failed(events=outcome.events, error=f"Its result is larger than {MAX_RESULT >> 10} KiB.")
    return outcome


def _name(job: Row, outcome: Outcome) -> str:
    """Return what the log and the metrics call an outcome: after its last attempt a job has failed."""
    if isinstance(outcome, Again) and job["attempts"] >= job["max_attempts"]:
        return Failed.__name__.lower()
    return type(outcome).__name__.lower()
