"""What people are told by mail about their accounts, in the commit of what it tells of.

An address may be a stranger's, typed by whoever made the account: until it is confirmed nothing in a mail is that
somebody's to choose, not even the name, and an hour has so many mails for an account and no more.
"""

from sqlalchemy import Connection, bindparam, case, or_, update

from api import db
from api.auth import links
from api.errors import TooManyRequests
from api.jobs import mail
from api.statements import Row, Statement
from api.tables import users

MOST_AN_HOUR = 20
URGENT = 2  # the priority of a mail that somebody waits for: before those that only tell
NOT_YOU = (
    "If that was not you: sign in, choose another password, end the sessions and remove the API keys you do not know. "
    "If you cannot sign in, ask for a new password on the sign-in page."
)
LONG_AGO = users.c.mails_since <= bindparam("hour_ago")
COUNT = Statement(
    update(users)
    .where(users.c.id == bindparam("user_id"), or_(LONG_AGO, users.c.mails_sent < bindparam("most")))
    .values(
        mails_sent=case((LONG_AGO, 1), else_=users.c.mails_sent + 1),
        mails_since=case((LONG_AGO, bindparam("now")), else_=users.c.mails_since),
    )
)
IGNORE = "If you know nothing of this, you need not do anything: without the link, nothing happens."


def tell(conn: Connection, user: Row, subject: str, *paragraphs: str) -> None:
    """Write to a user about his account, when the transaction commits; unless he was told too much within the hour."""
    if _counted(conn, user):
        _write(conn, user, user["email"], subject, _hello(user), *paragraphs)


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
    text = f"To confirm that {address} is your address, open this link within 3 days:"
    _write(conn, user, address, "Confirm your address", "Hello,", text, link, IGNORE, priority=URGENT)


def ask_new_address(conn: Connection, user: Row, new: str) -> None:
    """Send the link to an address that is to be his. Raises TooManyRequests: there are strangers' among them."""
    if not _counted(conn, user):
        detail = f"{MOST_AN_HOUR} mails were sent within an hour. Use the link in the last one, or wait an hour."
        raise TooManyRequests(detail, policy="mails", retry_after=3600)
    ask_to_confirm(conn, user, new)


def offer_reset(conn: Connection, user: Row) -> None:
    """Send the link that lets a user choose a new password."""
    link = links.make(conn, user, links.RESET)
    text = "To choose a new password for your account, open this link within an hour. It works once."
    still = "If you did not ask for this, you need not do anything: your password is still the one you have."
    _write(conn, user, user["email"], "Choose a new password", _hello(user), text, link, still, priority=URGENT)


def invite(conn: Connection, user: Row) -> None:
    """Send somebody the link that lets him choose the first password of an account that an admin made for him."""
    link = links.make(conn, user, links.INVITATION)
    text = "An account was made for you. To choose its password, open this link within 3 days. It works once."
    _write(conn, user, user["email"], "An account for you", "Hello,", text, link, IGNORE, priority=URGENT)


def address_changed(conn: Connection, before: Row, after: Row) -> None:
    """Tell the old address of an account that it is no longer the account's."""
    text = f"The address of your account is {after['email']} now. Mails about it go there, and you sign in with it."
    unless = "If that was not you, write to whoever runs this server, from this address."
    tell(conn, before, "Your address was changed", text, unless)


def _counted(conn: Connection, user: Row) -> bool:
    """Count a mail for an account. False: it had its share of this hour."""
    now = db.now()
    return bool(COUNT.run(conn, user_id=user["id"], now=now, hour_ago=now - links.HOUR, most=MOST_AN_HOUR))


def _hello(user: Row) -> str:
    return f"Hello {user['username']}," if user["email_confirmed_at"] else "Hello,"


def _write(conn: Connection, user: Row, to: str, subject: str, *paragraphs: str, priority: int = 3) -> None:
    text = "\n\n".join((*paragraphs, f"Walnut\n{links.public_url()}"))
    mail.send(conn, to=to, subject=subject, text=f"{text}\n", user_id=user["id"], priority=priority)
