"""Accounts as the database sees them. Every function takes a connection first."""

from sqlalchemy import Connection, bindparam, exists, insert, select

from api import db
from api.auth.names import folded
from api.statements import Row, Statement
from api.tables import users

ANY = Statement(select(exists().select_from(users)))
BY_ID = Statement(select(users).where(users.c.id == bindparam("user_id")))
BY_EMAIL = Statement(select(users).where(users.c.email_key == bindparam("key")))
EMAIL_TAKEN = Statement(select(exists().where(users.c.email_key == bindparam("key"))))
USERNAME_TAKEN = Statement(select(exists().where(users.c.username_key == bindparam("key"))))
CREATE = Statement(insert(users).returning(users))


def any_exist(conn: Connection) -> bool:
    """Tell whether there is an account at all."""
    return bool(ANY.value(conn))


def get(conn: Connection, user_id: str | None) -> Row | None:
    """Return the row of an account, or None."""
    return BY_ID.first(conn, user_id=user_id)


def by_email(conn: Connection, email: str) -> Row | None:
    """Return the row of the account with this address, however it is spelt, or None."""
    return BY_EMAIL.first(conn, key=folded(email))


def taken(conn: Connection, username: str, email: str) -> list[str]:
    """Return which of "username" and "email" another account has already."""
    questions = (("username", USERNAME_TAKEN, username), ("email", EMAIL_TAKEN, email))
    return [name for name, question, value in questions if question.value(conn, key=folded(value))]


def create(
    conn: Connection,
    *,
    username: str,
    email: str,
    password_hash: str,
    role: str,
    email_confirmed_at: int | None = None,
) -> Row:
    """Add an account and return its row. `email_confirmed_at`: when somebody vouched for the address."""
    now = db.now()
    return CREATE.one(
        conn,
        id=db.new_id(),
        username=username,
        username_key=folded(username),
        email=email,
        email_key=folded(email),
        new_email=None,
        email_confirmed_at=email_confirmed_at,
        totp_secret=None,
        totp_enabled_at=None,
        totp_step=0,
        password_hash=password_hash,
        role=role,
        active=True,
        created_at=now,
        updated_at=now,
        version=1,
    )
