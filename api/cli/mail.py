"""walnut mail ..."""

import time

import click
from flask import current_app
from flask.cli import with_appcontext

from api import db
from api.cli import tables
from api.jobs import lanes, outcomes, queue
from api.jobs import mail as mails
from api.jobs.kinds import lane_of
from api.migrations import upgrade
from api.statements import Row

LOOK_SECONDS = 0.1  # between two looks at what became of it
TEXT = "This is a test mail of Walnut. Somebody who runs it asked for it, and there is nothing to do.\n"


@click.group("mail")
def mail() -> None:
    """Look after mail."""


@mail.command("test")
@click.argument("address")
@click.option("--timeout", type=click.FloatRange(0), default=15.0, show_default=True, help="Seconds to wait.")
@with_appcontext
def test(address: str, timeout: float) -> None:
    """Send a test mail, and say what became of it. Exit status 1 if it did not go out."""
    upgrade.check(current_app.extensions["settings"])
    with db.writing() as conn:
        job = mails.send(conn, to=address, subject="A test mail of Walnut", text=TEXT)
    until = time.monotonic() + timeout
    while time.monotonic() < until and not (job["error"] or job["finished_at"]):
        time.sleep(LOOK_SECONDS)
        job = _now(job)
    if job["status"] != outcomes.COMPLETE:
        raise click.ClickException(_why_not(job))
    where = job["result"].get("file") or f"the server {job['result']['server']}"
    click.echo(f"Sent: {where} has it (job {job['id']}).")


def _now(job: Row) -> Row:
    with db.reading() as conn:
        return queue.GET.one(conn, job_id=job["id"])


def _why_not(job: Row) -> str:
    """Say what keeps it."""
    if job["status"] in (outcomes.FAILED, outcomes.CANCELLED):
        return f"Not sent, for good: {job['error'] or job['status']} (job {job['id']})"
    more = f"`walnut jobs show {job['id']}` tells how it goes on, `walnut jobs cancel {job['id']}` ends it."
    if job["error"]:
        return f"Not sent yet: {job['error']} It is tried again at {tables.cell('at', job['run_at'])} UTC. {more}"
    if job["status"] == outcomes.PROCESSING:
        return f"Not sent yet: the mail server takes its time. {more}"
    with db.reading() as conn:
        state = lanes.STATE.first(conn, lane=lane_of(mails.KIND))
    if state and state["closed_until"] > db.now():
        until = tables.cell("at", state["closed_until"])
        return f"Not sent yet: mail failed before, and is left alone until {until} UTC. {more}"
    return f"Not sent yet: no worker took it. `walnut worker` starts one. {more}"
