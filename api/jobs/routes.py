"""Jobs over HTTP."""

from typing import Any, NoReturn
from uuid import UUID

from flask import request
from sqlalchemy import Connection

from api import db
from api.errors import Invalid, NotFound
from api.jobs import queries, queue, webhooks
from api.jobs.kinds import VENDOR
from api.jobs.schemas import (
    AcceptedOut,
    AuditedOut,
    CountedOut,
    JobIn,
    JobOut,
    JobQuery,
    RetryIn,
    SummaryOut,
    WebhookIn,
    WebhookOut,
)
from api.observe import trace_headers
from api.statements import Row
from api.vendors import keys
from api.vendors import queries as vendors
from api.web import PUBLIC, Resource, actor, caller, for_audit, may, parsed_body

jobs = Resource("jobs", __name__)
MANAGE = "jobs:manage"


@jobs.post("/jobs", body=JobIn(), returns=AcceptedOut(), status=202, location="request_id", allow="jobs:submit",
           limit="jobs", idempotent=True, audit="job.submitted", audited=AuditedOut())  # fmt: skip
def submit(conn: Connection, body: dict[str, Any]) -> Any:
    """Hand a vendor something to do. Ask for the job, or listen to /events, to learn what became of it."""
    vendor = vendors.by_name(conn, body["vendor_type"]) or unknown(conn, body["vendor_type"])
    job = queue.enqueue(
        conn,
        VENDOR,
        body["vendor_payload"],
        lane=vendor["name"],
        owner_id=actor(),
        priority=body["priority"],
        run_at=body["run_at"] and max(body["run_at"], db.now()),  # nobody gets ahead by having wanted it earlier
        dedup_key=_own(vendor, body["deduplication_key"]),
        traceparent=trace_headers().get("traceparent"),
    )
    return queries.described(job)


@jobs.get("/jobs", query=JobQuery(), returns=SummaryOut(), many=True, beside=CountedOut(), allow="jobs:submit")
def index(conn: Connection, query: dict[str, Any]) -> Any:
    """List your jobs, the newest first unless `sort` says otherwise; an admin sees those of all."""
    return queries.find(conn, None if may(caller(), MANAGE) else actor(), dict(query))


@jobs.get("/jobs/<uuid:job_id>", returns=JobOut(), allow="jobs:submit")
def show(conn: Connection, job_id: UUID) -> Any:
    """Show a job: where it stands, what happened to it, and its result once it is complete."""
    return queries.show(conn, its_own(conn, job_id))


@jobs.post("/jobs/<uuid:job_id>/cancellation", returns=JobOut(), allow="jobs:submit", problems=(409,),
           audit="job.cancelled", audited=AuditedOut())  # fmt: skip
def cancel(conn: Connection, job_id: UUID) -> Any:
    """Cancel a job that has not ended. A vendor that was called already is not called back: its answer is not kept."""
    job = its_own(conn, job_id)
    for_audit(before=queries.described(job))
    return queries.show(conn, queue.cancel(conn, job, db.now()))


@jobs.post("/jobs/<uuid:job_id>/retry", returns=JobOut(), allow=MANAGE, problems=(409,),
           audit="job.retried", audited=AuditedOut())  # fmt: skip
def retry(conn: Connection, job_id: UUID) -> Any:
    """Let a job that failed or was cancelled begin again."""
    job = queue.get(conn, str(job_id)) or missing(job_id)
    for_audit(before=queries.described(job))
    return queries.show(conn, queue.retry(conn, job, db.now()))


@jobs.post("/jobs/retry", body=RetryIn(), returns=AcceptedOut(), status=202, location="request_id", allow=MANAGE,
           idempotent=True, audit="job.retry_all", audited=AuditedOut())  # fmt: skip
def retry_all(conn: Connection, body: dict[str, Any]) -> Any:
    """Let all jobs that failed begin again, or those of one vendor: a job of its own, whose result says how many."""
    lane = body["vendor_type"]
    if lane and not vendors.by_name(conn, lane):
        unknown(conn, lane)
    what = {"task": "retry_failed", "lane": lane}
    return queries.described(queue.enqueue(conn, "maintenance", what, owner_id=actor()))


@jobs.post("/webhooks/<vendor>", body=WebhookIn(), signed=True, returns=WebhookOut(), allow=PUBLIC, limit=None,
           transaction=False, problems=(401, 409))  # fmt: skip
def webhook(vendor: str, body: bytes) -> Any:
    """Tell how a job ended. For its vendor, whose signature is checked before anything is read (Standard Webhooks)."""
    with db.reading(snapshot=False) as conn:
        sender = vendors.by_name(conn, vendor)
    if sender is None:
        raise NotFound(f"There is no vendor {vendor[:63]}.")
    webhook_id = keys.verify(sender, request.headers, body, db.now())
    told = parsed_body(WebhookIn(), body)
    with db.writing() as conn:
        received = webhooks.receive(conn, vendor, webhook_id, told, db.now())
    webhooks.report(received, webhook_id)
    return received


def its_own(conn: Connection, job_id: UUID) -> Row:
    """Return a job that the caller may see. To anybody else it is as if it were not there. Raises NotFound."""
    job = queue.get(conn, str(job_id)) or missing(job_id)
    own = job["owner_id"] == actor() and job["kind"] == VENDOR
    return job if own or may(caller(), MANAGE) else missing(job_id)


def missing(job_id: UUID) -> NoReturn:
    """Raise NotFound."""
    raise NotFound(f"There is no job {job_id}.")


def unknown(conn: Connection, name: str) -> NoReturn:
    """Raise Invalid, and say which vendors there are."""
    known = ", ".join(vendors.names(conn)) or "none yet: an admin adds one with POST /vendors"
    raise Invalid(f"There is no vendor {name}.", fields=[("/vendor_type", f"Is no vendor. Known are: {known}.")])


def _own(vendor: Row, key: str | None) -> str | None:
    """Return a client's key such that it meets nobody else's."""
    return f"{actor()}/{vendor['name']}/{key}" if key else None
