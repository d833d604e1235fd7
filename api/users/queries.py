"""Accounts as the database sees them. Every function takes a connection first."""

from typing import Any

from sqlalchemy import Connection, bindparam, exists, insert, select

from api import db
from api.tables import users
from api.users.names import folded

ANY = select(exists().select_from(users))
BY_ID = select(users).where(users.c.id == bindparam("user_id"))
BY_EMAIL = select(users).where(users.c.email_key == bindparam("key"))
EMAIL_TAKEN = select(exists().where(users.c.email_key == bindparam("key")))
USERNAME_TAKEN = select(exists().where(users.c.username_key == bindparam("key")))
CREATE = insert(users).returning(users)


def any_exist(conn: Connection) -> bool:
    """Tell whether there is an account at all."""
    return bool(conn.execute(ANY).scalar_one())


def get(conn: Connection, user_id: str | None) -> Any:
    """Return the row of an account, or None."""
    return conn.execute(BY_ID, {"user_id": user_id}).mappings().one_or_none()


def by_email(conn: Connection, email: str) -> Any:
    """Return the row of the account with this address, however it is spelt, or None."""
    return conn.execute(BY_EMAIL, {"key": folded(email)}).mappings().one_or_none()


def taken(conn: Connection, username: str, email: str) -> list[str]:
    """Return which of "username" and "email" another account has already."""
    questions = (("username", USERNAME_TAKEN, username), ("email", EMAIL_TAKEN, email))
    return [name for name, question, value in questions if conn.execute(question, {"key": folded(value)}).scalar_one()]


def create(conn: Connection, *, username: str, email: str, password_hash: str, role: str) -> Any:
    """Add an account and return its row."""
    now = db.now()
    values = {
        "id": db.new_id(),
        "username": username,
        "username_key": folded(username),
        "email": email,
        "email_key": folded(email),
        "password_hash": password_hash,
        "role": role,
        "active": True,
        "created_at": now,
        "updated_at": now,
        "version": 1,
    }
    return conn.execute(CREATE, values).mappings().one()
