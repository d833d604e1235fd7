"""Accounts as the database sees them. Every function takes a connection first."""

from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, update

from api import db
from api.auth import passwords
from api.auth.names import folded
from api.errors import Conflict
from api.statements import Row, Statement
from api.tables import users

ANY = Statement(select(exists().select_from(users)))
BY_ID = Statement(select(users).where(users.c.id == bindparam("user_id")))
BY_EMAIL = Statement(select(users).where(users.c.email_key == bindparam("key")))
BY_USERNAME = Statement(select(users).where(users.c.username_key == bindparam("key")))
CREATE = Statement(insert(users).returning(users))
REMOVE = Statement(delete(users).where(users.c.id == bindparam("user_id")))
ANOTHER_ADMIN = Statement(
    select(
        exists().where(
            users.c.id != bindparam("user_id"),
            users.c.role == bindparam("of_role", "admin"),
            users.c.active,
            func.substr(users.c.password_hash, -len(passwords.NONE)) != bindparam("none", passwords.NONE),
        )
    )
)
LAST_ADMIN = (
    "This is the last admin who may sign in. Make another one first: give an account the role admin, or run "
    "`walnut user set-role NAME admin`."
)


def any_exist(conn: Connection) -> bool:
    """Tell whether there is an account at all."""
    return bool(ANY.value(conn))


def get(conn: Connection, user_id: str | None) -> Row | None:
    """Return the row of an account, or None."""
    return BY_ID.first(conn, user_id=user_id)


def by_email(conn: Connection, email: str) -> Row | None:
    """Return the row of the account with this address, however it is spelt, or None."""
    return BY_EMAIL.first(conn, key=folded(email))


def named(conn: Connection, name: str) -> list[Row]:
    """Return the rows of the accounts with this id, or else this username or address: none, one, or two."""
    if found := get(conn, name):  # first: a username can be anything, also somebody's id
        return [found]
    return [row for row in (BY_USERNAME.first(conn, key=folded(name)), by_email(conn, name)) if row]


def taken(conn: Connection, username: str | None, email: str | None, by_other_than: str = "") -> list[str]:
    """Return which of "username" and "email" another account has already. None is not asked about."""
    questions = (("username", BY_USERNAME, username), ("email", BY_EMAIL, email))
    found = [(name, question.first(conn, key=folded(value))) for name, question, value in questions if value]
    return [name for name, owner in found if owner and owner["id"] != by_other_than]


def refuse_taken(conn: Connection, *, username: str | None = None, email: str | None = None, user: str = "") -> None:
    """Refuse a name or an address that another account than `user`'s has, or one that looks like it.

    Raises Conflict, naming each. The write lock must be held: then it is still so when the account is written.
    """
    if names := taken(conn, username, email, user):
        fields = [(f"/{name}", "Is taken. Choose another one.") for name in names]
        raise Conflict(f"There is an account with this {' and this '.join(names)} already.", fields=fields)


def refuse_last_admin(conn: Connection, user: Row, *, role: str | None = None, active: bool = False) -> None:
    """Refuse to leave nobody who may look after the others: `role` and `active` are what the account is to have.

    Who was invited and has chosen no password yet does not count: the link may never arrive.

    Raises Conflict. The write lock must be held, so that two admins cannot demote each other.
    """
    is_one, stays_one = user["role"] == "admin" and user["active"], role == "admin" and active
    if is_one and not stays_one and not ANOTHER_ADMIN.value(conn, user_id=user["id"]):
        raise Conflict(LAST_ADMIN)


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
        mails_since=0,
        mails_sent=0,
        password_hash=password_hash,
        role=role,
        active=True,
        created_at=now,
        updated_at=now,
        version=1,
    )


def change(conn: Connection, user: Row, **values: Any) -> Row:
    """Change columns of an account, which counts as one change, and return its new row."""
    for name in {"username", "email"} & values.keys():
        values[f"{name}_key"] = folded(values[name])
    given = {f"new_{name}": value for name, value in values.items()}
    return _change(frozenset(values)).one(conn, **given, user_id=user["id"], now=db.now())


def remove(conn: Connection, user: Row) -> None:
    """Delete an account, with its sessions, keys, codes and links. For api/users/erasure.py: there is more to it."""
    REMOVE.run(conn, user_id=user["id"])


@lru_cache(maxsize=64)
def _change(names: frozenset[str]) -> Statement:
    new: dict[str, Any] = {name: bindparam(f"new_{name}", type_=users.c[name].type) for name in sorted(names)}
    new |= {"updated_at": bindparam("now"), "version": users.c.version + 1}
    return Statement(update(users).where(users.c.id == bindparam("user_id")).values(new).returning(users))
