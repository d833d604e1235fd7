"""`kill -9` of any process, under load: nothing acknowledged is lost, and the service comes back by itself.

Three rounds of each kind by default; `make crash` runs 100 rounds (CRASH_ROUNDS).
"""

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.clients import QUIET, Load, add_task, assert_nothing_lost, sign_in
from tests.system.processes import Walnut, wait_until

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
WRITERS = 8
BACK_WITHIN = 20.0  # seconds; a Gunicorn master that finds the port still taken tries again for five


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Walnut]:
    with Walnut(tmp_path, **QUIET) as walnut:
        yield walnut


def family(walnut: Walnut) -> tuple[int, list[int]]:
    """The process ids of Gunicorn's master, which is the supervisor's child, and of its workers; (0, []) if none."""
    pids = walnut.pids()
    master = next((pid for pid, parent in pids.items() if parent == walnut.pid), 0)
    return master, [pid for pid, parent in pids.items() if master and parent == master]


def is_whole(walnut: Walnut) -> bool:
    """Whether there is a supervisor, a master and two workers, and nobody left from before."""
    return len(family(walnut)[1]) == 2 and len(walnut.pids()) == 4


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def kill(walnut: Walnut, whom: str) -> None:
    """Kill -9 one process, or all that Gunicorn is, or all, and wait until it is gone."""
    master, workers = family(walnut)
    assert workers, f"{walnut.pids()}, supervisor {walnut.pid}\n{walnut.tail()}"
    victims = {
        "worker": random.sample(workers, 1),
        "master": [master],
        "Gunicorn": [master, *workers],
        "supervisor": [walnut.pid],
        "all": [walnut.pid, master, *workers],
    }[whom]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not set(victims) & set(walnut.pids()), 5, f"kill {whom}")


def assert_serves_again(walnut: Walnut, load: Load) -> None:
    """All processes are there, writes are acknowledged again, and /health says ok."""
    wait_until(lambda: is_whole(walnut), BACK_WITHIN, "supervisor, master, two workers and nobody else")
    known = len(load.acknowledged)
    wait_until(lambda: len(load.acknowledged) > known + WRITERS, BACK_WITHIN, "acknowledged writes")
    health = walnut.request("GET", "/health")
    assert (health.status, health.json()["status"]) == (200, "ok")


@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_whoever_is_killed(server: Walnut) -> None:
    kinds = ["worker", "supervisor", "Gunicorn", "all", "master"]
    with Load(server, sign_in(server), WRITERS) as load:
        for number in range(ROUNDS):
            assert_serves_again(server, load)
            time.sleep(random.uniform(0.05, 0.5))
            whom = kinds[number % len(kinds)]
            print(f"round {number}: {whom}, {len(load.acknowledged)} acknowledged so far", flush=True)
            kill(server, whom)
            if whom in ("supervisor", "all"):
                wait_until(lambda: not server.pids() and is_free(server.port), 10, "what the supervisor left behind")
                server.start()
        assert_serves_again(server, load)
    print(f"{ROUNDS} rounds, {len(load.acknowledged)} acknowledged, {len(load.failed)} requests cut")
    assert not load.refused, load.failures()
    server.terminate()
    assert_nothing_lost(server, load.acknowledged)


def test_the_service_comes_back_by_itself(server: Walnut) -> None:
    headers, supervisor = sign_in(server), server.pid
    for whom in ("worker", "Gunicorn", "master"):
        kill(server, whom)
        wait_until(lambda: is_whole(server), BACK_WITHIN, f"{whom} again")
        wait_until(server.is_ready, 5, "ready again")
        assert add_task(server, headers).status == 201
        assert server.pid == supervisor
        assert server.running


def test_killing_the_supervisor_leaves_no_process_and_a_free_port(server: Walnut) -> None:
    with Load(server, sign_in(server), WRITERS) as load:
        assert_serves_again(server, load)
        kill(server, "supervisor")
        wait_until(lambda: not server.pids(), 5, "what the supervisor started ends with it")
        assert is_free(server.port)
    assert_nothing_lost(server, load.acknowledged)


def test_a_request_that_was_cut_off_is_not_carried_out(server: Walnut) -> None:
    """A client that dies in the middle: what came of the body may look whole (RFC 9112, 8)."""
    headers = sign_in(server)
    lines = [
        "POST /api/v1/tasks HTTP/1.1",
        "Host: localhost",
        f"Authorization: {headers['Authorization']}",
        "Content-Type: application/json",
        "Content-Length: 60",
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "", '{"title": "cut off"}']).encode())
        client.shutdown(socket.SHUT_WR)
        client.recv(1000)
    assert server.request("GET", "/api/v1/tasks", headers=headers).json()["total"] == 0


def test_a_worker_that_is_stopped_for_a_while_loses_no_request(server: Walnut) -> None:
    """SIGSTOP is a machine that starves a process, perhaps one that holds the write lock."""
    with Load(server, sign_in(server), WRITERS) as load:
        for _ in range(3):
            assert_serves_again(server, load)
            stopped = random.choice(family(server)[1])
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(stopped, signal.SIGCONT)
        assert_serves_again(server, load)
    assert not load.failures()
    server.terminate()
    assert_nothing_lost(server, load.acknowledged)
