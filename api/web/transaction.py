"""Hands the view its connection: a snapshot to read, or the one transaction that a change is made in.

What must wait for something else (a hash, a call) is done before, by the contract's `prepare`: its result joins the
view's arguments. Inside the transaction nothing may wait.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import g

from api import db, sqlite
from api.web import guard
from api.web.contract import Contract


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Open the contract's kind of transaction round the view."""
    if not contract.transaction:
        return view

    @wraps(view)
    def written(**kwargs: Any) -> Any:
        if contract.prepare:
            kwargs |= contract.prepare(**kwargs)
        try:
            with db.writing() as conn:
                guard.check_again(conn, contract.allow)
                return view(conn, **kwargs)
        except sqlite.driver.IntegrityError:
            guard.refuse_who_is_gone(contract.allow)
            raise

    @wraps(view)
    def read(**kwargs: Any) -> Any:
        if (conn := g.get("conn")) is not None:  # guard has taken a snapshot already
            return view(conn, **kwargs)
        with db.reading() as conn:
            return view(conn, **kwargs)

    return written if contract.writes else read
