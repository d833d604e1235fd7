"""Calls vendors: one attempt is one POST, outside of any transaction, and what its answer means.

The vendor learns which job it is by `Idempotency-Key`, so that one call too many does no harm, and who calls by the
signature of Standard Webhooks (https://www.standardwebhooks.com). docs/vendors.md is for who writes the other side.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
from flask import current_app

from api import db
from api.jobs import mock_vendors
from api.jobs.kinds import VENDOR, Again, Awaiting, Done, Event, Failed, Job, Outcome, kind
from api.outgoing.calls import Reply, post
from api.outgoing.failures import CallFailed
from api.settings import Settings
from api.statements import Row
from api.trace import trace
from api.vendors import keys
from api.vendors import queries as vendors

MAY_PASS = {408, 425, 429}  # of the 4xx; any 5xx may
TO_BLAME = {502, 503, 504}  # the vendor is not well; a 500 may be the doing of this one payload, whoever sent it
LONGEST_WAIT = 86_400_000  # milliseconds that Retry-After may ask for
LASTING = {"address", "too_large"}  # reasons for which a call fails again
EXCERPT = 200  # characters of an answer that the error quotes


@kind(VENDOR, attempts=5, seconds=330, audited=True)
def call(job: Job) -> Outcome:
    """Hand a job to its vendor."""
    with db.reading(snapshot=False) as conn:
        vendor = vendors.by_name(conn, job.lane)
    if vendor is None:
        return Failed(error=f"There is no vendor {job.lane} any more.")
    settings: Settings = current_app.extensions["settings"]
    called = Event(db.now(), "called", f"Attempt {job.attempt}.")
    body = _body(job, vendor, settings)
    try:
        url = mock_vendors.address(vendor)
        reply = post(url, body, _headers(job, vendor, body), seconds=vendor["timeout"], private=_private(url, settings))
    except CallFailed as failure:
        if failure.reason in LASTING:
            return Failed(events=[called], error=str(failure))
        return Again(events=[called], error=str(failure), to_blame=True)
    return meaning(vendor, reply, called)


def meaning(vendor: Row, reply: Reply, called: Event) -> Outcome:
    """Return what a vendor's answer means for the job."""
    events = [called, Event(db.now(), "answered", f"Status {reply.status}.")]
    if 200 <= reply.status < 300:
        if vendor["mode"] == "async":
            return Awaiting(events=events, within=vendor["callback_timeout"] * 1000)
        return Done(events=events, result=_value(reply.body))
    error = f"The vendor answered with status {reply.status}{_excerpt(reply.body)}"
    if reply.status in MAY_PASS or reply.status >= 500:
        after = _retry_after(reply.headers)
        return Again(events=events, error=error, after=after, to_blame=reply.status in TO_BLAME)
    if 300 <= reply.status < 400:
        error = f"The vendor answered with status {reply.status}: it wants to send us elsewhere, and we do not follow."
    return Failed(events=events, error=error)


def _body(job: Job, vendor: Row, settings: Settings) -> bytes:
    said = {"request_id": job.id, "payload": job.payload}
    if vendor["mode"] == "async":
        said["callback_url"] = f"{mock_vendors.own_address(vendor['url'], settings)}/api/v1/webhooks/{vendor['name']}"
    return orjson.dumps(said)


def _headers(job: Job, vendor: Row, body: bytes) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "Idempotency-Key": job.id,
        "Walnut-Attempt": str(job.attempt),
        **keys.sign(vendor, job.id, db.now(), body),
        **trace(job.traceparent).headers(),
    }


def _private(url: str, settings: Settings) -> bool:
    """Tell whether a vendor may be on a private network: for development, and for the mock vendors, which are here."""
    return not settings.production or mock_vendors.is_here(url)


def _value(body: bytes) -> Any:
    """Return what a vendor answered: JSON, otherwise its text."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace") or None


def _excerpt(body: bytes) -> str:
    text = "".join(character for character in body[: 4 * EXCERPT].decode(errors="replace") if character.isprintable())
    return f": {text[:EXCERPT].rstrip('.')}." if text else "."


def _retry_after(headers: Mapping[str, str]) -> int | None:
    """Return for how many milliseconds a vendor wants to be left alone (RFC 9110, 10.2.3), or None."""
    text = (headers.get("Retry-After") or "").strip()
    try:
        seconds = int(text) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # what parsedate_to_datetime makes of nonsense
        return None
    return max(0, min(LONGEST_WAIT, int(seconds * 1000)))
