"""Hands the view its connection: a snapshot to read, or the one transaction that a change is made in.

What must wait for something else (a hash, a call) is done before, by the contract's `prepare`: its result joins the
view's arguments. Inside the transaction nothing may wait.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from api import db

if TYPE_CHECKING:
    from api.web.resource import Contract


def wrap(view: Callable[..., Any], contract: "Contract") -> Callable[..., Any]:
    """Open the contract's kind of transaction round the view."""
    connection = db.writing if contract.writes else db.reading

    @wraps(view)
    def connected(**kwargs: Any) -> Any:
        if contract.prepare:
            kwargs |= contract.prepare(**kwargs)
        with connection() as conn:
            return view(conn, **kwargs)

    return connected if contract.transaction else view
