"""Mail, as a job: one that was asked for in a transaction is sent if that commits, and only then.

At least once: when a worker dies in the middle the same mail goes out again, byte for byte, under the same Message-ID.
What it says is encrypted in the database (it may hold an address, or a token), and forgotten once it was delivered.
"""

import random
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

import orjson
from flask import Flask, current_app
from sqlalchemy import Connection

from api import mail_addresses, observe, smtp
from api.errors import Invalid
from api.jobs import outbox, queue
from api.jobs.kinds import Again, Done, Failed, Job, Outcome, kind
from api.mail_addresses import Mailbox
from api.secret_box import Unreadable, secret_box
from api.settings import Settings
from api.statements import Row

KIND = "mail"
FIRST_WAIT, LONGEST_WAIT = 2_000, 3600_000  # milliseconds; three times as long after each attempt
LONGEST_LINE = 998
UNREADABLE = "It cannot be decrypted: neither ENCRYPTION_KEY nor JWT_SECRET is the one it was stored with."


class Post:
    """How mail leaves: from whom, and by which server, if there is one."""

    def __init__(self, settings: Settings) -> None:
        self.server = smtp.parse(settings.smtp_url) if settings.smtp_url else None
        host = urlsplit(settings.public_url).hostname or "localhost"
        self.sender = mail_addresses.mailbox(settings.mail_from or f"Walnut <walnut@{host}>")
        self.instance = settings.instance_path

    def deliver(self, job_id: str, message: EmailMessage, recipient: str) -> dict[str, str]:
        """Hand a mail over and return where it went. Raises smtp.Rejected, smtp.Deferred or OSError."""
        if self.server is None:
            return {"file": str(outbox.put(self.instance, job_id, message.as_bytes()))}
        smtp.hand_over(self.server, self.sender.address, recipient, message.as_bytes())
        return {"server": str(self.server)}


def init_app(app: Flask, settings: Settings) -> None:
    """Let the app send mail."""
    app.extensions["post"] = Post(settings)


def send(
    conn: Connection, *, to: str, subject: str, text: str, html: str | None = None, user_id: str | None = None,
    priority: int = 3,
) -> Row:  # fmt: skip
    """Let a mail be sent when the transaction of `conn` commits, and return its job.

    `user_id` is whose address it is. Raises Invalid for an address or a subject that no mail can have.
    """
    mail = {"to": _checked("address", mail_addresses.address, to), "text": text, "html": html}
    mail["subject"] = _checked("subject", mail_addresses.line, subject)
    sealed = secret_box().seal(orjson.dumps(mail).decode())
    traceparent = observe.trace_headers().get("traceparent")
    return queue.enqueue(conn, KIND, {"sealed": sealed}, owner_id=user_id, priority=priority, traceparent=traceparent)


def compose(sender: Mailbox, mail: dict[str, Any], job_id: str, created_at: int) -> EmailMessage:
    """Return the mail of a job, each time the same. `created_at` is in milliseconds since 1970."""
    international = not (sender.address + mail["to"]).isascii()
    message = EmailMessage((SMTPUTF8 if international else SMTP).clone(cte_type="7bit"))
    message["Date"] = format_datetime(datetime.fromtimestamp(created_at // 1000, UTC))
    message["From"] = str(sender)
    message["To"] = mail["to"]
    message["Subject"] = mail["subject"]
    message["Message-ID"] = f"<{job_id}@{sender.address.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answers it
    message.set_content(mail["text"], cte=_encoding(mail["text"]))
    if mail["html"] is not None:
        message.add_alternative(mail["html"], subtype="html")
        message.set_boundary(f"=_{job_id}")
    return message


@kind(KIND, attempts=10, seconds=60, forgets=True)
def deliver(job: Job) -> Outcome:
    """Deliver the mail of a job. Over ten attempts that is tried for about two hours."""
    post: Post = current_app.extensions["post"]
    try:
        mail = orjson.loads(secret_box().open(job.payload["sealed"]))
        return Done(result=post.deliver(job.id, compose(post.sender, mail, job.id, job.created_at), mail["to"]))
    except Unreadable:
        return Again(error=UNREADABLE, after=wait(job.attempt))
    except smtp.Rejected as error:
        return Failed(error=str(error))
    except smtp.Deferred as error:
        return Again(error=str(error), after=wait(job.attempt), to_blame=error.to_blame)
    except OSError as error:
        reason = f"The outbox cannot be written to ({error.strerror})."
        return Again(error=reason, after=wait(job.attempt), to_blame=True)


def wait(attempt: int) -> int:
    """Return for how many milliseconds to leave a mail alone after an attempt: enough for greylisting in the end."""
    longest = min(LONGEST_WAIT, FIRST_WAIT * 3 ** (attempt - 1))
    return random.randrange(longest // 2, longest)  # noqa: S311 (jitter, no secret)


def _encoding(text: str) -> str | None:
    """Return how a text is written: as it is where that is allowed (RFC 5322, 2.1.1), so that links stay whole."""
    plain = text.isascii() and max(map(len, text.splitlines()), default=0) < LONGEST_LINE
    return "7bit" if plain else None


def _checked(what: str, check: Any, text: str) -> str:
    try:
        checked: str = check(text)
    except ValueError as error:
        raise Invalid(f"No mail can be sent: its {what} {error}.") from None
    return checked
