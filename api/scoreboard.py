"""Where the worker processes of one replica keep their numbers, so that any of them can answer for all.

Each process writes to files of its own in a folder in shared memory, in the format of prometheus_client's multiprocess
mode; a scrape adds them up (api/tally.py). What a process counted survives it, also `kill -9`: the memory is the
kernel's. The files of a process that has ended are folded into one, so that restarts do not make scrapes slower.

A number is an addition to a memory view here: 0.1 microseconds, against 1.1 for prometheus_client's own MmapedValue,
which also must know the folder before it is imported. See docs/decisions/0015-observability.md.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import mark_process_dead

from api.lease import is_abandoned
from api.tally import add_up

VARIABLE = "WALNUT_SCOREBOARD"  # tells a process which folder is its replica's
PREFIX = "walnut-scoreboard-"
ENDED = 0  # the process id under which those that have ended go on counting
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (on a disk that is full, a write to a memory map kills the process)
KINDS = ("counter", "histogram", "gauge_livesum")
YOUNG = 60.0  # seconds: a folder may be without its owner's lock for a moment when it is new

_cells: "list[Cell]" = []
_files: dict[str, MmapedDict] = {}
_owned: list[int] = []


class Cell:
    """One number, as prometheus_client's metrics use it: in this process's memory at first, in its file once shared.

    Greenlets do not interrupt an addition. Threads might, so what is counted is counted by the hub's thread.
    """

    __slots__ = ("_key", "_kind", "_numbers", "_place")

    def __init__(
        self, typ: str, metric: str, name: str, labels: Any, given: Any, explanation: str, **more: Any
    ) -> None:
        self._kind = "_".join(filter(None, (typ, more.get("multiprocess_mode"))))
        self._key = mmap_key(metric, name, labels, given, explanation)
        self._numbers, self._place = memoryview(bytearray(8)).cast("d"), 0
        _cells.append(self)
        if _files:
            self.move(_files[self._kind])

    def move(self, file: MmapedDict) -> None:
        """Go on counting in a file."""
        found, _ = file.read_value(self._key)  # which makes room for it
        here, self._place = self.get(), file._positions[self._key] // 8
        self._numbers = memoryview(file._m).cast("d")
        self._numbers[self._place] = found + here

    def inc(self, amount: float) -> None:
        """Add."""
        self._numbers[self._place] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002 (part of the interface)
        """Replace."""
        self._numbers[self._place] = value

    def get(self) -> float:
        """Return the number."""
        return float(self._numbers[self._place])

    def get_exemplar(self) -> None:
        """Return nothing: there are no exemplars over several processes."""


values.ValueClass = Cell  # before any metric is made: api/metrics.py imports this first


@cache
def make() -> Path:
    """Make the folder of this replica, once, and remove those of replicas that are gone.

    It is this process's until it ends. Its name is random: replicas share an INSTANCE_PATH, in containers also a PORT.
    """
    root = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if _is_abandoned(folder):
                remove(folder)
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    _owned.append(os.open(made, os.O_RDONLY | os.O_CLOEXEC))
    fcntl.flock(_owned[-1], fcntl.LOCK_EX)
    return made


def remove(folder: Path) -> None:
    """Remove the folder of a replica that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def share(folder: Path) -> None:
    """Let this process's numbers be seen by the others of its replica. Call it once, after the fork."""
    with _locked(folder, fcntl.LOCK_EX):  # a file that is still empty would break a scrape
        _files.update({kind: MmapedDict(str(folder / f"{kind}_{os.getpid()}.db")) for kind in KINDS})
        for cell in _cells:
            cell.move(_files[cell._kind])


def collect(folder: Path) -> Iterator[Metric]:
    """Yield every metric with the numbers of all processes added up."""
    with _locked(folder, fcntl.LOCK_SH):
        yield from add_up(folder.glob("*.db"))


def living(folder: Path) -> list[int]:
    """Return the ids of the processes that share their numbers."""
    return sorted(int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_livesum_*.db"))


def bury(folder: Path, pid: int) -> None:
    """Keep what a process counted that has ended, and forget its gauges."""
    with _locked(folder, fcntl.LOCK_EX):
        mark_process_dead(pid, str(folder))
        for kind in ("counter", "histogram"):
            with suppress(FileNotFoundError):
                _fold(folder / f"{kind}_{pid}.db", folder / f"{kind}_{ENDED}.db")


def _fold(source: Path, target: Path) -> None:
    counted = list(MmapedDict.read_all_values_from_file(str(source)))
    kept = MmapedDict(str(target))
    for key, value, _, _ in counted:
        kept.write_value(key, kept.read_value(key)[0] + value, 0.0)
    kept.close()
    source.unlink()


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Keep a scrape from seeing a number twice, or not at all, while it is moved from one file to another."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)


def _is_abandoned(folder: Path) -> bool:
    """Tell whether a folder is ours by its owner, not new, and no living process has its lock."""
    about = folder.lstat()
    if about.st_uid != os.getuid() or time.time() - about.st_mtime < YOUNG:
        return False
    return is_abandoned(folder)
