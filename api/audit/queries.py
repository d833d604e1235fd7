"""The audit trail as the database keeps it, to be read. Every function takes a connection first.

By number, the newest first: a page costs the same however long the trail is.
"""

from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, bindparam, exists, func, or_, select

from api.statements import Row, Statement
from api.tables import audit_entries

LAST = 2**62  # more than there will ever be
entries = audit_entries.c


def _first_at(moment: str) -> ColumnElement[int]:
    """Return the number of the first entry at a moment or later: `at` never goes back, so the index finds it."""
    later = select(entries.seq).where(entries.at >= bindparam(moment)).order_by(entries.at, entries.seq).limit(1)
    return func.coalesce(later.scalar_subquery(), LAST)


FILTERS: dict[str, ColumnElement[bool]] = {
    "actor_id": entries.actor_id == bindparam("actor_id"),
    "action": entries.action == bindparam("action"),
    "subject_id": entries.subject_id == bindparam("subject_id"),
    "kind": func.substr(entries.action, 1, func.length(bindparam("kind"))) == bindparam("kind"),
    "since": entries.seq >= _first_at("since"),
    "until": entries.seq < _first_at("until"),
}
BY_ANOTHER = Statement(
    select(
        exists().where(
            FILTERS["subject_id"],
            FILTERS["action"],
            or_(entries.actor_id.is_(None), entries.actor_id != bindparam("subject_id")),
        )
    )
)


def was_done_by_another(conn: Connection, action: str, person: str) -> bool:
    """Tell whether somebody else ever did this to a person's account: an admin, or whoever runs the server."""
    return bool(BY_ANOTHER.value(conn, subject_id=person, action=action))


def page(conn: Connection, *, limit: int, cursor: str = "", subject: str = "", **filters: Any) -> Row:
    """Return some entries that pass every filter, and the cursor for those before them."""
    if subject:
        kind, _, filters["subject_id"] = subject.rpartition(":")
        filters |= {"kind": f"{kind}."} if kind else {}
    rows = _list(frozenset(filters)).all(conn, **filters, before=int(cursor or LAST), limit=limit + 1)
    return {
        "items": [entry(row) for row in rows[:limit]],
        "next_cursor": str(rows[limit - 1]["seq"]) if len(rows) > limit else None,
    }


def history(conn: Connection, kind: str, subject_id: str, *, limit: int, cursor: str = "") -> Row:
    """Return some changes of one thing, and the cursor for those before them."""
    return page(conn, limit=limit, cursor=cursor, subject=f"{kind}:{subject_id}")


@lru_cache(maxsize=64)
def _list(filters: frozenset[str]) -> Statement:
    wanted = [FILTERS[name] for name in sorted(filters)]
    found = select(audit_entries).where(entries.seq < bindparam("before"), *wanted)
    return Statement(found.order_by(entries.seq.desc()).limit(bindparam("limit")))


def entry(row: Row) -> Row:
    """Return a row as the wire sees it."""
    change = orjson.loads(row["change"]) if row["change"] else {"before": None, "after": None}
    return row | change | {"subject_kind": row["action"].partition(".")[0], "hash": row["hash"].hex()}
