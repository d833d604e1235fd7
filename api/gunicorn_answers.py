"""Gunicorn's answers, the same bytes for less: measured in docs/decisions/0004-gunicorn.md.

A header that was checked once is not checked again, the date is written once a second, and an answer whose one piece is
all of its body leaves with its head in one system call, and so in one packet.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from time import time
from typing import Any

import orjson
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from uuid_utils import uuid7

Header = tuple[str, str]
Original = wsgi.Response

# Each of their values is seen once or for a second: not worth remembering.
EACH_TIME_ANOTHER = frozenset(
    {"Content-Length", "ETag", "RateLimit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-ID"}
)
ONE_PIECE = 1 << 16  # bytes: a copy of more costs more than the second system call

_date_of = util.http_date


DETAILS = {  # of what never reaches the app: https://www.rfc-editor.org/rfc/rfc9112
    400: ("malformed", "The request cannot be read as HTTP."),
    403: ("forbidden", "This may not be asked for here."),
    414: ("uri_too_long", "The address is longer than 4,094 bytes. Put less into the query."),
    417: ("expectation_failed", "Of what Expect may ask for, 100-continue is known only."),
    431: ("headers_too_large", "A header is too long, or there are too many of them. Send less."),
    501: ("not_implemented", "This transfer coding is not known. Send the body as it is, or in chunks."),
}
BUG = ("internal_server_error", "Something went wrong here. The log has it under this request_id.")

refused: list[str] = []  # the request id of the refusal that is being answered; its log line has it too


def use(always: Sequence[Header]) -> None:
    """Let the workers of this process answer this way, with these headers also where the app is not asked."""
    wsgi.Response, util.http_date, util.write_error = Response, http_date, partial(write_error, always)


def write_error(always: Sequence[Header], sock: Any, status: int, reason: str, _message: str) -> None:
    """Answer what never reaches the app as the app would: a problem (RFC 9457) that quotes nothing of the client's."""
    code, detail = DETAILS.get(status, BUG)
    request_id = refused.pop() if refused else str(uuid7())
    problem = {"type": f"urn:walnut:problem:{code}", "title": reason, "status": status, "detail": detail}
    body = orjson.dumps(problem | {"instance": "/", "code": code, "request_id": request_id})
    own = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    headers = [("Connection", "close"), ("Date", http_date()), *own, ("X-Request-ID", request_id), *always]
    head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    util.write_nonblock(sock, f"{head}\r\n".encode("latin-1") + body)


def http_date(timestamp: float | None = None) -> str:
    """Return a moment, in seconds since 1970, as HTTP writes it; without one, now."""
    return _second(int(time() if timestamp is None else timestamp))


class Response(Original):  # type: ignore[misc, valid-type]
    """The answer to one request."""

    headers_sent: bool

    def process_headers(self, headers: list[Header]) -> None:
        """Take the headers over, each checked by Gunicorn; those that many answers share, the first time only."""
        for header in headers:
            if header[0] not in EACH_TIME_ANOTHER and _is_plain(header):
                self.headers.append(header)
            else:
                super().process_headers((header,))

    def write(self, arg: bytes) -> None:
        """Send a piece of the body; the head before it, if it has not been sent."""
        if self.headers_sent or self._omits_body or len(arg) != self.response_length or len(arg) > ONE_PIECE:
            super().write(arg)
            return
        head = "".join([*self.default_headers(), *[f"{name}: {value}\r\n" for name, value in self.headers], "\r\n"])
        self.headers_sent, self.sent = True, len(arg)
        self.sock.sendall(head.encode("latin-1") + arg)


class Log(Logger):  # type: ignore[misc]
    """Gunicorn's log without its access log: the app writes one line a request, and knows more.

    With `logconfig_dict` Gunicorn makes up each request's line also where `accesslog` is None, a sixth of the time of a
    kept answer, to hand it to a logger that drops it.
    """

    def access(self, resp: object, req: object, environ: object, request_time: object) -> None:
        """Say nothing."""


@lru_cache(maxsize=512)
def _is_plain(header: Header) -> bool:
    """Tell whether a header goes out just as it is. Raises what Gunicorn raises for one that may not go out at all."""
    probe = Original(None, None, None)
    probe.process_headers([header])
    return bool(probe.headers == [header] and probe.response_length is None)


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return str(_date_of(second))
