"""How often is too often: the kinds of limit, and their arithmetic.

What is counted for one caller is two whole numbers, `level` and `at`, so that every storage can keep it and all of them
come to the same end. Times are in microseconds since 1970. Each kind says what a request makes of the two (`take`),
and what that means to the caller (`verdict`). api/counting/in_redis.py says `take` once more, in Lua.
"""

import re
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import NamedTuple

import limits

SECOND = 1_000_000
EXACT = 2**53  # whole numbers up to here are exact in Lua, which has nothing but floating point
CENTURY = 100 * 365 * 86400  # in seconds: longer than this nobody is counted, so that times stay exact too

BUCKET = re.compile(r"(token|leaky)-bucket ([1-9]\d*) (refill|leak) (\d+(?:\.\d+)?)/s")
WINDOW = re.compile(r"[1-9]\d* ?(per|/) ?([1-9]\d* ?)?(second|minute|hour|day|month|year)s?")
VERBS = {"token": "refill", "leaky": "leak"}


class Count(NamedTuple):
    """What is kept of one caller. Each kind says what the two numbers mean; nothing kept is (0, 0)."""

    level: int = 0
    at: int = 0


class Taken(NamedTuple):
    """What a request made of a count, and whether it is let in."""

    allowed: bool
    after: Count


class Verdict(NamedTuple):
    """What a caller is told. `reset` is in microseconds from now.

    `remaining` requests are free at once. After `reset` there is one again if there is none, and otherwise all of them.
    """

    allowed: bool
    remaining: int
    reset: int


class Limit(ABC):
    """A kind of limit. `text` is how it is written, `quota` how many at most within `window` seconds."""

    kind: str
    text: str
    quota: int
    window: int
    numbers: tuple[int, ...]  # what the arithmetic needs, for the storage that does it elsewhere

    @abstractmethod
    def highest(self) -> int:
        """Return the highest level there can be: a count above it was not made by us, and is none."""

    def sane(self, level: object, at: object) -> Count:
        """Return a count that a storage gave back, or none if it is damaged."""
        if type(level) is int and type(at) is int and 0 <= level <= self.highest() and at >= 0:
            return Count(level, at)
        return Count()

    @abstractmethod
    def take(self, count: Count, now: int, cost: int = 1) -> Taken:
        """Return what a request makes of the count."""

    @abstractmethod
    def verdict(self, taken: Taken, now: int, cost: int = 1) -> Verdict:
        """Return what to tell the caller."""

    @abstractmethod
    def lasts(self, count: Count, now: int) -> int:
        """Return for how many microseconds the count differs from none."""


class Bucket(Limit):
    """Each request pours one in, time drains it at a steady rate, and what would overflow is refused.

    A token bucket counts what is left, a leaky bucket what is in it: as a meter both are this one, seen from its two
    ends (ITU-T I.371, annex A). It meters and does not shape: nobody waits inside. docs/decisions/0010-limits.md.
    """

    kind = "bucket"

    def __init__(self, text: str, capacity: int, rate: Fraction) -> None:
        """Make one of a capacity in requests and a rate in requests a second. Raises ValueError if not exact."""
        self.text = text
        self.quota = capacity
        self.unit = rate.denominator * SECOND  # how much a request adds, so that `drain` is a whole number
        self.drain = rate.numerator  # how much a microsecond takes away
        self.full = capacity * self.unit
        self.horizon = -(-self.full // self.drain)  # how long a full one takes to drain, in microseconds
        self.numbers = (self.unit, self.drain, self.full, self.horizon)
        self.window = max(1, -(-self.full // (self.drain * SECOND)))
        if self.full + self.unit + self.drain > EXACT or self.window > CENTURY:
            raise ValueError("is too large to be counted exactly")

    def highest(self) -> int:
        """Return what it holds."""
        return self.full

    def take(self, count: Count, now: int, cost: int = 1) -> Taken:
        """Drain what time has drained, then pour in. A count from the future was kept before the clock was set back."""
        before, at = count if count.at <= now + self.horizon else (0, now)
        level = max(0, before - max(0, now - at) * self.drain)
        filled = level + cost * self.unit
        if filled > self.full:
            return Taken(False, Count(level, now))
        return Taken(True, Count(filled, now))

    def verdict(self, taken: Taken, now: int, cost: int = 1) -> Verdict:  # noqa: ARG002 (`at` is now)
        """Return how many there is room for, and when there will be room."""
        level = taken.after.level
        remaining = (self.full - level) // self.unit
        wanted = cost if not taken.allowed else 1 if not remaining else self.quota
        excess = level + wanted * self.unit - self.full
        return Verdict(taken.allowed, remaining, max(0, -(-excess // self.drain)))

    def lasts(self, count: Count, now: int) -> int:  # noqa: ARG002 (`at` is now)
        """Return when it is empty."""
        return -(-count.level // self.drain)


class Window(Limit):
    """So many from the first request on, until the window ends. `at` is when it ends, `level` how many there were."""

    kind = "window"

    def __init__(self, text: str, amount: int, seconds: int) -> None:
        self.text = text
        self.quota = amount
        self.window = seconds
        self.period = seconds * SECOND
        self.numbers = (amount, self.period)

    def highest(self) -> int:
        """Return how many it lets in."""
        return self.quota

    def take(self, count: Count, now: int, cost: int = 1) -> Taken:
        """Count, in a new window if the last has ended, or ends so late that the clock must have been set back."""
        level, ends = count if now < count.at <= now + 2 * self.period else (0, now + self.period)
        if level + cost > self.quota:
            return Taken(False, Count(level, ends))
        return Taken(True, Count(level + cost, ends))

    def verdict(self, taken: Taken, now: int, cost: int = 1) -> Verdict:  # noqa: ARG002 (all come back together)
        """Return how many are left, and when the window ends."""
        return Verdict(taken.allowed, self.quota - taken.after.level, max(0, taken.after.at - now))

    def lasts(self, count: Count, now: int) -> int:
        """Return when it ends."""
        return count.at - now


class Backoff(Limit):
    """Some at once, then each must wait for longer than the one before: 1, 2, 4 ... seconds, up to `most`.

    `level` is how many there were, `at` when the last was. It forgets after `memory` seconds without any.
    """

    kind = "backoff"

    def __init__(self, free: int, most: int, memory: int) -> None:
        self.text = f"{free} at once, then 1 to {most} seconds apart"
        self.quota = free
        self.window = memory
        self.most = most * SECOND
        self.memory = memory * SECOND
        self.numbers = (free, self.most, self.memory)

    def delay(self, level: int) -> int:
        """Return how long to wait after so many, in microseconds."""
        return min(self.most, SECOND << min(level - self.quota, 30)) if level >= self.quota else 0

    def highest(self) -> int:
        """Return more than anybody can have tried, at one try in `most` seconds."""
        return EXACT

    def take(self, count: Count, now: int, cost: int = 1) -> Taken:
        """Count, unless it is too early. A count from the future was kept before the clock was set back."""
        level, at = count if now - self.memory < count.at <= now + self.most else (0, 0)
        if cost and now < at + self.delay(level):
            return Taken(False, Count(level, at))
        return Taken(True, Count(level + cost, now if cost else at))

    def verdict(self, taken: Taken, now: int, cost: int = 1) -> Verdict:  # noqa: ARG002 (one at a time)
        """Return how many may come at once, and when the next may."""
        level, at = taken.after
        return Verdict(taken.allowed, max(0, self.quota - level), max(0, at + self.delay(level) - now))

    def lasts(self, count: Count, now: int) -> int:
        """Return when it forgets."""
        return count.at + self.memory - now


def parse(text: str) -> Limit:
    """Return the limit written `token-bucket 100 refill 10/s`, `leaky-bucket 50 leak 5/s` or `100 per 15 minutes`.

    Raises ValueError if it is written otherwise, stands still, or is too large to be counted exactly.
    """
    if found := BUCKET.fullmatch(text):
        name, capacity, verb, rate = found.groups()
        if VERBS[name] == verb and Fraction(rate):
            return Bucket(text, int(capacity), Fraction(rate))
    if WINDOW.fullmatch(text):
        item = limits.parse(text)
        if item.amount <= EXACT and item.get_expiry() <= CENTURY:
            return Window(text, item.amount, item.get_expiry())
    raise ValueError("is no limit")
