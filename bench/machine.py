"""What the measurement ran on: cores to give to each side, and a disk that is one."""

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api import sqlite
from tests.system.processes import PROJECT

IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


def cores() -> list[int]:
    """Return the cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def server_core() -> int | None:
    """Return the core for what is measured, or None if there is only one."""
    return cores()[0] if len(cores()) > 1 else None


def generator_core() -> int | None:
    """Return the core for what measures, or None if there is only one."""
    return cores()[-1] if len(cores()) > 1 else None


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run on one core, and so does whatever is started meanwhile. None: wherever the kernel likes."""
    before = cores()
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        if core is not None:
            os.sched_setaffinity(0, before)


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds a folder, as in "ext4", or "unknown"."""
    mounts = Path("/proc/self/mounts")
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()] if mounts.exists() else []
    holding = [(len(place), kind) for place, kind in found if folder.resolve().is_relative_to(place)]
    return max(holding)[1] if holding else "unknown"


@contextmanager
def folder_on_disk() -> Iterator[Path]:
    """Make a folder on a real disk, because a commit on tmpfs costs nothing; remove it afterwards."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), PROJECT / "instance"]
    disk = next((place for place in places if place.is_dir() and file_system(place) not in IN_MEMORY), places[0])
    with tempfile.TemporaryDirectory(prefix="walnut-bench-", dir=disk) as folder:
        yield Path(folder)


def description(folder: Path) -> str:
    """Return one line about the machine, for the report."""
    python = platform.python_version()
    return f"{len(cores())} cores, {file_system(folder)}, Python {python}, SQLite {sqlite.VERSION}, {_system()}"


def busy_since(before: tuple[int, int]) -> float:
    """Return which part of the machine was busy since `ticks` was asked: 1.0 is every core."""
    busy, total = (now - then for now, then in zip(ticks(), before, strict=True))
    return busy / total if total else 0.0


def ticks() -> tuple[int, int]:
    """Return the clock ticks that all cores were busy, and in all, since the machine started."""
    if not Path("/proc/stat").exists():
        return 0, 0
    user, nice, system, idle, iowait, *others = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + iowait


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time that processes have used, all their threads together."""
    ticks_used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks_used += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    return ticks_used / os.sysconf("SC_CLK_TCK")


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform(terse=True)
