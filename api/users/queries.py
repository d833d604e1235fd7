"""Accounts as who looks after them asks for them. Every function takes a connection first."""

from typing import Any

from sqlalchemy import Connection, bindparam, func, or_

from api.auth.names import folded
from api.tables import users
from api.web import Listing

# Found as it stands, so that % and _ are nothing special; both sides are folded, so that capitals are nothing either.
FILTERS = {
    "q": or_(func.instr(users.c.username_key, bindparam("q")) > 0, func.instr(users.c.email_key, bindparam("q")) > 0),
    "role": users.c.role == bindparam("role"),
    "active": users.c.active == bindparam("active"),
}
BY_AGE = Listing(users, FILTERS)
BY_NAME = Listing(users, FILTERS, key="username_key")  # which no two share, and which has an index


def find(conn: Connection, **query: Any) -> Any:
    """Return the part of the list that a query asks for: of the accounts that pass every filter, in its order."""
    if "q" in query:
        query["q"] = folded(query["q"])
    if "username" in query["sort"]:
        query["sort"] = query["sort"].replace("username", "username_key")
        return BY_NAME.read(conn, **query)
    return BY_AGE.read(conn, **query)
