"""Who waits for the write lock, seen by every process of the host."""

import fcntl
import os
from pathlib import Path


class Others:
    """Lets processes see that another one waits for the write lock, so that a busy one gives it a turn.

    A process in line shares a lock on a file beside the database; the kernel lets go of it should the process die.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._in_line = False

    def wait_in_line(self) -> None:
        """Show that this process waits."""
        self._in_line = self._in_line or self._lock(fcntl.LOCK_SH)

    def leave_line(self) -> None:
        """Show that it waits no longer."""
        if self._in_line:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._in_line = False

    def are_waiting(self) -> bool:
        """Tell whether another process waits."""
        if not self._lock(fcntl.LOCK_EX):
            return True
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _lock(self, how: int) -> bool:
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
