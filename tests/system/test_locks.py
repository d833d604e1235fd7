"""The write lock in foreign hands: writers wait for it, readers do not, nobody is shown SQLite's own words."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.clients import QUIET, Load, Reader, add_task, assert_nothing_lost, percentile, sign_in
from tests.system.processes import Walnut, wait_until

CONNECTIONS = 64
DEADLINE = 5.0  # seconds a writer waits (api/db.py)
pytestmark = pytest.mark.alone

HOLDER = """
import sys, pysqlite3
connection = pysqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
connection.close()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    with Walnut(tmp_path_factory.mktemp("locks"), **QUIET) as walnut:
        yield walnut


@pytest.fixture(scope="module")
def headers(server: Walnut) -> dict[str, str]:
    return sign_in(server)


@contextmanager
def lock_held(instance: Path) -> Iterator[None]:
    """Hold the write lock from another program for the length of a `with` block."""
    command = [sys.executable, "-c", HOLDER, str(instance / "walnut.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.stdin.close()
            holder.wait(30)


def test_two_seconds_without_the_lock_reach_no_client_and_reads_go_on(server: Walnut, headers: dict[str, str]) -> None:
    with Load(server, headers, CONNECTIONS) as load, Reader(server, headers) as reader:
        wait_until(lambda: len(load.acknowledged) > CONNECTIONS, 10, "writes")
        with lock_held(server.instance):
            held = time.monotonic() + 0.2  # what was on its way when the lock was taken
            time.sleep(0.2)
            known = len(load.acknowledged)
            time.sleep(1.8)
            let_go = time.monotonic()
            assert len(load.acknowledged) == known  # it was held indeed
        wait_until(lambda: len(load.acknowledged) > known + CONNECTIONS, 10, "writes after the lock is free")
    assert not load.failures()
    assert 1.5 < max(load.seconds) < DEADLINE

    assert {status for _, _, status in reader.reads} == {200}
    reads = reader.within(held, let_go)
    print(f"writes: {len(load.acknowledged)}, slowest {max(load.seconds):.2f} s")
    print(
        f"reads while held: {len(reads)}, p99 {percentile(reads, 0.99) * 1000:.1f} ms, max {max(reads) * 1000:.1f} ms"
    )
    assert len(reads) > 100
    assert percentile(reads, 0.99) < 0.05


def test_past_the_deadline_a_writer_hears_503_and_nothing_of_sqlite(server: Walnut, headers: dict[str, str]) -> None:
    with Load(server, headers, CONNECTIONS) as load:
        wait_until(lambda: len(load.acknowledged) > CONNECTIONS, 10, "writes")
        with lock_held(server.instance):
            time.sleep(DEADLINE + 1.5)
            assert server.request("GET", "/api/v1/tasks", headers=headers).status == 200
            assert server.request("GET", "/health").status == 200
            load.stop()
    assert not load.failed
    assert len(load.refused) >= CONNECTIONS
    for answer in load.refused:
        assert answer.status == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["code"] == "unavailable"
        assert b"locked" not in answer.body.lower()
        assert b"sqlite" not in answer.body.lower()
    assert add_task(server, headers).status == 201
    assert "Traceback" not in server.log.read_text()


def test_replicas_on_one_folder_share_the_lock_fairly(tmp_path: Path) -> None:
    settings = QUIET | {"WORKERS": 1}
    with Walnut(tmp_path, **settings) as one, Walnut(tmp_path, **settings) as other:
        headers = sign_in(one)
        began = time.monotonic()
        with Load(one, headers, 16) as first, Load(other, headers, 16) as second:
            time.sleep(3)
        took = time.monotonic() - began
    rates = [len(load.acknowledged) / took for load in (first, second)]
    p99s = [percentile(load.seconds, 0.99) for load in (first, second)]
    print(f"writes/s {rates[0]:.0f} and {rates[1]:.0f}, p99 {p99s[0] * 1000:.0f} and {p99s[1] * 1000:.0f} ms")
    assert not first.failures()
    assert not second.failures()
    assert min(rates) > max(rates) / 3
    assert max(p99s) < 1.0
    assert_nothing_lost(one, first.acknowledged + second.acknowledged)


def test_a_replica_starts_while_another_writes(server: Walnut, headers: dict[str, str]) -> None:
    with Load(server, headers, 16) as load:
        wait_until(lambda: len(load.acknowledged) > 50, 10, "writes")
        with Walnut(server.instance, **QUIET) as second:
            assert add_task(second, headers).status == 201
    assert not load.failures()
