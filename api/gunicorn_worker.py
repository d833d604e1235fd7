"""Gunicorn's gevent worker, made to end without dropping a request and without waiting for idle connections.

Gunicorn's own closes its listener while connections wait in the kernel's queue, which resets them, and then waits as
long as `keepalive` for connections that say nothing. This one first takes in who is in the queue, and then hangs up on
who stays silent. Measured in docs/decisions/0004-gunicorn.md.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker
from uuid_utils import uuid7

from api import gunicorn_answers

LOOK_SECONDS = 0.1  # how often a worker looks whether it is to end
SILENT_SECONDS = 1.0  # how long a connection may still be silent once it is


class Silence(gevent.Timeout):  # type: ignore[misc]
    """The wait for a connection's next request: ends by itself after `keepalive` seconds, or when hung up on."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.cfg.keepalive if worker.alive else SILENT_SECONDS, False)
        self._silent = worker.silent

    def __enter__(self) -> Any:
        self._greenlet = gevent.getcurrent()
        self._silent.add(self)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> Any:
        self._silent.discard(self)
        return super().__exit__(*raised)

    def hang_up(self) -> None:
        """End the wait."""
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        if self in self._silent:  # a request may have come in since
            self._greenlet.throw(self)


class Listener(NamedTuple):
    """Stands for a listener, which may be closed when Gunicorn asks its name to handle one of its connections."""

    name: Any

    def getsockname(self) -> Any:
        """Return the address."""
        return self.name


class Worker(GeventWorker):  # type: ignore[misc]
    """One worker process."""

    always: Sequence[gunicorn_answers.Header] = ()  # headers of every answer, also of those that the app does not give
    told: Any  # the signals that the master's handler took: the worker has a copy from the fork on

    def init_process(self) -> None:
        """Run until told to end."""
        self.silent: set[Silence] = set()
        gunicorn_answers.use(self.always)
        super().init_process()

    def init_signals(self) -> None:
        """Hear signals; end at once if one that ends came in since the fork, when the master's handler took it."""
        super().init_signals()
        while not self.told.empty():
            if self.told.get_nowait() in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                sys.exit(0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what never reaches the app, with a request id that its line in the log has too."""
        gunicorn_answers.refused[:] = [str(uuid7())]
        super().handle_error(req, client, addr, exc)

    def timeout_ctx(self) -> Silence:
        """Return the wait for a connection's next request."""
        return Silence(self)

    def run(self) -> None:
        """Serve; when told to end, stop listening, and let those end who are here."""
        servers = [self._server(listener) for listener in self.sockets]
        self._wait(lambda: not self.alive)
        for server in servers:
            self._take_in_who_waits(server)
            server.close()
        hang_up = gevent.spawn_later(SILENT_SECONDS, self._hang_up)
        deadline = monotonic() + self.cfg.graceful_timeout
        self._wait(lambda: monotonic() > deadline or not any(len(server.pool) for server in servers))
        hang_up.kill()
        for server in servers:
            server.stop(timeout=1)

    def _server(self, listener: Any) -> StreamServer:
        listener.setblocking(1)
        handle = partial(self.handle, Listener(listener.getsockname()))
        server = StreamServer(listener, handle=handle, spawn=Pool(self.worker_connections))
        # At a time: with 1 the last of 64 that arrive together waits for a second; with 100 the other workers get none.
        server.max_accept = 100 if self.cfg.workers == 1 else 16
        server.start()
        return server

    def _wait(self, until: Callable[[], bool]) -> None:
        while not until():
            self.notify()
            gevent.sleep(LOOK_SECONDS)

    def _take_in_who_waits(self, server: StreamServer) -> None:
        server.stop_accepting()
        while not server.full() and (accepted := server.do_read()):
            server.do_handle(*accepted)

    def _hang_up(self) -> None:
        for silence in list(self.silent):
            silence.hang_up()
