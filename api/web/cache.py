"""Reuses answers to GETs, and cannot find a stale one.

The key of a kept answer holds the route and its version, the normalised query, whose view it is, and the generations of
the tables it depends on, read in the same snapshot as the data. A change counts its generation up in its own commit, so
from then on the old answer has a key that nobody asks for. Nothing is ever invalidated, so no invalidation can be lost.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import orjson
from flask import Response, g, request
from sqlalchemy import ColumnElement, Connection, Select, bindparam, or_, select, update
from werkzeug.http import parse_accept_header

from api import db, metrics
from api.answers import Header, Kept, answers
from api.exchange import FACTS
from api.observe import note
from api.statements import Statement
from api.tables import generations
from api.version import __version__
from api.web import headers
from api.web.app import Answer
from api.web.conditional import conditional, has_already, refuse_another
from api.web.contract import Contract
from api.web.guard import actor

HIT, MISS, BYPASS = "hit", "fwd=miss", "fwd=bypass"  # in Cache-Status (RFC 9211)
PLACE = "walnut.place"  # where the edge finds it, in the WSGI environment
OWN_HEADERS = {"content-length", "etag", "content-encoding"}  # of one rendering, not of the kept answer


ALL = Statement(select(generations).order_by(generations.c.name))
MOVE = Statement(update(generations).where(generations.c.name == bindparam("generation")).values(n=bindparam("moved")))


class Place(NamedTuple):
    """What a path and query ask for: an answer but for its reader and its generations, and who may have it."""

    stem: str
    contract: Contract
    route: str
    farewell: list[Header]  # what a deprecated route says on every answer


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Keep the answers of a contract that names generations."""
    if not contract.cache:
        return view

    @wraps(view)
    def cached(**kwargs: Any) -> Response:
        if "conn" in g:
            return _answer(view, contract, kwargs)
        with db.reading() as g.conn:  # for anybody: the guard has taken no snapshot
            return _answer(view, contract, kwargs)

    return cached


def _answer(view: Callable[..., Any], contract: Contract, kwargs: dict[str, Any]) -> Response:
    if refuses_kept(request.environ):
        _tell(BYPASS)
        return conditional(view(**kwargs))
    stem = stem_of(request.path, kwargs)
    route, farewell = request.environ[FACTS]["route"], contract.farewell(request.view_args or {})
    request.environ[PLACE] = Place(stem, contract, route, farewell)
    key = key_of(stem, actor() if not contract.shared else None, current(g.conn, contract.cache))
    kept, found = answers().get_or_make(key, lambda: _made(view(**kwargs)))
    refuse_another(request.environ, kept.etag)
    _tell(HIT if found else MISS)
    status, own, body = rendered(kept, request.environ)
    return Answer(body, status, own)


def stem_of(path: str, arguments: Mapping[str, Any]) -> str:
    """Return what names an answer but for its reader and its generations: path, checked arguments, our version."""
    parts = orjson.dumps([path.rstrip("/"), arguments.get("query"), __version__], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(parts, digest_size=16).hexdigest()


def key_of(stem: str, reader: str | None, numbers: Sequence[int]) -> str:
    """Return the key of a kept answer. `reader` is the user whose view it is, None for everyone's."""
    return f"walnut:{stem}:{reader or 'all'}:{'.'.join(map(str, numbers))}"


def current(conn: Connection, names: tuple[str, ...]) -> list[int]:
    """Return the generations as the connection's snapshot sees them, in the order of their names."""
    return [row["n"] for row in _generations(names).all(conn)]


def clear_cache(conn: Connection) -> list[str]:
    """Move every generation to where none ever was, so that nothing kept is found again. Return their names."""
    rows = ALL.all(conn)
    for row in rows:
        MOVE.run(conn, generation=row["name"], moved=row["n"] + 1_000_000 + secrets.randbelow(1_000_000_000))
    return [row["name"] for row in rows]


def numbers_of(names: tuple[str, ...]) -> list[ColumnElement[int]]:
    """Return a column for each generation, to be read together with something else, under its `labels`."""
    return [
        select(generations.c.n).where(generations.c.name == name).scalar_subquery().label(label)
        for name, label in zip(sorted(names), labels(names), strict=True)
    ]


def labels(names: tuple[str, ...]) -> list[str]:
    """Return what `numbers_of` calls its columns."""
    return [f"generation_{name}" for name in sorted(names)]


def refuses_kept(environ: Mapping[str, Any]) -> bool:
    """Tell whether the client wants a newly made answer (RFC 9111, 5.2.1)."""
    wish = environ.get("HTTP_CACHE_CONTROL", "")
    return "no-cache" in wish or "no-store" in wish


def rendered(kept: Kept, environ: Mapping[str, Any]) -> tuple[int, list[Header], bytes]:
    """Return status, headers and body for one client: 304 for who has it, compressed for who takes that.

    The compressed answer has a weak ETag, because its bytes are others; what it stands for is the same.
    """
    zipped = kept.gzipped() if accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")) else b""
    etag = f"W/{kept.etag}" if zipped else kept.etag
    if has_already(environ, kept.etag):
        return 304, [*(pair for pair in kept.headers if pair[0] != "Content-Type"), ("ETag", etag)], b""
    body = zipped or kept.body
    own = [("ETag", etag), ("Content-Length", str(len(body)))]
    return 200, [*kept.headers, *own, *([("Content-Encoding", "gzip")] if zipped else [])], body


@lru_cache(maxsize=256)  # browsers send one of a few
def accepts_gzip(accepted: str) -> bool:
    """Tell whether a client takes gzip, by its Accept-Encoding."""
    return parse_accept_header(accepted)["gzip"] > 0


@lru_cache(maxsize=64)
def _generations(names: tuple[str, ...]) -> Statement:
    found: Select[Any] = select(generations.c.n).where(or_(*(generations.c.name == name for name in names)))
    return Statement(found.order_by(generations.c.name))


def _made(response: Response) -> Kept:
    kept = [pair for pair in response.headers.items() if pair[0].lower() not in OWN_HEADERS]
    return Kept(kept, response.get_data(), response.headers["ETag"])


def _tell(how: str) -> None:
    """Tell the client, the log and the metrics what became of the request."""
    headers.add(("Cache-Status", f"walnut; {how}"))
    note(cache=how)
    metrics.CACHE_ANSWERS.labels(how.removeprefix("fwd=")).inc()
