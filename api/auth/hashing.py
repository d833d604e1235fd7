"""The threads that hash passwords, and whose turn it is: a hash of 250 ms must hold up nobody but who asked for it.

The threads run at the lowest priority, so that whatever else there is to do goes first, and all processes of a host
together have half of its cores for it; bcrypt lets go of the interpreter's lock meanwhile. Addresses take turns (fair
queueing, RFC 970): whoever floods the line waits for himself, and somebody from elsewhere for about two hashes. The
line is bounded, for each address and in all: beyond that a client hears 503 at once instead of waiting for nothing,
and it is the longest line that is cut (RFC 7567, 2.2).
"""

import fcntl
import os
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from gevent.threadpool import ThreadPool

from api import metrics
from api.errors import Unavailable

EACH = 24  # hashes that wait for one address: a classroom behind one router may sign in at once
TOTAL = 48  # and for all of them: 12 s of work for one thread
LOWEST = 19  # nice(2)
CORES = max(1, (os.cpu_count() or 2) // 2)  # for hashing, in all processes of a host together: the others answer

Result = TypeVar("Result")


class Turn:
    """One who waits for a place."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.refused = False


class Line:
    """Gives places to those who wait, round robin over who they are. Raises Unavailable when too many wait."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[Turn]] = {}  # whose turn is next stands first
        self._lock = threading.Lock()

    @contextmanager
    def place(self, who: str) -> Iterator[None]:
        """Wait for a place, and have it for the length of a `with` block."""
        if (turn := self._entered(who)) is not None:
            self._wait(who, turn)
        try:
            yield
        finally:
            with self._lock:
                self._pass_on()

    def _entered(self, who: str) -> Turn | None:
        """Take a place that is free, or a turn in the line."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            own = self._waiting.get(who, ())
            longest = max(self._waiting.values(), key=len, default=deque())
            if len(own) >= EACH:
                raise _too_many()
            if sum(map(len, self._waiting.values())) >= TOTAL:
                if len(longest) <= len(own) + 1:
                    raise _too_many()
                self._refuse_last(longest)
            turn = Turn()
            self._waiting.setdefault(who, deque()).append(turn)
            return turn

    def _wait(self, who: str, turn: Turn) -> None:
        """Wait until it is one's turn. Who is made to go before that gives back what he has meanwhile."""
        try:
            turn.called.wait()
        except BaseException:
            with self._lock:
                if turn.called.is_set() and not turn.refused:
                    self._pass_on()
                elif turn in self._waiting.get(who, ()):
                    self._waiting[who].remove(turn)
            raise
        if turn.refused:
            raise _too_many()

    def _pass_on(self) -> None:
        """Give one's place to the next of the address whose turn it is, which then stands last."""
        while self._waiting:
            who = next(iter(self._waiting))
            line = self._waiting.pop(who)
            if line:
                turn = line.popleft()
                if line:
                    self._waiting[who] = line
                turn.called.set()
                return
        self._free += 1

    def _refuse_last(self, line: deque[Turn]) -> None:
        turn = line.pop()
        turn.refused = True
        turn.called.set()


class Hashing:
    """The threads that hash, and the line before them. `folder` is where the processes of a host find one another."""

    def __init__(self, folder: Path) -> None:
        self._locks = [folder / f"hashing-{number}.lock" for number in range(CORES)]
        self._pool = ThreadPool(CORES)
        self._line = Line(CORES)

    def do(self, who: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """Return `work(*arguments)`, done in a thread when it is this address's turn. Raises Unavailable."""
        with metrics.HASHING_QUEUE.track_inprogress(), self._line.place(who):
            result: Result = self._pool.apply(self._quietly, (work, *arguments))
            return result

    def _quietly(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do it at the lowest priority, where a thread can have one of its own: only Linux knows it by its id."""
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        with _one_of(self._locks):
            return work(*arguments)


@contextmanager
def _one_of(locks: list[Path]) -> Iterator[None]:
    """Hold one of these locks, which end with their holder whatever becomes of it. Blocks the thread until then."""
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("ab")) for path in locks]
        if not any(_is_ours(file) for file in files):
            fcntl.flock(random.choice(files), fcntl.LOCK_EX)  # noqa: S311 (no secret)
        yield


def _is_ours(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _too_many() -> Unavailable:
    metrics.HASHING_REFUSED.inc()
    return Unavailable("Too many people are signing in at this moment. Try again in a few seconds.", retry_after=5)
