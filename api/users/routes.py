"""Accounts over HTTP."""

from typing import Any

from sqlalchemy import Connection

from api.auth import accounts
from api.auth.schemas import UserOut
from api.web import SIGNED_IN, Resource, actor

users = Resource("users", __name__)


@users.get("/users/me", also=("/users/profile",), returns=UserOut(), allow=SIGNED_IN)
def me(conn: Connection) -> Any:
    """Show your own account."""
    return accounts.get(conn, actor())
