"""Files that grow by whole lines from many processes at once, one file a day.

Each line is one write to a file opened for appending, which the kernel keeps in one piece however many processes write
(POSIX, write(2)). The handlers of the standard library lose lines when several processes rotate a file.
"""

import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

REOPEN_SECONDS = 10  # a file that was moved or removed is made anew within this time; divides a day


class DatedFile:
    """A file for each day in UTC, NAME-DATE.log, of which the last `days` are kept."""

    def __init__(self, folder: Path, name: str, days: int) -> None:
        self.name = name
        self._folder = folder
        self._days = days
        self._file: int | None = None
        self._opened = -1  # when, in steps of REOPEN_SECONDS
        self._torn = False  # the last line was cut off

    def write(self, line: bytes, created: float) -> str:
        """Add a line to the file of the day it was made (seconds since 1970). Returns what went wrong, or nothing."""
        try:
            file = self._current(int(created) // REOPEN_SECONDS)
            write_whole(file, b"\n" + line if self._torn else line)
        except OSError as error:
            self._torn = self._torn or isinstance(error, CutOff)
            return error.strerror or str(error)
        self._torn = False
        return ""

    def close(self) -> None:
        """Close the file. The next line opens it again."""
        file, self._file, self._opened = self._file, None, -1
        if file is not None:
            os.close(file)

    def _current(self, step: int) -> int:
        if self._file is None or step != self._opened:
            self._open(datetime.fromtimestamp(step * REOPEN_SECONDS, UTC).date())
            self._opened = step
        assert self._file is not None  # noqa: S101 (_open has just set it)
        return self._file

    def _open(self, day: date) -> None:
        """Put the file of a day behind the same number as the last one's: who is about to write cannot miss it."""
        path = self._folder / f"{self.name}-{day}.log"
        is_new = not path.exists()
        file = os.open(path, OPENED, 0o600)
        if self._file is None:
            self._file = file
        else:
            os.dup2(file, self._file, inheritable=False)
            os.close(file)
        if is_new:
            self._remove_older(day - timedelta(days=self._days - 1))

    def _remove_older(self, first_kept: date) -> None:
        for path in self._folder.glob(f"{self.name}-*.log"):
            when = re.fullmatch(rf"{self.name}-(\d{{4}}-\d\d-\d\d)", path.stem)
            if when and when[1] < first_kept.isoformat():
                path.unlink(missing_ok=True)  # another process may have been faster


# Neither through a link nor into a pipe that nobody reads.
OPENED = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class CutOff(OSError):
    """Only the beginning of a line was written."""


def write_whole(file: int, line: bytes) -> None:
    """Write a line with one call. Raises CutOff if the rest of a line that was cut off cannot be written either."""
    written = os.write(file, line)
    if written < len(line):
        try:
            while written < len(line):
                written += os.write(file, line[written:])
        except OSError as error:
            raise CutOff(error.errno, error.strerror) from error
