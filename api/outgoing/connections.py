"""Connections to addresses that were checked, and those among them that are kept for the next call.

urllib3 speaks HTTP and TLS. Ours is that the socket goes to one given address, with no second look at the name, which
could say something else by then (DNS rebinding). Host, SNI and the check of the certificate are the name's.
"""

import functools
import select
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gevent import monkey
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection

from api.outgoing.answers import Answer
from api.outgoing.urls import Target

KEPT_SECONDS = 15.0
MAX_KEPT = 256  # in all, so that no list of vendors uses up the files of the process

Key = tuple[str, str, int]  # scheme, name, port


class Connection(HTTPConnection):
    """A connection to one address, made for a name."""

    def __init__(self, target: Target, address: str, **options: Any) -> None:
        super().__init__(target.host, target.port, **options)
        self.key: Key = (target.scheme, target.host, target.port)
        self.address = address
        self.idle_since = 0.0  # by time.monotonic()
        self.answer: Answer | None = None  # to the last request
        self.response_class = self._begun  # type: ignore[assignment]

    def _begun(self, sock: socket.socket, *arguments: Any, **options: Any) -> Answer:
        self.answer = Answer(sock, *arguments, **options)
        return self.answer

    def _new_conn(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((self.address, self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def wait_at_most(self, seconds: float) -> None:
        """Let no single read or write take longer."""
        self.timeout = seconds
        self.sock.settimeout(seconds)

    def send_and_begin(self, path: str, body: bytes, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send a POST and read the answer's headers."""
        self.answer = None
        with suppress(BrokenPipeError):  # who hangs up while it is sent to may have said why
            self.request("POST", path, body, headers, preload_content=False, decode_content=False)
        return self.getresponse()

    @property
    def is_untouched(self) -> bool:
        """Whether not one byte of an answer to the last request has arrived."""
        return self.answer is None or not self.answer.reader.metered.received

    @property
    def is_reusable(self) -> bool:
        """Whether the last answer was read to its end, nothing after it, and the server does not hang up."""
        answer = self.answer
        return self.sock is not None and answer is not None and answer.isclosed() and not answer.reader.surplus

    @property
    def is_alive(self) -> bool:
        """Whether it may be used again: kept for a short time only, and silent. Who hung up has something to read.

        With the system's own poll: gevent's, which urllib3 would ask, does not look without waiting.
        """
        poll = monkey.get_original("select", "poll")()
        poll.register(self.sock, select.POLLIN)
        return time.monotonic() < self.idle_since + KEPT_SECONDS and not poll.poll(0)

    def abandon(self) -> None:
        """Close it, and the answer, which holds the socket too; http.client calls `close` and then reads on."""
        self.close()
        if self.answer is not None:
            self.answer.close()


class TlsConnection(Connection, HTTPSConnection):
    """The same over TLS, with the system's certificate authorities (SSL_CERT_FILE names others)."""

    def __init__(self, target: Target, address: str, **options: Any) -> None:
        super().__init__(target, address, ssl_context=_tls(), **options)


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when its handshake is interrupted: nobody else has it yet, and gevent closes it on errors only."""

    def do_handshake(self, *arguments: Any, **options: Any) -> None:
        try:
            super().do_handshake(*arguments, **options)
        except BaseException:
            self.close()
            raise


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return what TLS needs, read once: it takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.sslsocket_class = _TlsSocket
    return context


def connected(target: Target, addresses: tuple[str, ...], seconds: float) -> Connection:
    """Return a new connection to the first address that takes one, each within its share of the time.

    Raises OSError: the last address's. What is wrong with TLS is so at the others too, and is not tried again.
    """
    make = TlsConnection if target.scheme == "https" else Connection
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        connection = make(target, address, timeout=seconds / len(addresses))
        try:
            connection.connect()
        except BaseException as error:
            connection.abandon()
            if left == 1 or isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
                raise
        else:
            return connection
    raise OSError("no address")


class Kept:
    """Connections that wait for the next call to the same name: the one used last first, MAX_KEPT of them at most."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Connection, Key] = OrderedDict()  # the longest idle first
        self._of: dict[Key, list[Connection]] = {}

    def take(self, key: Key, addresses: tuple[str, ...]) -> Connection | None:
        """Return one to any of these addresses that is still good, or None."""
        while of_key := self._of.get(key):
            connection = of_key[-1]
            self._forget(connection)
            if connection.address in addresses and connection.is_alive:
                return connection
            connection.abandon()
        return None

    def give(self, connection: Connection) -> None:
        """Keep one, or close it if it is of no more use."""
        if not connection.is_reusable:
            connection.abandon()
            return
        connection.idle_since = time.monotonic()
        self._waiting[connection] = connection.key
        self._of.setdefault(connection.key, []).append(connection)
        self._sweep()

    def close(self) -> None:
        """Close them all."""
        while self._waiting:
            self._close(next(iter(self._waiting)))

    def _sweep(self) -> None:
        """Close what has waited too long, and the longest idle of too many."""
        expired = time.monotonic() - KEPT_SECONDS
        while self._waiting:
            oldest = next(iter(self._waiting))
            if oldest.idle_since > expired and len(self._waiting) <= MAX_KEPT:
                return
            self._close(oldest)

    def _close(self, connection: Connection) -> None:
        self._forget(connection)
        connection.abandon()

    def _forget(self, connection: Connection) -> None:
        key = self._waiting.pop(connection)
        self._of[key].remove(connection)
        if not self._of[key]:
            del self._of[key]
