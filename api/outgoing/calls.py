"""The call: one POST to one server, with a deadline over all of it."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import gevent
from urllib3 import BaseHTTPResponse

from api.outgoing import urls
from api.outgoing.addresses import allowed
from api.outgoing.answers import MAX_REPLY, TOO_LARGE
from api.outgoing.connections import Connection, Kept, connected
from api.outgoing.failures import CAUSES, CallFailed, failure, timed_out
from api.outgoing.names import Lookup, Names
from api.outgoing.urls import Target
from api.version import __version__

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.1
VALUE = re.compile(r"([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?")  # RFC 9110, 5.5: no line ends above all
OURS = {"host", "user-agent", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect"}
OURS |= {"te", "trailer", "upgrade", "keep-alive"}
DEFAULTS = {"Accept-Encoding": "identity", "User-Agent": f"walnut/{__version__}"}
MAX_ADDRESSES = 4  # of a name that are tried
PIECE = 64 * 1024  # bytes read at once


class Reply(NamedTuple):
    """What a server answered, whatever the status: also a redirect, which is followed by nobody."""

    status: int
    headers: Mapping[str, str]  # in any case; several of a name are joined with commas
    body: bytes  # MAX_REPLY at most


class Calls:
    """Makes calls, and remembers names and connections for the next ones. One for a process."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._names = Names(lookup)
        self._kept = Kept()

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, seconds: float, private: bool) -> Reply:
        """Send a POST and return the answer. All of it together takes `seconds` at most.

        `private` allows addresses of private networks and of this machine, for development and tests. A call with an
        Idempotency-Key is sent a second time if a kept connection turns out to be closed before any byte of an answer.
        Raises CallFailed, and ValueError for a header that cannot be sent.
        """
        sent = {**DEFAULTS, **_checked(headers)}
        if seconds <= 0:
            raise timed_out(0)
        with gevent.Timeout(seconds) as deadline:
            try:
                target = _target(url)
                return self._answered(target, self._addresses(target, private), body, sent, seconds)
            except gevent.Timeout as over:
                if over is not deadline:  # our caller's own
                    raise
                raise timed_out(seconds) from None
            except CAUSES as error:
                raise failure(error) from error

    def close(self) -> None:
        """Close the connections that are kept."""
        self._kept.close()

    def _addresses(self, target: Target, private: bool) -> tuple[str, ...]:
        """Return the addresses to try. If one is not allowed none is: no public server has such an address beside.

        A name that has one is either a mistake or somebody's try to get behind the firewall at the second attempt.
        """
        try:
            found = (target.host,) if target.literal else self._names.addresses(target.host)
        except OSError as error:
            raise CallFailed("connection", "The server's name has no address.", f"{target.host}: {error}") from error
        wrong = [address for address in found if not allowed(address, private=private)]
        if wrong:
            detail = f"{target.host}: {', '.join(wrong)[:200]}"
            raise CallFailed("address", "The server's address is not one of the public Internet.", detail)
        return found[:MAX_ADDRESSES]

    def _answered(
        self, target: Target, addresses: tuple[str, ...], body: bytes, headers: dict[str, str], seconds: float
    ) -> Reply:
        """Return the answer, by a kept connection if there is one."""
        kept = self._kept.take((target.scheme, target.host, target.port), addresses)
        if kept is not None:
            try:
                return self._exchanged(kept, target.path, body, headers, seconds)
            except ConnectionError:  # RFC 9112, 9.3.1: closed at the moment we began, as any idle one may be
                if not (kept.is_untouched and "idempotency-key" in map(str.lower, headers)):
                    raise
        return self._exchanged(connected(target, addresses, seconds), target.path, body, headers, seconds)

    def _exchanged(
        self, connection: Connection, path: str, body: bytes, headers: dict[str, str], seconds: float
    ) -> Reply:
        """Send and receive by a connection, and keep it if it is as it was before, whatever happens."""
        whole = False
        try:
            connection.wait_at_most(seconds)
            reply = _read(connection.send_and_begin(path, body, headers))
            whole = True
            return reply
        finally:
            if whole:
                self._kept.give(connection)
            else:
                connection.abandon()


def _target(url: str) -> Target:
    try:
        return urls.read(url)
    except ValueError as error:
        raise CallFailed("address", str(error)) from None


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers that are no more than headers. Raises ValueError, without the value: it may be secret."""
    for name, value in headers.items():
        if not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            raise ValueError(f"The header {name!a} has characters that no header may have.")
        if name.lower() in OURS:
            raise ValueError(f"The header {name} is set by the call itself.")
    return dict(headers)


def _read(response: BaseHTTPResponse) -> Reply:
    """Return the whole answer. Raises CallFailed for one that is too large, or of a kind that was not asked for."""
    if response.status < 200:  # RFC 9110, 15.2: 100 was passed over; nobody asked for another
        raise CallFailed("malformed", f"The server answered {response.status}, which is no answer to a POST.")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise CallFailed("malformed", "The server compressed its answer, though it was asked not to.", encoding[:100])
    if _length(response) > MAX_REPLY:
        raise CallFailed("too_large", TOO_LARGE)
    body = bytearray()
    while piece := response.read(PIECE):
        body += piece
        if len(body) > MAX_REPLY:
            raise CallFailed("too_large", TOO_LARGE)
    return Reply(response.status, response.headers, bytes(body))


def _length(response: BaseHTTPResponse) -> int:
    """Return what the server says that is to come, 0 if nothing."""
    return getattr(response, "length_remaining", None) or 0


post = Calls().post  # of this process
