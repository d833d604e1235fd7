"""What people are told by mail about their accounts, in the commit of what it tells of."""

from sqlalchemy import Connection

from api.auth import links
from api.jobs import mail
from api.statements import Row

NOT_YOU = (
    "If that was not you: sign in, choose another password, and end the sessions you do not know. "
    "If you cannot sign in, ask for a new password on the sign-in page."
)


def tell(conn: Connection, user: Row, subject: str, *paragraphs: str, to: str | None = None) -> None:
    """Write to a user, when the transaction commits. `to`: another address than his own."""
    text = "\n\n".join((f"Hello {user['username']},", *paragraphs, f"Walnut\n{links.public_url()}"))
    mail.send(conn, to=to or user["email"], subject=subject, text=f"{text}\n", user_id=user["id"])


def warn(conn: Connection, user: Row, subject: str, *paragraphs: str) -> None:
    """Write to a user about something that he may not have done himself."""
    tell(conn, user, subject, *paragraphs, NOT_YOU)
