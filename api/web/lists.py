"""Lists: a room says once which rows, filters and orders there are; a version says how their parts are asked for.

Version 1 has numbered pages and a total, which cost the more the longer the list is and the further on the page. From
version 2 on a cursor says after which row to go on (https://use-the-index-luke.com/no-offset): each part costs the
same, and none repeats or skips a row because others come and go. See docs/decisions/0013-versions.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from marshmallow import Schema, fields
from marshmallow.validate import Length, Range
from sqlalchemy import Column, ColumnElement, Connection, Table, bindparam, func, select, tuple_

from api.statements import Row, Statement
from api.web import cursors
from api.web.contract import Contract
from api.web.cursors import Position

CURSORS_SINCE = 2  # the first version whose lists have cursors
MOVING = {"now"}  # parameters of filters that are others each time: no cursor holds to them

Shape = Callable[[Any], dict[str, Any]]


class ByPage(Schema):
    """How to ask for a part of a list by its number."""

    page = fields.Integer(load_default=1, validate=Range(1, 1_000_000))
    limit = fields.Integer(load_default=20, validate=Range(1, 100))


class ByCursor(Schema):
    """How to ask for the next part of a list."""

    cursor = fields.String(
        validate=Length(1, 1000),
        metadata={"description": "`next_cursor` of the part before, with the same filters and the same order."},
    )
    limit = fields.Integer(load_default=20, validate=Range(1, 100))


@dataclass(frozen=True)
class Page:
    """One page of a list: rows, the page's number from 1, rows a page, rows in all."""

    items: Iterable[Any]
    page: int
    limit: int
    total: int
    beside: dict[str, Any] = field(default_factory=dict)

    def shaped(self, shape: Shape) -> dict[str, Any]:
        """Return what the wire sees."""
        items = [shape(row) for row in self.items]
        return {"items": items, "page": self.page, "limit": self.limit, "total": self.total} | self.beside


@dataclass(frozen=True)
class Part:
    """One part of a list: rows, and the cursor of the part after it, or None if it is the last."""

    items: Iterable[Any]
    next_cursor: str | None
    beside: dict[str, Any] = field(default_factory=dict)

    def shaped(self, shape: Shape) -> dict[str, Any]:
        """Return what the wire sees."""
        return {"items": [shape(row) for row in self.items], "next_cursor": self.next_cursor} | self.beside


def has_cursors(version: int) -> bool:
    """Tell how a version's lists are asked for: the one place that decides it."""
    return version >= CURSORS_SINCE


def query_schema(filters: Schema | None, version: int) -> Schema:
    """Return the schema of a list's query: the room's filters and order, and how a version asks for a part."""
    style = ByCursor if has_cursors(version) else ByPage
    kinds = (type(filters), style) if filters else (style,)
    return type(kinds[0].__name__, kinds, {})()  # type: ignore[no-any-return]


def envelope(contract: Contract) -> dict[str, Any]:
    """Return the JSON schema of a part of a list: what `shaped` gives."""
    number = {"type": "integer"}
    properties: dict[str, Any] = {"items": {"type": "array", "items": contract.returns}}
    if has_cursors(contract.version):
        properties["next_cursor"] = {"type": ["string", "null"], "description": "null: this is the last part."}
    else:
        properties |= {"page": number, "limit": number}
        properties["total"] = {**number, "description": "How many there are on all pages."}
    if contract.beside:
        properties |= {
            name: field.schema for name, field in contract.beside.fields.items() if isinstance(field, fields.Nested)
        }
    return {"type": "object", "required": list(properties), "properties": properties}


class Listing:
    """The rows of a table, through filters, in the orders of its columns: `created_at`, or `-created_at` for the
    greatest first. Rows without a value come last either way; `key`, which no two share, settles ties.

    An order is quick if an index has its column and the key. `filters` are conditions on parameters of their own name.
    `columns` are those that a row has here, where not all of them.
    """

    def __init__(
        self, table: Table, filters: Mapping[str, ColumnElement[bool]], key: str = "id",
        columns: Sequence[Column[Any]] = (),
    ) -> None:  # fmt: skip
        self.table = table
        self.found = tuple(columns) or tuple(table.columns)
        self.filters = filters
        self.key = table.c[key]

    def read(
        self, conn: Connection, *, sort: str, limit: int, page: int | None = None, cursor: str | None = None,
        total: Callable[[], int] | None = None, **filters: Any,
    ) -> Page | Part:  # fmt: skip
        """Return a page of the list if its number is given, otherwise the part after the cursor, or the first.

        `total` knows how many there are, where that is quicker than to count them. Raises Invalid if the cursor is not
        one of this list's.
        """
        if page is None:
            return self._part(conn, sort, limit, cursor, filters)
        found, count = numbered(self, frozenset(filters), sort)
        rows = found.all(conn, **filters, limit=limit, offset=(page - 1) * limit)
        return Page(rows, page, limit, total() if total else count.value(conn, **filters))

    def columns(self, sort: str) -> list[Column[Any]]:
        """Return the columns of an order: what it is by, and what settles ties."""
        column = self.table.c[sort.removeprefix("-")]
        return [column] if column is self.key else [column, self.key]

    def _part(self, conn: Connection, sort: str, limit: int, cursor: str | None, filters: dict[str, Any]) -> Part:
        columns = self.columns(sort)
        lasting = {name: value for name, value in filters.items() if name not in MOVING}
        position = cursors.read(cursor, sort, lasting, columns) if cursor else None
        rows: list[Row] = []
        for empty, start in _halves(columns[0], position):
            statement = after(self, frozenset(filters), sort, empty, start is not None)
            last = {f"last_{column.name}": value for column, value in zip(columns, start or (), strict=False)}
            rows += statement.all(conn, **filters, **last, limit=limit + 1 - len(rows))
            if len(rows) > limit:  # one more than asked for: so there is a part after this
                ended = [rows[limit - 1][column.name] for column in columns]
                return Part(rows[:limit], cursors.write(ended, sort, lasting))
        return Part(rows, None)


def _halves(column: Column[Any], position: Position | None) -> Iterator[tuple[bool, Position | None]]:
    """Yield what is left of a list: those that have a value, then those that have none; and where to begin in each."""
    if position is None or position[0] is not None:
        yield False, position
        position = None
    if column.nullable:
        yield True, position


@lru_cache(maxsize=512)
def numbered(listing: Listing, filters: frozenset[str], sort: str) -> tuple[Statement, Statement]:
    """Return the statements that find a page of a list, and count the list."""
    wanted = [listing.filters[name] for name in sorted(filters)]
    found = select(*listing.found).where(*wanted).order_by(*order(listing, sort))
    count = select(func.count()).select_from(listing.table).where(*wanted)
    return Statement(found.limit(bindparam("limit")).offset(bindparam("offset"))), Statement(count)


def order(listing: Listing, sort: str) -> list[ColumnElement[Any]]:
    """Return the order of a list, in which no two rows are equal and those without the value come last."""
    columns = listing.columns(sort)
    if sort.startswith("-"):
        return [column.desc() for column in columns]
    empty_last: list[ColumnElement[Any]] = [columns[0].is_(None)] if columns[0].nullable else []
    return [*empty_last, *columns]


@lru_cache(maxsize=512)
def after(listing: Listing, filters: frozenset[str], sort: str, empty: bool, started: bool) -> Statement:
    """Return the statement that finds the next rows, of those that have the value or of those that have none.

    Each is one range of one index, which it reads from where the last part ended.
    """
    columns, descending = listing.columns(sort), sort.startswith("-")
    wanted = [listing.filters[name] for name in sorted(filters)]
    if empty:
        wanted.append(columns.pop(0).is_(None))
    elif columns[0].nullable and not started:
        wanted.append(columns[0].is_not(None))
    if started:
        row = tuple_(*columns)
        last = tuple_(*(bindparam(f"last_{column.name}", type_=column.type) for column in columns))
        wanted.append(row < last if descending else row > last)
    ordered = [column.desc() if descending else column for column in columns]
    return Statement(select(*listing.found).where(*wanted).order_by(*ordered).limit(bindparam("limit")))
