"""Answers repeated GETs in front of Flask: the same path and query as before, and nothing has changed since.

It checks what the corridor would check: in one statement that the session or the API key is good, its user may, and the
generations are those of the kept answer; then the limit. Whatever it is not sure of it leaves to Flask, which also says
what is wrong.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from flask import Flask
from sqlalchemy.exc import DBAPIError

from api import db, metrics, sqlite
from api.answers import Answers, Kept
from api.counting.counter import Counter
from api.errors import Unavailable
from api.exchange import FACTS
from api.settings import Settings
from api.statements import Row, Statement
from api.web import access_tokens, api_keys, cache, guard, headers, limits
from api.web.access_tokens import Token
from api.web.cache import Place

MANY = 10_000  # how many pairs of path and query, and how many tokens, are remembered
TOKEN_CHARACTERS = 1000  # ours have some 350; what is longer is padded
QUERY_CHARACTERS = 200  # longer queries are not asked often enough
STATUS = {200: "200 OK", 304: "304 NOT MODIFIED"}
HIT = ("Cache-Status", f"walnut; {cache.HIT}")

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def init_app(app: Flask, _settings: Settings) -> None:
    """Stand in front of the app."""
    app.wsgi_app = Edge(app)  # type: ignore[method-assign]


class Edge:
    """WSGI: answers what it has, remembers where it could have."""

    def __init__(self, app: Flask) -> None:
        self.wsgi_app: Wsgi = app.wsgi_app
        self._database: db.Database = app.extensions["database"]
        self._answers: Answers = app.extensions["answers"]
        self._limits: Counter = app.extensions["limits"]
        self._strict: bool = app.extensions["settings"].require_admin_totp
        self._places: OrderedDict[tuple[str, str], Place] = OrderedDict()
        self._tokens: OrderedDict[str, Token] = OrderedDict()  # by the header that showed them, as the guard saw them

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        if environ["REQUEST_METHOD"] != "GET":
            return self.wsgi_app(environ, start_response)
        where = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
        place = self._places.get(where)
        if place is not None and (kept := self._kept(environ, place)) is not None:
            status, headers, body = cache.rendered(kept, environ)
            start_response(STATUS[status], [*headers, HIT])
            return (body,)
        found = self.wsgi_app(environ, start_response)
        if cache.PLACE in environ and access_tokens.SEEN in environ and len(where[1]) <= QUERY_CHARACTERS:
            _remember(self._places, where, environ[cache.PLACE])
            if len(environ["HTTP_AUTHORIZATION"]) <= TOKEN_CHARACTERS:
                _remember(self._tokens, environ["HTTP_AUTHORIZATION"], environ[access_tokens.SEEN])
        return found

    def _kept(self, environ: Environ, place: Place) -> Kept | None:
        """Return the answer that this request would get from the corridor, if that is certain."""
        token = self._tokens.get(environ.get("HTTP_AUTHORIZATION", ""))
        if (
            token is None
            or token.expires_at <= time.time()
            or cache.refuses_kept(environ)
            or "HTTP_IF_MATCH" in environ
        ):
            return None
        caller = self._caller(token, place)
        if caller is None or not guard.may(caller, place.contract.allow):
            return None
        reader = None if place.contract.shared else caller["id"]
        kept = self._answers.here(
            cache.key_of(place.stem, reader, [caller[name] for name in cache.labels(place.contract.cache)])
        )
        if kept is None or not self._within_limit(environ, place.contract.limit, caller["id"]):
            return None
        headers.add_to(environ, *place.farewell)
        metrics.CACHE_HITS.inc()
        environ[FACTS] = {"route": place.route, "user_id": caller["id"], "cache": cache.HIT}
        if token.is_key:
            environ[FACTS]["api_key_id"] = token.session_id
            api_keys.used(self._database, caller)
        return kept

    def _within_limit(self, environ: Environ, name: str | None, user_id: str) -> bool:
        """Count the request, once: who is over his limit, or cannot be counted, is told so by Flask."""
        if name is None:
            return True
        try:
            verdict = environ[limits.VERDICT] = limits.count(self._limits, name, limits.as_user(user_id))
        except Unavailable:
            return False
        if verdict is None:
            return True
        if verdict.allowed:
            headers.add_to(environ, *limits.described(name, self._limits.limits[name], verdict))
        return verdict.allowed

    def _caller(self, token: Token, place: Place) -> Row | None:
        """Return who is calling, and the generations, as one statement sees them; None if that is not certain."""
        try:
            with db.Reading(self._database, snapshot=False) as conn:
                question = _question(place.contract.cache, token.is_key)
                return guard.known(question, conn, token, strict=self._strict)
        except (Unavailable, DBAPIError, sqlite.driver.Error):
            return None


def _remember(there: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    there[key] = value
    if len(there) > MANY:
        there.popitem(last=False)


@lru_cache(maxsize=64)
def _question(names: tuple[str, ...], is_key: bool) -> Statement:
    return Statement(guard.CALLER_QUERIES[is_key].add_columns(*cache.numbers_of(names)))
