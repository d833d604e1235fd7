"""An answer as it arrives, with every byte of it counted.

http.client reads any number of interim answers (100 Continue), of chunks and of lines after the last chunk. So the
bound is at the socket.
"""

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

import gevent
from urllib3.util.response import assert_header_parsing

from api.outgoing.failures import CallFailed

MAX_REPLY = 1024 * 1024  # bytes of a body
MAX_WIRE = 2 * MAX_REPLY  # bytes of all that belongs to an answer
HOLD_SECONDS = 0.01  # for which a server that sends without end may keep us busy at a time
GIVE_WAY_SECONDS = 0.0005  # not 0: after that gevent looks neither at its timers nor at other sockets
TOO_LARGE = f"The server's answer is larger than {MAX_REPLY // 1024 // 1024} MiB."


class Metered(io.RawIOBase):
    """Reads from a socket, no more than MAX_WIRE bytes, and lets others run while a fast sender keeps it busy."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.received = 0
        self._gives_way_at = time.perf_counter() + HOLD_SECONDS
        self.done = False  # the answer is whole: what comes now belongs to none

    def readable(self) -> bool:
        """Say yes, for io.BufferedReader."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there. Raises CallFailed beyond MAX_WIRE."""
        if self.done:
            return 0
        if self.received > MAX_WIRE:
            raise CallFailed("too_large", TOO_LARGE)
        if time.perf_counter() > self._gives_way_at:
            gevent.sleep(GIVE_WAY_SECONDS)
            self._gives_way_at = time.perf_counter() + HOLD_SECONDS
        count = int(self._raw.readinto(buffer))
        self.received += count
        return count

    def close(self) -> None:
        """Close the socket's file, which closes the socket if nobody else holds it."""
        self._raw.close()
        super().close()


class Reader(io.BufferedReader):
    """Reads an answer, and notices at its end that more has arrived than belongs to it."""

    def __init__(self, metered: Metered) -> None:
        super().__init__(metered)
        self.metered = metered
        self.surplus = False

    def close(self) -> None:
        """Stop reading."""
        if not self.closed:
            self.metered.done = True
            self.surplus = bool(self.peek())
        super().close()


class Answer(HTTPResponse):
    """An answer as it arrives. One whose headers are not all headers is refused, not read in part."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.reader = self.fp = Reader(Metered(self.fp.detach()))

    def begin(self) -> None:
        """Read the status and the headers."""
        super().begin()
        assert_header_parsing(self.msg)
