"""Cursors: where in a list a part of it ended, as a text that means nothing to a client.

It holds the order, a fingerprint of the filters, and the values of the last row in the columns of the order. It needs
no signature: all it can do is to choose where to begin in a list that its caller may see anyway.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Column

from api.errors import Invalid, Malformed
from api.web.strict_json import parse

Position = list[Any]  # the values of a row in the columns of an order


def write(last: Position, sort: str, filters: dict[str, Any]) -> str:
    """Return the cursor that goes on after a row."""
    text = orjson.dumps([sort, _fingerprint(filters), *last])
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def read(cursor: str, sort: str, filters: dict[str, Any], columns: Sequence[Column[Any]]) -> Position:
    """Return where a cursor goes on. Raises Invalid if it is none, or one of another order or other filters."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        its_sort, its_filters, *last = parse(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, Malformed):
        raise _invalid("Is no cursor. Give next_cursor of the part before as it is.") from None
    if (its_sort, its_filters) != (sort, _fingerprint(filters)):
        raise _invalid("Belongs to another order or other filters. Begin again without it.")
    if len(last) != len(columns) or not all(map(_fits, columns, last)):
        raise _invalid("Is no cursor of this list. Begin again without it.")
    return list(last)


def _fits(column: Column[Any], value: Any) -> bool:
    return bool(column.nullable) if value is None else type(value) is column.type.python_type


def _fingerprint(filters: dict[str, Any]) -> str:
    return hashlib.blake2b(orjson.dumps(sorted(filters.items())), digest_size=6).hexdigest()


def _invalid(why: str) -> Invalid:
    return Invalid("Some values are not right: cursor.", fields=[("/cursor", why)])
