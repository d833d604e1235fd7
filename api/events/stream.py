"""What is sent to one listener: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import random
from collections.abc import Iterator
from typing import Any

import gevent

from api.events.hub import Hub
from api.events.listeners import Listener
from api.events.queries import Position, sent

RETRY = (1000, 3000)  # milliseconds: those who were cut off together do not come back together
READ = 1  # libev's EV_READ


class Stream:
    """The body of the answer to one listener (PEP 3333): runs when the view has long returned, without Flask.

    `since` is the last event that he has, `start` where the hub took him in, `socket` the connection, where there is
    one: that he has gone is seen there at once.
    """

    def __init__(self, hub: Hub, listener: Listener, since: Position | None, start: Position, socket: Any) -> None:
        self._hub, self._listener = hub, listener
        self._since, self._start = since, start
        self._watcher = None if socket is None else gevent.get_hub().loop.io(socket.fileno(), READ)

    def __iter__(self) -> Iterator[bytes]:
        if self._watcher:  # whatever he says now, it is goodbye, or another request
            self._watcher.start(self._listener.end)
        yield b"retry: %d\n%b" % (random.randrange(*RETRY), _at(self._since or self._start))  # noqa: S311 (no secret)
        if self._since:
            yield from self._missed(self._since)
        while (piece := self._listener.take()) is not None:
            yield piece or b": still here\n" + _at(self._hub.position)

    def _missed(self, here: Position) -> Iterator[bytes]:
        """Yield what he missed, until where the hub took him in; if that is lost, tell him to fetch all anew."""
        ear = self._listener.ear
        while here != self._start:
            found = self._hub.missed(here, self._start)
            if found is None:
                yield sent(self._start, "reset", {"type": "reset"})
                return
            events, here = found
            gevent.sleep(0)  # others are served
            yield b"".join(event.text for event in events if ear.hears(event.owner, event.is_task)) + _at(here)

    def close(self) -> None:
        """End it. The server calls this, whatever happened."""
        self._hub.leave(self._listener)
        if self._watcher:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None


def _at(position: Position) -> bytes:
    """Return what tells a client how far he has heard, without an event: he goes on from there if he is cut off."""
    return b"id: %b\n\n" % str(position).encode()
