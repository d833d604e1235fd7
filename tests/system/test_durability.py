"""Acknowledged means on disk: seen in the system calls of the workers, and on a disk that is full."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.clients import QUIET, Load, add_task, assert_nothing_lost, sign_in
from tests.system.processes import Answer, Walnut, program, wait_until

CALLS = "trace=pwrite64,fdatasync,fsync,sendto"
TITLE = re.compile(r"task \d+")  # in the log's pages a letter follows, so `task 1` is not found in `task 11`


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    with Walnut(tmp_path_factory.mktemp("durable"), **QUIET | {"WORKERS": 1}) as walnut:
        yield walnut


@pytest.fixture(scope="module")
def headers(server: Walnut) -> dict[str, str]:
    return sign_in(server)


@contextmanager
def traced(walnut: Walnut, log: Path) -> Iterator[None]:
    """Write every system call of the workers that matters for durability to `log`, with its file and its bytes."""
    strace = [program("strace", "strace"), "-f", "-y", "-s", "8192", "-e", CALLS, "-e", "signal=none", "-o", str(log)]
    pids = [word for pid in walnut.worker_pids() for word in ("-p", str(pid))]
    with subprocess.Popen([*strace, *pids], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr
        line = tracer.stderr.readline()
        assert "attached" in line, line
        try:
            yield
        finally:
            time.sleep(0.2)
            tracer.terminate()
            tracer.communicate(timeout=30)


def syncs(log: Path) -> int:
    """Return how often the write-ahead log was brought to disk."""
    return len(re.findall(r"f(?:data)?sync\(\d+<[^>]*walnut\.db-wal>\) += 0", log.read_text(errors="replace")))


def assert_each_was_on_disk_before_its_answer(log: Path, count: int) -> None:
    """Each title was written to the log, then that was brought to disk, and only then was it sent to its client."""
    written: set[str] = set()
    on_disk: set[str] = set()
    sent: set[str] = set()
    for line in log.read_text(errors="replace").splitlines():
        assert "unfinished" not in line or "sync" not in line, (
            "one thread writes, so no sync overlaps with another call"
        )
        if "pwrite64(" in line and "walnut.db-wal>" in line:
            written |= set(TITLE.findall(line))
        elif "sync(" in line and "walnut.db-wal>" in line and line.endswith("= 0"):
            on_disk |= written
        elif "sendto(" in line:
            answered = set(TITLE.findall(line))
            assert answered <= on_disk, f"sent before it was on disk: {answered - on_disk}"
            sent |= answered
    assert len(sent) == count


def test_one_after_another_each_write_is_on_disk_before_its_answer(
    server: Walnut, headers: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    with traced(server, log):
        for number in range(20):
            assert add_task(server, headers, f"task {number}").status == 201
    print(f"20 writes one after another: {syncs(log)} syncs")
    assert syncs(log) >= 20
    assert_each_was_on_disk_before_its_answer(log, 20)


def test_at_once_they_share_syncs_and_still_each_is_on_disk_before_its_answer(
    server: Walnut, headers: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    with traced(server, log), Load(server, headers, 64) as load:
        wait_until(lambda: len(load.acknowledged) > 300, 30, "writes")
    print(f"{len(load.acknowledged)} writes, 64 at a time: {syncs(log)} syncs")
    assert not load.failures()
    assert syncs(log) < len(load.acknowledged)
    assert_each_was_on_disk_before_its_answer(log, len(load.acknowledged))


# ---- A full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounts a file system, which only root may")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def leave_no_room(disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))


def make_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=256m", disk], check=True)


def fill(walnut: Walnut, headers: dict[str, str]) -> list[str]:
    """Add tasks until the disk is full. Returns the titles that were acknowledged."""
    kept: list[str] = []
    for number in range(2000):
        answer = add_task(walnut, headers, f"kept {number}", description="x" * 9000)
        if answer.status != 201:
            assert_says_full(answer)
            return kept
        kept.append(f"kept {number}")
    raise AssertionError("the disk does not fill")


def assert_says_full(answer: Answer) -> None:
    assert (answer.status, answer.json()["code"]) == (503, "unavailable"), answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "disk is full" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_full_disk_is_named_loses_nothing_and_is_recovered_from(small_disk: Path, tmp_path: Path) -> None:
    server = Walnut(small_disk, **QUIET)
    server.log = tmp_path / "output.log"
    with server:
        headers = sign_in(server)
        kept = fill(server, headers)
        assert len(kept) > 10
        leave_no_room(small_disk)

        with Load(server, headers, 8) as load:  # small ones, at once: none may be acknowledged and lost either
            time.sleep(1)
        assert not load.failed
        for answer in load.refused:
            assert_says_full(answer)
        assert load.refused
        for path in ("/health/live", "/health", "/health/ready", "/api/v1/tasks"):
            assert server.request("GET", path, headers=headers).status == 200

        make_room(small_disk)
        wait_until(lambda: add_task(server, headers, "room again").status == 201, 10, "a write after there is room")
        with Load(server, headers, 8) as after:
            time.sleep(0.5)
        assert not after.failures()
    assert_nothing_lost(server, [*kept, *load.acknowledged, *after.acknowledged, "room again"])
    assert "Traceback" not in server.log.read_text()


def test_a_full_disk_under_the_log_harms_no_request(small_disk: Path, tmp_path: Path) -> None:
    """Standard output goes to a file on that disk, the database is on another."""
    server = Walnut(tmp_path / "instance", **QUIET | {"LOG_LEVEL": "info"})
    server.log = small_disk / "output.log"
    with server:
        headers = sign_in(server)
        leave_no_room(small_disk)
        with Load(server, headers, 4) as load:
            time.sleep(1)
        assert load.acknowledged
        assert not load.failures()


def test_a_server_whose_disk_is_full_starts_and_reads(small_disk: Path, tmp_path: Path) -> None:
    server = Walnut(small_disk, **QUIET)
    server.log = tmp_path / "output.log"
    with server:
        headers = sign_in(server)
        kept = fill(server, headers)
    leave_no_room(small_disk)
    with server:
        for path in ("/health", "/health/ready", "/api/v1/tasks"):
            assert server.request("GET", path, headers=headers).status == 200
        kept += fill(server, headers)
        make_room(small_disk)
        wait_until(lambda: add_task(server, headers, "room again").status == 201, 10, "a write after there is room")
    assert_nothing_lost(server, [*kept, "room again"])
    assert "Traceback" not in server.log.read_text()
