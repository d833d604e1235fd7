"""What changes about an account's address and password. Every function takes the connection of `db.writing` first."""

from sqlalchemy import Connection, bindparam, exists, func, null, select, update

from api import db
from api.auth.names import folded
from api.statements import Row, Statement
from api.tables import users

CHANGED = {"updated_at": bindparam("now"), "version": users.c.version + 1}
THIS = users.c.id == bindparam("user_id")

CONFIRM = Statement(update(users).where(THIS).values(email_confirmed_at=bindparam("now"), **CHANGED).returning(users))
MOVE = Statement(
    update(users)
    .where(THIS)
    .values(
        email=bindparam("new"),
        email_key=bindparam("new_key"),
        new_email=null(),
        email_confirmed_at=bindparam("now"),
        **CHANGED,
    )
    .returning(users)
)
TAKEN = Statement(select(exists().where(users.c.email_key == bindparam("key"), users.c.id != bindparam("other_than"))))
SET_PASSWORD = Statement(
    update(users).where(THIS).values(password_hash=bindparam("new_hash"), **CHANGED).returning(users)
)
SET_PASSWORD_BY_MAIL = Statement(
    update(users)
    .where(THIS)
    .values(
        password_hash=bindparam("new_hash"),
        email_confirmed_at=func.coalesce(users.c.email_confirmed_at, bindparam("now")),
        **CHANGED,
    )
    .returning(users)
)


def confirm(conn: Connection, user: Row) -> Row:
    """Record that an account's address is its owner's, and return its row. Once is enough."""
    return user if user["email_confirmed_at"] else CONFIRM.one(conn, user_id=user["id"], now=db.now())


def move(conn: Connection, user: Row) -> Row | None:
    """Make the address to be of an account its address, and return its row. None: another account has it meanwhile."""
    new = user["new_email"]
    if TAKEN.value(conn, key=folded(new), other_than=user["id"]):
        return None
    return MOVE.one(conn, user_id=user["id"], new=new, new_key=folded(new), now=db.now())


def set_password(conn: Connection, user: Row, new_hash: str, *, by_mail: bool = False) -> Row:
    """Give an account another password, and return its row. `by_mail`: whoever chose it has read the account's mail."""
    statement = SET_PASSWORD_BY_MAIL if by_mail else SET_PASSWORD
    return statement.one(conn, user_id=user["id"], new_hash=new_hash, now=db.now())
