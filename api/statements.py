"""Statements that are written in SQLAlchemy Core, compiled once, and run on the driver.

Building a statement costs 100 microseconds, sending a built one through SQLAlchemy 34, and this 6: the difference
decides how many requests a core answers (docs/performance.md). Names, types and both databases stay SQLAlchemy's.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Column, Connection, Dialect, Insert, bindparam, delete, select
from sqlalchemy.sql import ClauseElement

Row = dict[str, Any]
Converter = Callable[[Any], Any]


class Statement:
    """A statement with named parameters. An insert takes every column of its table but the database's own number."""

    def __init__(self, clause: ClauseElement) -> None:
        self.clause = clause
        self._compiled: dict[str, Compiled] = {}

    def all(self, conn: Connection, **values: Any) -> list[Row]:
        """Return every row."""
        compiled = self._for(conn.dialect)
        return compiled.rows(compiled.run(conn, values).fetchall())

    def first(self, conn: Connection, **values: Any) -> Row | None:
        """Return the first row, or None."""
        compiled = self._for(conn.dialect)
        row = compiled.run(conn, values).fetchone()
        return None if row is None else compiled.rows([row])[0]

    def one(self, conn: Connection, **values: Any) -> Row:
        """Return the one row there must be. Raises LookupError if there is none."""
        row = self.first(conn, **values)
        if row is None:
            raise LookupError("a statement that must give a row gave none")
        return row

    def value(self, conn: Connection, **values: Any) -> Any:
        """Return the first column of the first row, or None."""
        row = self._for(conn.dialect).run(conn, values).fetchone()
        return row and row[0]

    def run(self, conn: Connection, **values: Any) -> int:
        """Run it, and return how many rows it changed."""
        return int(self._for(conn.dialect).run(conn, values).rowcount)

    def run_many(self, conn: Connection, rows: Iterable[Row]) -> None:
        """Run it once for each row of values."""
        self._for(conn.dialect).run_many(conn, rows)

    def _for(self, dialect: Dialect) -> "Compiled":
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = Compiled(self.clause, dialect)
        return compiled


def expired(key: Column[Any], moment: Column[Any]) -> Statement:
    """Return the statement that deletes the `batch` rows of a table whose `moment` came first, up to `before`.

    For who removes what has expired, in steps: until there are none. The moment's column needs an index.
    """
    first = select(key).where(moment <= bindparam("before")).order_by(moment).limit(bindparam("batch"))
    return Statement(delete(key.table).where(key.in_(first)))


class Compiled:
    """A statement in the words of one database."""

    def __init__(self, clause: ClauseElement, dialect: Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect, column_keys=_given(clause))
        self.sql = str(compiled)
        if "POSTCOMPILE" in self.sql:
            raise TypeError(f"This statement changes with its values, run it through SQLAlchemy: {self.sql}")
        self._order: list[str] | None = list(compiled.positiontup) if compiled.positional else None
        self._fixed = {name: value for name, value in compiled.params.items() if isinstance(value, str | int | float)}
        self._given = {
            name: convert
            for name, bind in compiled.binds.items()
            if (convert := bind.type.dialect_impl(dialect).bind_processor(dialect))
        }
        columns = {getattr(column, "name", ""): column for column in getattr(clause, "exported_columns", ())}
        self._names = list(columns)
        self._found = {
            name: convert
            for name, column in columns.items()
            if (convert := column.type.dialect_impl(dialect).result_processor(dialect, None))
        }

    def run(self, conn: Connection, values: Row) -> Any:
        """Run it on the driver's connection and return the driver's cursor."""
        driver: Any = conn.connection.dbapi_connection
        return driver.execute(self.sql, self._parameters(values))

    def run_many(self, conn: Connection, rows: Iterable[Row]) -> None:
        """Run it for each row of values, in one call."""
        driver: Any = conn.connection.dbapi_connection
        driver.executemany(self.sql, [self._parameters(row) for row in rows])

    def rows(self, found: Iterable[tuple[Any, ...]]) -> list[Row]:
        """Return the driver's rows as dicts of Python values."""
        rows = [dict(zip(self._names, row, strict=True)) for row in found]
        for name, convert in self._found.items():
            for row in rows:
                row[name] = convert(row[name])
        return rows

    def _parameters(self, values: Row) -> Mapping[str, Any] | list[Any]:
        if self._fixed:
            values = self._fixed | values
        if self._given:
            values = values | {name: convert(values[name]) for name, convert in self._given.items()}
        return values if self._order is None else [values[name] for name in self._order]


def _given(clause: ClauseElement) -> list[str] | None:
    """Return the columns that an insert gives values for."""
    if not isinstance(clause, Insert):
        return None
    own: Any = clause.table.autoincrement_column  # type: ignore[attr-defined]
    return [column.name for column in clause.table.columns if column is not own]
