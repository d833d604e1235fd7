"""One who listens: what he may hear, and what waits to be sent to him."""

import errno
import time
from collections import deque
from typing import Any, NamedTuple

import gevent
from gevent.event import Event as Bell

MOST_WAITING = 1 << 20  # bytes: who reads more slowly than things happen is sent away, and goes on from his last event
HEARTBEAT_SECONDS = 15.0  # a sign of life this often: routers forget a silent connection, and the client wants to know


class Ear(NamedTuple):
    """What somebody may hear of: all tasks, or none; all jobs, his own, or none."""

    user_id: str
    tasks: bool
    own_jobs: bool
    all_jobs: bool

    def hears(self, owner: str | None, is_task: bool) -> bool:
        """Tell whether he may hear of a task, or of a job of this owner."""
        return self.tasks if is_task else self.all_jobs or (self.own_jobs and owner == self.user_id)


class Listener:
    """One connection that listens. `expires_at`, of the token it came with, is in seconds since 1970.

    `session_id` is that of the API key if it came with one.
    """

    __slots__ = ("_bell", "_greenlet", "_over", "_pieces", "_waiting", "ear", "expires_at", "rights", "session_id")

    def __init__(self, ear: Ear, session_id: str, rights: frozenset[str], expires_at: float) -> None:
        self.ear, self.session_id, self.rights, self.expires_at = ear, session_id, rights, expires_at
        self._pieces: deque[bytes] = deque()
        self._waiting = 0  # bytes in `_pieces`
        self._bell = Bell()
        self._greenlet: Any = gevent.getcurrent()  # who answers him; None while that waits for something to send
        self._over = False

    def put(self, piece: bytes) -> None:
        """Let a piece be sent to him. Never waits: who does not read is cut off when too much lies there."""
        if self._over:
            return
        self._waiting += len(piece)
        self._pieces.append(piece)
        self._bell.set()
        if self._waiting > MOST_WAITING:
            self.cut_off()

    def take(self) -> bytes | None:
        """Return all that waits to be sent, when there is something; nothing after HEARTBEAT_SECONDS; None at the end.

        The end is also when the token has expired: what comes after is not for him.
        """
        self._greenlet = None
        if not (self._pieces or self._over):
            self._bell.wait(max(0.0, min(HEARTBEAT_SECONDS, self.expires_at - time.time())))
        self._greenlet = gevent.getcurrent()
        if self._over or time.time() >= self.expires_at:
            return None
        found = b"".join(self._pieces)
        self._forget()
        return found

    def end(self) -> None:
        """Let nothing more be sent to him."""
        self._over = True
        self._forget()
        self._bell.set()

    def is_good(self, rights: frozenset[str] | None) -> bool:
        """Tell whether he may go on listening, if these are his rights now; None: his session has ended."""
        return rights == self.rights and time.time() < self.expires_at

    def leave(self) -> None:
        """Let whoever answered him do something else."""
        self.end()
        self._greenlet = None

    def dismiss(self) -> None:
        """End it; when told so again, even if he does not take what is being sent."""
        if self._over:
            self.cut_off()
        else:
            self.end()

    def cut_off(self) -> None:
        """End it even if he does not take what is being sent: whoever sends it meets a broken pipe."""
        self.end()
        if self._greenlet is not None:
            gone = BrokenPipeError(errno.EPIPE, "The listener does not read.")
            gevent.kill(self._greenlet, gone)
            self._greenlet = None

    def _forget(self) -> None:
        self._pieces.clear()
        self._waiting = 0
        self._bell.clear()
