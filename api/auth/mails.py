"""What people are told by mail about their accounts, in the commit of what it tells of."""

from sqlalchemy import Connection

from api.auth import links
from api.jobs import mail
from api.statements import Row

NOT_YOU = (
    "If that was not you: sign in, choose another password, and end the sessions you do not know. "
    "If you cannot sign in, ask for a new password on the sign-in page."
)
IGNORE = "If you know nothing of this, you need not do anything: without the link, nothing happens."


def tell(conn: Connection, user: Row, subject: str, *paragraphs: str, to: str | None = None) -> None:
    """Write to a user, when the transaction commits. `to`: another address than his own."""
    _write(conn, user, to or user["email"], subject, f"Hello {user['username']},", *paragraphs)


def warn(conn: Connection, user: Row, subject: str, *paragraphs: str) -> None:
    """Write to a user about something that he may not have done himself."""
    tell(conn, user, subject, *paragraphs, NOT_YOU)


def ask_to_confirm(conn: Connection, user: Row, to: str | None = None) -> None:
    """Send the link that shows that an address is this user's: his own, or `to`, which is to be his.

    Who gets it may be a stranger whose address somebody else typed. So nothing in it is that somebody's to choose: not
    even the name.
    """
    address = to or user["email"]
    link = links.make(conn, user, links.CONFIRMATION, address)
    text = f"to confirm that {address} is your address, open this link within 3 days:"
    _write(conn, user, address, "Confirm your address", "Hello,", text, link, IGNORE)


def offer_reset(conn: Connection, user: Row) -> None:
    """Send the link that lets a user choose a new password."""
    link = links.make(conn, user, links.RESET)
    text = "to choose a new password for your account, open this link within an hour. It works once."
    still = "If you did not ask for this, you need not do anything: your password is still the one you have."
    tell(conn, user, "Choose a new password", text, link, still)


def invite(conn: Connection, user: Row) -> None:
    """Send somebody the link that lets him choose the first password of an account that an admin made for him."""
    link = links.make(conn, user, links.INVITATION)
    text = "an account was made for you. To choose its password, open this link within 3 days. It works once."
    tell(conn, user, "An account for you", text, link, IGNORE)


def address_changed(conn: Connection, before: Row, after: Row) -> None:
    """Tell the old address of an account that it is no longer the account's."""
    text = f"the address of your account is {after['email']} now. Mails about it go there, and you sign in with it."
    unless = "If that was not you, write to whoever runs this server, from this address."
    tell(conn, before, "Your address was changed", text, unless)


def _write(conn: Connection, user: Row, to: str, subject: str, *paragraphs: str) -> None:
    text = "\n\n".join((*paragraphs, f"Walnut\n{links.public_url()}"))
    mail.send(conn, to=to, subject=subject, text=f"{text}\n", user_id=user["id"])
