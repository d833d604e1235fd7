"""A lease on a task that one process of the host does at a time; the others stand by, should that one die."""

import fcntl
import os
from pathlib import Path


def is_abandoned(path: Path) -> bool:
    """Tell whether nobody holds a file or folder locked. One that is not there is not known to be anybody's."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


class Lease:
    """A file that its holder keeps locked. The kernel lets go of it when the holder ends, however that comes about."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def held(self) -> bool:
        """Take it if it is free. Tell whether it is ours."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)
