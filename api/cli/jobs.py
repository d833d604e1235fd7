"""walnut jobs ..."""

import json
import math
import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import Connection

from api import audit_trail, db
from api.cli import tables
from api.jobs import maintenance, outcomes, queries, queue, workers
from api.jobs.kinds import KINDS, VENDOR, lane_of
from api.jobs.schemas import AuditedOut, JobOut, SummaryOut
from api.migrations import upgrade
from api.statements import Row
from api.vendors import queries as vendors

LOOK_SECONDS = 0.2  # between two looks at what is left
SAY_SECONDS = 5.0  # between two lines about it
COLUMNS = {
    "id": "ID", "status": "STATUS", "kind": "KIND", "vendor_type": "VENDOR", "attempts": "ATTEMPTS",
    "created_at": "CREATED", "error": "ERROR",
}  # fmt: skip
ALONE = ["id", "status", "kind", "vendor_type", "owner_id", "priority", "attempts", "max_attempts", "created_at"]
ALONE += ["run_at", "finished_at", "traceparent", "error"]


@click.group("jobs")
def jobs() -> None:
    """Look at the queue, and mend it."""


@jobs.command("list")
@click.option("--status", type=click.Choice(outcomes.STATUSES), help="Only those that are like this.")
@click.option("--vendor", help="Only those of a vendor.")
@click.option("--kind", help="Only those of a kind: vendor, mail, account_mail, maintenance.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at the most.")
@tables.FOR_MACHINES
@with_appcontext
def list_jobs(status: str | None, vendor: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """Show jobs, the newest first. Times are in UTC."""
    upgrade.check(current_app.extensions["settings"])
    filters = _filters(status, vendor, kind)
    with db.reading() as conn:
        part = queries.JOBS.read(conn, sort="-seq", limit=limit, **filters)
        counts = queries.counts(conn, None, filters.get("lane"))
    found = [queries.described(row) for row in part.items]
    if as_json:
        click.echo(json.dumps(SummaryOut(many=True).dump(found), indent=2))
    else:
        tables.show([_shown(row) for row in found], COLUMNS)
        click.echo(_counted(counts), err=True)


@jobs.command("show")
@click.argument("job_id", metavar="ID", type=click.UUID)
@tables.FOR_MACHINES
@with_appcontext
def show(job_id: UUID, as_json: bool) -> None:
    """Show a job: where it stands, what it is to do, its result, and what happened to it. Times are in UTC."""
    upgrade.check(current_app.extensions["settings"])
    with db.reading() as conn:
        job = queries.show(conn, _found(conn, job_id))
    payload = "(encrypted)" if isinstance(job["payload"], dict) and "sealed" in job["payload"] else job["payload"]
    if as_json:
        click.echo(json.dumps(JobOut().dump(job) | {"payload": payload}, indent=2))
    else:
        _print(job, payload)


def _print(job: Row, payload: Any) -> None:
    for name in [name for name in ALONE if job[name] is not None]:
        click.echo(f"{name:<14}{tables.cell(name, job[name])}")
    for name, value in (("payload", payload), ("result", job["result"])):
        click.echo(f"{name:<14}{tables.short(json.dumps(value))}")
    click.echo()
    tables.show(job["timeline"], {"at": "AT", "event": "EVENT", "detail": "DETAIL"})


@jobs.command("retry")
@click.argument("job_id", metavar="[ID]", type=click.UUID, required=False)
@click.option("--all", "every", is_flag=True, help="All that failed.")
@click.option("--vendor", help="With --all: only those of a vendor.")
@with_appcontext
def retry(job_id: UUID | None, every: bool, vendor: str | None) -> None:
    """Let a job that failed or was cancelled begin again, or all that failed."""
    upgrade.check(current_app.extensions["settings"])
    if every == bool(job_id) or (vendor and not every):
        raise click.UsageError("Name a job, or write --all, or --all --vendor NAME.")
    if job_id:
        after = _change("job.retried", job_id, queue.retry)
        click.echo(f"{after['id']} waits for its turn again.")
    else:
        click.echo(f"{_retry_all(vendor):,} jobs wait for their turn again.")


def _retry_all(vendor: str | None) -> int:
    """Let those that failed begin again, and return how many there were."""
    with db.reading() as conn:
        if vendor and vendors.by_name(conn, vendor) is None:
            raise click.ClickException(f"There is no vendor {vendor}. `walnut vendors list` shows them.")
        failed = queries.counts(conn, None, vendor)[outcomes.FAILED]
    retried = 0
    with tables.progress(failed, "Retrying") as advance:
        for count in maintenance.retrying(vendor, db.now()):
            retried += count
            advance(count)
    return retried


@jobs.command("cancel")
@click.argument("job_id", metavar="ID", type=click.UUID)
@with_appcontext
def cancel(job_id: UUID) -> None:
    """End a job that has not ended. What comes of it if it is under way is not kept."""
    upgrade.check(current_app.extensions["settings"])
    click.echo(f"{_change('job.cancelled', job_id, queue.cancel)['id']} is cancelled.")


@jobs.command("drain")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds to wait at the most.")
@click.pass_context
@with_appcontext
def drain(ctx: click.Context, timeout: float | None) -> None:
    """Wait until every job has ended. Exit status 1 if the time is over before."""
    upgrade.check(current_app.extensions["settings"])
    left = _watched(time.monotonic() + (math.inf if timeout is None else timeout))
    if sum(left.values()):
        click.echo(f"The time is over: {_counted(left)}. {_at_work()}", err=True)
        ctx.exit(1)
    click.echo("Every job has ended.")


def _watched(until: float) -> dict[str, int]:
    """Tell how many are left until there are none or it is `until` (time.monotonic()), and return that."""
    left, said = _left(), time.monotonic()
    with tables.progress(sum(left.values()), "Jobs") as advance:
        while sum(left.values()) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            before, left = sum(left.values()), _left()
            advance(max(0, before - sum(left.values())))
            if not tables.a_person_looks() and time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                click.echo(f"{_counted(left)}.", err=True)
    return left


def _filters(status: str | None, vendor: str | None, kind: str | None) -> dict[str, Any]:
    """Return the filters of the list. A kind without vendors has a lane, and so an index, of its own."""
    if kind and kind not in KINDS:
        raise click.UsageError(f"There is no kind {kind}: there are {', '.join(sorted(KINDS))}.")
    lane = vendor if vendor else lane_of(kind) if kind and kind != VENDOR else None
    given = {"status": status, "lane": lane, "kind": kind if kind == VENDOR or vendor else None}
    return {name: value for name, value in given.items() if value}


def _shown(row: Row) -> Row:
    return row | {"attempts": f"{row['attempts']}/{row['max_attempts']}"}


def _found(conn: Connection, job_id: UUID) -> Row:
    if (job := queue.get(conn, str(job_id))) is None:
        raise click.ClickException(f"There is no job {job_id}. `walnut jobs list` shows the newest.")
    return job


def _change(action: str, job_id: UUID, change: Any) -> Row:
    """Change a job, with an entry in the audit trail."""
    with db.writing() as conn:
        before = _found(conn, job_id)
        after: Row = change(conn, before, db.now())
        shown = [AuditedOut().dump(queries.described(row)) for row in (before, after)]
        audit_trail.append(conn, action, before["id"], before=shown[0], after=shown[1])
    return after


def _left() -> dict[str, int]:
    with db.reading() as conn:
        counts = queries.counts(conn, None)
    return {name: counts[name] for name in (outcomes.PENDING, outcomes.PROCESSING)}


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _at_work() -> str:
    """Say who works on jobs, since that is the first question when nothing ends."""
    with db.reading() as conn:
        seen: Iterable[int] = [row["seen_at"] for row in workers.ALL.all(conn)]
    alive = sum(1 for at in seen if db.now() - at < workers.LEASE_SECONDS * 1000)
    return f"{alive} at work." if alive else "No worker is there: `walnut worker` starts one."
