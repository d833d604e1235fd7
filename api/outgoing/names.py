"""Names and their addresses: looked up in threads of their own, once for all who ask at the same time.

The system's resolver cannot be interrupted, and may hang for half a minute over a name whose servers are silent. So
each name takes one thread however many ask, its callers stop waiting when their time is up, and the threads are not
those of the hub, which hash passwords.
"""

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

KEPT_SECONDS = 5.0  # the resolver does not tell how long an answer is good for
THREADS = 16
MAX_NAMES = 1024

Addresses = tuple[str, ...]
Found = tuple[float, Addresses | OSError]  # when, by time.monotonic()
Lookup = Callable[..., Sequence[tuple[Any, Any, Any, Any, Any]]]


class Names:
    """Finds the addresses of names, in the resolver's order (RFC 6724), and remembers them for KEPT_SECONDS."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup or monkey.get_original("socket", "getaddrinfo")
        self._threads: ThreadPool | None = None  # made by the process that uses it, after any fork
        self._known: OrderedDict[str, gevent.Greenlet[..., Found]] = OrderedDict()

    def addresses(self, name: str) -> Addresses:
        """Return the addresses of a name, at least one. Waits, and may be interrupted. Raises OSError."""
        found = self._known.get(name)
        if found is None or (found.ready() and self._is_stale(found)):
            found = self._known[name] = gevent.spawn(self._looked_up, name)
            while len(self._known) > MAX_NAMES:
                self._known.popitem(last=False)
        answer: Addresses | OSError = found.get()[1]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _is_stale(self, found: "gevent.Greenlet[..., Found]") -> bool:
        if not found.successful():
            return True
        at, answer = found.value
        return isinstance(answer, OSError) or time.monotonic() > at + KEPT_SECONDS

    def _looked_up(self, name: str) -> Found:
        """Wait for a thread and for its answer, as a value: what fails in a greenlet is printed."""
        self._threads = self._threads or ThreadPool(THREADS)
        answer = self._threads.apply(self._ask, (name,))
        return time.monotonic(), answer

    def _ask(self, name: str) -> Addresses | OSError:
        try:
            answers = self._lookup(name, None, type=socket.SOCK_STREAM)
        except UnicodeError:
            return OSError("no valid name")
        except OSError as error:
            return error
        return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers)) or OSError("no address")
