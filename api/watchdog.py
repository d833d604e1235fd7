"""Notices when the event loop of a worker stands still, and says which code held it up.

A request may be slow because it waits (for a lock, for Redis, for a thread): the others run meanwhile. Or because code
runs, or waits in C, without giving way: then every request of the process stands still. Only the second is a fault of
the program, and only its own stack explains it.

Every request that begins or ends is a sign of life, and so is a timer of the loop. A thread of the operating system
looks twenty times a second how old the last sign is, and takes down the stack of what runs if that is too long ago.
Written into the log, once, when the loop goes on. What stops the whole process (SIGSTOP, a machine with no time for it)
is no fault of the code that happened to run: the kernel's account of the thread tells, and it is not reported.
"""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from itertools import islice
from types import FrameType
from typing import NamedTuple

import gevent
from gevent import monkey

from api import metrics

BLOCKED_SECONDS = 0.1  # and longer is a fault
LOOK_SECONDS = 0.05
SAY_AGAIN_SECONDS = 60.0  # the same place is named once a minute at most
DEEP = 12  # frames
SCHEDSTAT = "/proc/thread-self/schedstat"  # https://docs.kernel.org/scheduler/sched-stats.html

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What the thread saw: since which sign of life, what ran, and whether the thread itself came in time."""

    since: float
    stack: str
    on_time: bool


class Account:
    """The kernel's account of the thread this is made in, in seconds."""

    def __init__(self) -> None:
        self._file = os.open(SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC) if os.path.exists(SCHEDSTAT) else None

    def now(self) -> tuple[float, float]:
        """Return for how long it has run, and for how long it could have run and got no processor."""
        if self._file is None:  # not Linux: nobody is known to starve
            return time.thread_time(), 0.0
        ran, waited, _ = os.pread(self._file, 100, 0).split()
        return int(ran) / 1e9, int(waited) / 1e9


class Watchdog:
    """Watches the loop of the process it is started in. Until then, and where there is no loop, it does nothing."""

    def __init__(self) -> None:
        self.blocked = 0.0  # seconds in all; a request that compares knows how much of its time that was
        self._moved_at = 0.0  # by time.perf_counter(); 0: the loop has not run yet
        self._at_tick = (0.0, 0.0)  # what it said at the last tick
        self._seen: Seen | None = None
        self._said: dict[str, float] = {}

    def start(self) -> None:
        """Begin to watch the hub of this thread, from the first time that it runs."""
        self._account = Account()
        self._timer = gevent.get_hub().loop.timer(LOOK_SECONDS, LOOK_SECONDS, ref=False)
        self._timer.start(self._tick)
        start_thread, me = monkey.get_original("_thread", ["start_new_thread", "get_ident"])
        start_thread(self._watch, (monkey.get_original("time", "sleep"), me()))

    def moved(self, now: float) -> None:
        """Take a sign of life: the hub's thread is here at `now` (time.perf_counter())."""
        late = now - self._moved_at
        if late > BLOCKED_SECONDS and self._moved_at:
            self._stood_still(late)
        if self._moved_at:
            self._moved_at = now

    def _tick(self) -> None:
        self._moved_at = self._moved_at or time.perf_counter()
        self.moved(time.perf_counter())
        self._at_tick = self._account.now()

    def _watch(self, sleep: Callable[[float], None], hub: int) -> None:
        """What the thread does. It takes no lock and asks for nothing that the hub's thread could hold."""
        while True:
            slept_at = time.perf_counter()
            sleep(LOOK_SECONDS)
            now, moved_at = time.perf_counter(), self._moved_at
            if moved_at and now - moved_at > BLOCKED_SECONDS and (self._seen is None or self._seen.since != moved_at):
                on_time = now - slept_at < 2 * LOOK_SECONDS
                self._seen = Seen(moved_at, _stack(sys._current_frames().get(hub)), on_time)

    def _stood_still(self, late: float) -> None:
        seen, self._seen = self._seen, None
        if seen is None or seen.since != self._moved_at:
            seen = Seen(0.0, "", on_time=False)
        busy, starved = (now - before for now, before in zip(self._account.now(), self._at_tick, strict=True))
        if late - starved < BLOCKED_SECONDS or (busy < (late - starved) / 2 and not (seen.stack and seen.on_time)):
            return  # the processor was elsewhere, or the whole process was stopped
        self.blocked += late
        metrics.HUB_BLOCKED.inc(late)
        if time.monotonic() >= self._said.get(seen.stack, 0.0):
            if len(self._said) > 100:
                self._said.clear()
            self._said[seen.stack] = time.monotonic() + SAY_AGAIN_SECONDS
            ms = {"blocked_ms": late, "processor_ms": busy, "starved_ms": starved}
            facts = {name: round(seconds * 1000) for name, seconds in ms.items()}
            log.warning("the event loop stood still", extra={**facts, "stack": seen.stack})


def _stack(frame: FrameType | None) -> str:
    """Return where a thread is, innermost first; nothing if it is in the hub, which waits for events.

    Without a look at the sources: while a file is read the loop could go on, and find that nothing was seen yet.
    """
    if frame is None or frame.f_code.co_filename.endswith("gevent/hub.py"):
        return ""
    found = islice(traceback.walk_stack(frame), DEEP)
    return " < ".join(f"{place.f_code.co_name} ({place.f_code.co_filename}:{line})" for place, line in found)


watchdog = Watchdog()  # of this process
