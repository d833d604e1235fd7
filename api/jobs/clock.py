"""A worker's time, which does not jump when somebody sets its clock."""

import time

from api import db

SETTLED_SECONDS = 600.0  # a clock that has been off for so long was set right, not wrong
JUMP = 1000  # milliseconds

# Goes on while the machine sleeps, which CLOCK_MONOTONIC does not (Linux).
_steady = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """Milliseconds since 1970, as the clock said when this began, and as much later as time has passed since."""

    def __init__(self) -> None:
        self._jumped_at: float | None = None
        self._set()

    def now(self) -> int:
        """Return the time. After a jump of the clock it goes on as before, and believes in the jump if that lasts."""
        passed = time.clock_gettime(_steady)
        kept, said = self._offset + int(passed * 1000), db.now()
        if abs(said - kept) <= JUMP:
            self._jumped_at = None
            self._offset += (said > kept) - (said < kept)  # a clock that is slewed is followed
        elif self._jumped_at is None:
            self._jumped_at = passed
        elif passed - self._jumped_at > SETTLED_SECONDS:
            self._jumped_at = None
            self._set()
            return said
        return kept

    def _set(self) -> None:
        self._offset = db.now() - int(time.clock_gettime(_steady) * 1000)
