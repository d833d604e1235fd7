"""What the processes of a replica take of the machine, from /proc: prometheus_client has that for one process only."""

import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """What /proc/PID/stat says, in seconds and bytes. `started` counts from the start of the machine."""

    processor: float
    processor_of_the_ended: float  # of children that have ended and were waited for
    started: float
    resident: int


def usage(workers: Sequence[int], parent: int | None) -> Iterator[Metric]:
    """Yield what worker processes and their parent use together. Nothing where the kernel has no /proc."""
    if not PROC.joinpath("self/stat").exists():
        return
    workers = [pid for pid in workers if parent is None or _parent(pid) == parent]  # the jobs' worker is none of them
    first, found, processor = _snapshot(workers, parent)
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    fields = {
        "process_resident_memory_bytes": (
            "Memory, what they share counted for each.",
            sum(one.resident for one in found),
        ),
        "process_start_time_seconds": ("When it started, since 1970.", time.time() - up + first.started),
        "process_open_fds": (
            "Open files of the worker that has most of them.",
            max(map(_open_files, workers), default=0),
        ),
        "process_max_fds": ("Files that a worker may open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "walnut_worker_processes": ("Worker processes that answer requests.", len(workers)),
    }
    yield CounterMetricFamily("process_cpu_seconds", "Processor time, of ended workers too.", value=processor)
    for name, (explanation, value) in fields.items():
        yield GaugeMetricFamily(name, explanation, value=value)


def _snapshot(workers: Sequence[int], parent: int | None) -> tuple[Stat, list[Stat], float]:
    """Return the first process, all of them, and their processor time, which never goes back.

    The time of a worker that ends moves to its parent: look again if that happened between the two looks.
    """
    while True:
        before = _stat(parent) if parent else None
        found = [stat for pid in workers if (stat := _stat(pid))]
        after = _stat(parent) if parent else None
        if before is None or after is None:
            return found[0], found, sum(stat.processor for stat in found)
        if before.processor_of_the_ended == after.processor_of_the_ended:
            found.append(after)
            return after, found, after.processor_of_the_ended + sum(stat.processor for stat in found)


def _stat(pid: int) -> Stat | None:
    with suppress(OSError):
        fields = PROC.joinpath(str(pid), "stat").read_bytes().rpartition(b")")[2].split()  # proc(5), from field 3
        ticks = [int(field) / TICKS for field in (*fields[11:15], fields[19])]
        resident = int(fields[21]) * resource.getpagesize()
        return Stat(ticks[0] + ticks[1], ticks[2] + ticks[3], ticks[4], resident)
    return None


def _parent(pid: int) -> int | None:
    with suppress(OSError):
        return int(PROC.joinpath(str(pid), "stat").read_bytes().rpartition(b")")[2].split()[1])
    return None


def _open_files(pid: int) -> int:
    with suppress(OSError):
        return len(os.listdir(PROC / str(pid) / "fd"))
    return 0
