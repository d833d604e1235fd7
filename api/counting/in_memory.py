"""Counts in this process alone: for tests, and when the host's file cannot be had."""

import threading
import time
from collections.abc import Callable

from api.rates import Count, Limit, Verdict

MANY = 10_000  # counts that are kept before those that have run out are looked for


def microseconds() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000


class InMemory:
    """A dictionary of counts, and when each is as good as none."""

    def __init__(self, clock: Callable[[], int] = microseconds) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[Count, int]] = {}
        self._many = MANY
        self._lock = threading.Lock()

    def take(self, key: str, limit: Limit, cost: int = 1, *, keep: bool = True, seen: Count | None = None) -> Verdict:
        """Count a request and return the verdict. Without `keep` it is only asked. `seen` is as in InSQLite."""
        with self._lock:
            now = self._clock()
            kept, _ = self._counts.get(key, (Count(), 0))
            taken = limit.take(worse(limit, kept, seen, now) if seen else kept, now, cost)
            if keep and taken.allowed:
                self._counts[key] = (taken.after, now + limit.lasts(taken.after, now))
                if len(self._counts) > self._many:
                    self._sweep(now)
        return limit.verdict(taken, now, cost)

    def clear(self, key: str) -> None:
        """Forget one caller."""
        self._counts.pop(key, None)

    def reset(self) -> None:
        """Forget everybody."""
        self._counts.clear()

    def alive(self) -> bool:
        """Tell whether it can count."""
        return True

    def _sweep(self, now: int) -> None:
        self._counts = {key: kept for key, kept in self._counts.items() if kept[1] > now}
        self._many = max(MANY, 2 * len(self._counts))


def worse(limit: Limit, one: Count, other: Count, now: int) -> Count:
    """Return the count that leaves its caller less."""

    def left(count: Count) -> tuple[int, int]:
        verdict = limit.verdict(limit.take(count, now, 0), now)
        return verdict.remaining, -verdict.reset

    return min(one, other, key=left)
