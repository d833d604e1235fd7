"""The HTTP of each kind of answer, as REDbot's linter sees it (https://github.com/mnot/httplint), on the wire.

The server runs as in production behind a proxy that speaks TLS, with CORS, so that every header there is takes part.
"""

import copy
import dataclasses
import json
import socket
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pysqlite3.dbapi2 as sqlite
import pytest
from httplint import HttpRequestLinter, HttpResponseLinter, levels

from tests.system.clients import PASSWORD, sign_in
from tests.system.conftest import NO_LIMITS
from tests.system.processes import Answer, HttpServer, Walnut

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz"
ORIGIN = "https://app.example.com"
NOBODY = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
JSON = {"Content-Type": "application/json"}

# What the linter says that we do not follow, and why.
EXCUSED = {
    "STATUS_BAD_REQUEST": "says no more than that it is a 400",
    "VARY_COMPLEX": "an address without a version hangs on four headers where CORS is on; one with a version on two",
    "REQUEST_HDR_IN_RESPONSE": "RFC 9110, 12.5.1, has Accept in a 415 too: it says what would have been taken",
}


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A request, and the status its answer must have. `as_admin`: with a token; `also`: headers."""

    status: int
    method: str
    path: str
    body: Any = None
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)
    as_admin: bool = True

    def __str__(self) -> str:
        return f"{self.status} {self.method} {self.path[:60]}"


ANY_JSON = {"title": "x"}
EXCHANGES = [
    # what is there
    Exchange(200, "GET", "/api/v1/tasks?limit=2"),
    Exchange(200, "GET", "/api/v2/tasks?limit=2"),
    Exchange(200, "GET", "/api/tasks?limit=2", also={"X-API-Version": "2"}),
    Exchange(200, "GET", "/api/tasks", also={"Accept": "application/json;version=1;q=0.5, application/json;version=2"}),
    Exchange(200, "GET", "/api/v1/tasks/{task}"),
    Exchange(200, "GET", "/api/v1/users/me"),
    Exchange(200, "HEAD", "/api/v1/tasks/{task}"),
    Exchange(200, "HEAD", "/api/v2/tasks?limit=2"),
    Exchange(201, "POST", "/api/v1/tasks", ANY_JSON),
    Exchange(200, "PATCH", "/api/v1/tasks/{task}", {"title": "y"}),
    Exchange(200, "POST", "/api/v1/auth/login", {"email": "admin@example.com", "password": "{password}"},
             as_admin=False),
    Exchange(204, "DELETE", "/api/v1/tasks/{other}"),
    Exchange(204, "OPTIONS", "/api/v1/tasks", as_admin=False),
    Exchange(204, "OPTIONS", "/api/v1/tasks", also={"Access-Control-Request-Method": "POST"}, as_admin=False),
    Exchange(200, "GET", "/health", as_admin=False),
    Exchange(200, "HEAD", "/health", as_admin=False),
    # what is still good
    Exchange(304, "GET", "/api/v1/tasks/{task}", also={"If-None-Match": "{tag}"}),
    Exchange(304, "HEAD", "/api/v1/tasks/{task}", also={"If-None-Match": "{tag}"}),
    Exchange(304, "GET", "/api/v2/tasks?limit=1", also={"If-None-Match": "*"}),
    Exchange(304, "GET", "/api-docs/openapi.json", also={"If-None-Match": "*"}, as_admin=False),
    Exchange(304, "GET", "/static/favicon.svg", also={"If-None-Match": "*"}, as_admin=False),
    # what is refused
    Exchange(400, "POST", "/api/v1/tasks", b'{"title":', also=JSON),
    Exchange(400, "GET", "/api/v9/tasks"),
    Exchange(400, "GET", "/api/tasks", also={"X-API-Version": "9"}),
    Exchange(401, "GET", "/api/v1/tasks", as_admin=False),
    Exchange(401, "HEAD", "/api/v1/tasks", as_admin=False),
    Exchange(401, "GET", "/api/v1/tasks", also={"Authorization": "Bearer x.y.z"}, as_admin=False),
    Exchange(403, "POST", "/api/v1/tasks", ANY_JSON, also={"Authorization": "Bearer {user}"}, as_admin=False),
    Exchange(404, "GET", f"/api/v1/tasks/{NOBODY}"),
    Exchange(404, "GET", "/nowhere", as_admin=False),
    Exchange(405, "DELETE", "/api/v1/tasks"),
    Exchange(406, "GET", "/api/tasks", also={"Accept": "application/json;version=9"}),
    Exchange(409, "POST", "/api/v1/auth/register", {"username": "admin", "email": "admin@example.com",
             "password": "{password}"}, as_admin=False),
    Exchange(412, "PATCH", "/api/v1/tasks/{task}", {"title": "z"}, also={"If-Match": '"0"'}),
    Exchange(412, "GET", "/api/v1/tasks/{task}", also={"If-Match": '"0"'}),
    Exchange(413, "POST", "/api/v1/tasks", b"x" * (1 << 20) + b"x", also=JSON),
    Exchange(415, "POST", "/api/v1/tasks", b"<x/>", also={"Content-Type": "text/xml"}),
    Exchange(422, "POST", "/api/v1/tasks", {}),
    Exchange(422, "GET", "/api/v2/tasks?cursor=x"),
    # pages, files, the document
    Exchange(200, "GET", "/", as_admin=False),
    Exchange(200, "HEAD", "/", as_admin=False),
    Exchange(200, "GET", "/static/js/main.js", as_admin=False),
    Exchange(200, "GET", "/static/css/walnut.css", as_admin=False),
    Exchange(200, "GET", "/static/favicon.svg", as_admin=False),
    Exchange(206, "GET", "/static/js/main.js", also={"Range": "bytes=0-9"}, as_admin=False),
    Exchange(200, "GET", "/api-docs", as_admin=False),
    Exchange(200, "GET", "/api-docs/assets/swagger-ui.css", as_admin=False),
    Exchange(200, "GET", "/api-docs/openapi.json", as_admin=False),
    Exchange(200, "GET", "/api-docs/openapi.json?version=2", as_admin=False),
]  # fmt: skip


class Walker:
    """Sends exchanges to a server with what they need filled in, and has each answer judged."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.excused: set[str] = set()
        self.admin = sign_in(server)
        tasks = [self._send("POST", "/api/v1/tasks", {"title": f"task {number}"}) for number in range(4)]
        account = {"username": "alice", "email": "alice@example.com", "password": PASSWORD}
        assert server.request("POST", "/api/v1/auth/register", account).status in (201, 409)
        login = server.request("POST", "/api/v1/auth/login", {name: account[name] for name in ("email", "password")})
        self.known = {
            "task": tasks[0].json()["id"],
            "tag": tasks[0].headers["ETag"],
            "other": tasks[1].json()["id"],
            "user": login.json()["access_token"],
            "password": PASSWORD,
        }

    def __call__(self, exchange: Exchange) -> list[str]:
        """Return what is wrong with the answer."""
        if exchange.status == 304:
            self.known["tag"] = self._send("GET", f"/api/v1/tasks/{self.known['task']}").headers["ETag"]
        sent = {name: self._filled(value) for name, value in exchange.also.items()}
        sent = {"Origin": ORIGIN, "X-Forwarded-Proto": "https", "User-Agent": "Walnut's tests"} | sent
        sent = (self.admin if exchange.as_admin else {}) | sent
        body, path = self._filled(exchange.body), self._filled(exchange.path)
        answer = self.server.request(exchange.method, path, body, sent)
        assert answer.status == exchange.status, answer.body[:500]
        found = complaints(exchange.method, path, sent, answer)
        excused = {text for text in found if text.partition(":")[0] in EXCUSED}
        self.excused |= {text.partition(":")[0] for text in excused}
        return [text for text in found if text not in excused]

    def _send(self, method: str, path: str, body: Any = None) -> Answer:
        return self.server.request(method, path, body, self.admin)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._filled(inner) for name, inner in value.items()}
        for name, known in self.known.items() if isinstance(value, str) else ():
            value = value.replace(f"{{{name}}}", known)
        return value


def complaints(method: str, path: str, sent: Mapping[str, str], answer: Answer) -> list[str]:
    """Return what the linter, and what it leaves to others, finds wrong with an answer."""
    asked: Any = HttpRequestLinter()
    asked.process_request_topline(method.encode(), path.encode(), b"1.1")
    asked.process_headers([(b"Host", b"walnut.example.com"), *raw(sent.items())])
    asked.finish_content(True)
    linter: Any = HttpResponseLinter(start_time=time.time(), _related=asked, no_content=method == "HEAD")
    linter.is_head_response = method == "HEAD"
    linter.base_uri = f"https://walnut.example.com{urlsplit(path).path}"
    linter.process_response_topline(b"1.1", str(answer.status).encode(), b"")
    linter.process_headers(list(raw(answer.headers.items())))
    linter.feed_content(answer.body)
    linter.finish_content(True)
    found = [
        f"{type(note).__name__}: {note.summary}" for note in linter.notes if note.level in (levels.BAD, levels.WARN)
    ]
    return [*found, *besides(method, answer)]


def besides(method: str, answer: Answer) -> Iterator[str]:
    """Yield what is wrong that the linter does not look for."""
    names = [name.lower() for name, _ in answer.headers.items()]
    yield from (f"{name} is there twice" for name in set(names) if names.count(name) > 1)
    for name in (
        "date",
        "cache-control",
        "vary",
        "x-request-id",
        "strict-transport-security",
        "x-content-type-options",
    ):
        if name not in names:
            yield f"{name} is missing"
    if "Origin" not in answer.headers["Vary"] or answer.headers["Access-Control-Allow-Origin"] != ORIGIN:
        yield "a page of that origin cannot read it"
    if answer.status in (204, 304) and {"content-type", "content-length", "content-encoding"} & set(names):
        yield "it speaks of a body that there is not"
    if answer.status >= 400 and (
        answer.headers["Content-Type"] != "application/problem+json" or answer.headers["Cache-Control"] != "no-store"
    ):
        yield "it is no problem, or one that a cache may keep"
    if answer.body and (method == "HEAD" or int(answer.headers["Content-Length"]) != len(answer.body)):
        yield "its body is not as long as it says"


def raw(headers: Any) -> Iterator[tuple[bytes, bytes]]:
    """Yield headers as they are on the wire."""
    return ((name.encode(), value.encode("latin1")) for name, value in headers)


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    """A server as behind a proxy that speaks TLS."""
    given = NO_LIMITS | {"APP_ENV": "production", "JWT_SECRET": SECRET, "REGISTER_ADMIN": "first", "TRUSTED_PROXIES": 1}
    with Walnut(tmp_path_factory.mktemp("http"), None, WORKERS=1, CORS_ORIGINS=ORIGIN, **given) as server:
        yield Walker(server)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=str)
def test_the_linter_finds_nothing_wrong(walker: Walker, exchange: Exchange) -> None:
    assert walker(exchange) == []


def test_what_is_excused_is_still_said(walker: Walker) -> None:
    for exchange in EXCHANGES:
        if exchange.status in (400, 415) or exchange.path.startswith("/api/tasks?"):
            walker(exchange)
    assert walker.excused == set(EXCUSED)


def test_nor_when_the_database_is_locked_by_another(walker: Walker) -> None:
    locked = sqlite.connect(str(walker.server.folder / "walnut.db"), isolation_level=None)
    try:
        locked.execute("BEGIN IMMEDIATE")
        assert walker(Exchange(503, "POST", "/api/v1/tasks", ANY_JSON)) == []
    finally:
        locked.close()


def test_the_linter_would_find_something(walker: Walker) -> None:
    """Answers that are wrong, so that "nothing" means something."""
    answer = walker.server.request("GET", "/health", headers={"Origin": ORIGIN, "X-Forwarded-Proto": "https"})
    assert complaints("GET", "/health", {"Origin": ORIGIN}, answer) == []
    for name, value in (
        ("Cache-Control", "no-stor, max-age=x"), ("ETag", "unquoted"), ("Content-Length", "1"), ("Vary", "Ori gin"),
        ("Date", "yesterday"), ("Link", "<x"), ("Deprecation", "true"), ("Access-Control-Allow-Origin", "https://a, b"),
    ):  # fmt: skip
        wrong = copy.deepcopy(answer)
        del wrong.headers[name]
        wrong.headers[name] = value
        assert complaints("GET", "/health", {"Origin": ORIGIN}, wrong), name


OF_THE_MOMENT = {"Date", "X-RateLimit-Reset"}


@pytest.mark.parametrize(
    "path", ["/api/v1/tasks", "/api/v2/tasks?limit=2", "/", "/static/js/main.js", "/api-docs", "/nowhere"]
)
def test_head_is_get_without_a_body(walker: Walker, path: str) -> None:
    sent = walker.admin | {"X-Request-ID": "same"}
    _, got, head = (walker.server.request(method, path, headers=sent) for method in ("GET", "GET", "HEAD"))
    assert (head.status, head.body) == (got.status, b"")
    ours = [
        {(name, value) for name, value in answer.headers.items() if name not in OF_THE_MOMENT} for answer in (got, head)
    ]
    assert ours[0] == ours[1]
    assert int(head.headers["Content-Length"]) == len(got.body)


@pytest.mark.parametrize(("sent", "status", "code"), [
    (b"GET /api/v1/tasks?q=" + b"a" * 9000 + b" HTTP/1.1", 414, "uri_too_long"),
    (b"GET / HTTP/1.1\r\nX-Big: " + b"a" * 20000, 431, "headers_too_large"),
    (b"GARBAGE", 400, "malformed"), (b"GET / HTTP/9.9", 400, "malformed"),
    (b"GET / HTTP/1.1\r\nX Y: z", 400, "malformed"),
    (b"POST / HTTP/1.1\r\nTransfer-Encoding: rot13", 501, "not_implemented"),
])  # fmt: skip
def test_what_never_reaches_the_app_is_a_problem_too(walker: Walker, sent: bytes, status: int, code: str) -> None:
    """Gunicorn refuses it: with the same headers, nothing of it quoted, and a line in the log under its id."""
    with socket.create_connection(("127.0.0.1", walker.server.port), timeout=10) as connection:
        connection.sendall(sent + b"\r\nHost: localhost\r\n\r\n")
        answer = HTTPResponse(connection)
        answer.begin()
        problem = json.loads(answer.read())
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    lines = [line for line in walker.server.log.read_text().splitlines() if problem["request_id"] in line]
    assert len(lines) == 1
    assert "aaaa" not in lines[0] + json.dumps(problem)
