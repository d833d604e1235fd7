"""What anybody may ask for any address: a mail with a link. Who asks learns nothing, not even by the time it takes.

The request only enqueues a job, the same for every address; the job looks whether there is such an account.
docs/decisions/0021-mail-links.md has the reasons.
"""

from typing import Any

import orjson
from sqlalchemy import Connection

from api import audit_trail, db, observe
from api.auth import accounts, links, mails
from api.auth.schemas import UserOut
from api.jobs import mail, queue
from api.jobs.kinds import Again, Done, Job, Outcome, kind
from api.secret_box import Unreadable, secret_box

KIND = "account_mail"
MOST_AN_HOUR = 3  # links of a kind for an account: nobody's mailbox can be filled by strangers
ACTIONS = {links.RESET: "user.reset_requested", links.CONFIRMATION: "user.confirmation_requested"}

shape = UserOut().dump


def put(conn: Connection, purpose: str, email: str, address: str | None) -> None:
    """Ask for a link for whoever has this mail address. `address` is where the request comes from."""
    asked = {"purpose": purpose, "email": email, "address": address, "request_id": observe.request_id()}
    sealed = secret_box().seal(orjson.dumps(asked).decode())
    traceparent = observe.trace_headers().get("traceparent")
    queue.enqueue(conn, KIND, {"sealed": sealed}, priority=mails.URGENT, traceparent=traceparent)


@kind(KIND, attempts=10, seconds=60, forgets=True)
def answer(job: Job) -> Outcome:
    """Send the link that was asked for, if there is an account to send it to: once, however often this is tried."""
    if job.payload is None:
        return Done()
    try:
        asked = orjson.loads(secret_box().open(job.payload["sealed"]))
    except Unreadable:
        return Again(error=mail.UNREADABLE, after=mail.wait(job.attempt))
    with db.writing() as conn:
        if queue.take(conn, job.id):
            _send(conn, asked)
    return Done()


def _send(conn: Connection, asked: dict[str, Any]) -> None:
    user, purpose = accounts.by_email(conn, asked["email"]), asked["purpose"]
    if user is None or not user["active"]:
        return
    if links.made_since(conn, user["id"], purpose, db.now() - links.HOUR) >= MOST_AN_HOUR:
        return
    if purpose == links.RESET:
        mails.offer_reset(conn, user)
    elif user["email_confirmed_at"]:
        return
    else:
        mails.ask_to_confirm(conn, user)
    # Who asked is not known, so the address is a part of the change: that one is blanked when the person is forgotten.
    after = shape(user) | {"requested_from": asked["address"]}
    audit_trail.append(conn, ACTIONS[purpose], user["id"], request_id=asked["request_id"], after=after)
