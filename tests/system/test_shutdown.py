"""The end: what was begun is answered whole, nothing is left behind, and nobody waits long."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from tests.system.clients import ACCOUNT, QUIET, Load, assert_nothing_lost, opened, sign_in
from tests.system.processes import PROJECT, Walnut, ask, wait_until

pytestmark = pytest.mark.alone

ENDS_WITHIN = 8.0  # seconds, with nothing slow in flight; 2 on an idle machine
INTO_A_TERMINAL = """
import os, sys
os.open(sys.argv[1], os.O_RDWR)  # a session's leader gets the first terminal it opens as its own
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
LOGIN = {"email": ACCOUNT["email"], "password": ACCOUNT["password"]}


class InTerminal(Walnut):
    """`walnut serve` in the foreground of a terminal of its own."""

    def __init__(self, instance: Path, **settings: object) -> None:
        super().__init__(instance, None, **settings)
        self.keyboard, self.screen = os.openpty()

    def command(self) -> list[str]:
        """Return the command, which takes the terminal first."""
        _, *words = super().command()
        return [sys.executable, "-c", INTO_A_TERMINAL, os.ttyname(self.screen), *words]

    def press_ctrl_c(self) -> None:
        """What the terminal makes of Ctrl-C: SIGINT to every process in its foreground."""
        os.write(self.keyboard, b"\x03")

    def stop(self) -> None:
        """End it, and the terminal."""
        super().stop()
        for end in {self.keyboard, self.screen}:
            os.close(end)

    def ends(self, within: float) -> int:
        """Return its exit status. Raises TimeoutError."""
        wait_until(lambda: not self.running, within, "the end")
        return self._started().wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InTerminal]:
    walnut = InTerminal(tmp_path, **QUIET | {"LOG_LEVEL": "info"})
    with walnut:
        yield walnut


def assert_nothing_left(walnut: Walnut) -> None:
    """No process, no listener, no lock, no write-ahead log that somebody must mend."""
    assert not walnut.pids()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", walnut.port))
    with opened(walnut.instance) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")


class SlowBody:
    """A request whose body is half sent."""

    def __init__(self, walnut: Walnut, headers: dict[str, str]) -> None:
        body = json.dumps({"title": "slowly"}).encode()
        self._rest = body[8:]
        lines = [
            "POST /api/v1/tasks HTTP/1.1",
            "Host: localhost",
            f"Authorization: {headers['Authorization']}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        self._connection = socket.create_connection(("127.0.0.1", walnut.port), timeout=30)
        self._connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[:8])

    def finish(self) -> bytes:
        """Send the rest and return all that is answered until the server hangs up. Nothing if it has done so."""
        with suppress(ConnectionError), self._connection.makefile("rb") as answer:
            self._connection.sendall(self._rest)
            return answer.read()
        return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()


def end(walnut: InTerminal, how: str) -> None:
    """Ask for the end."""
    if how == "Ctrl-C":
        walnut.press_ctrl_c()
    else:
        os.kill(walnut.pid, signal.SIGTERM)


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_every_request_that_was_begun_gets_its_whole_answer(server: InTerminal, how: str) -> None:
    headers = sign_in(server)
    with ThreadPoolExecutor(4) as pool, SlowBody(server, headers) as slow, Load(server, headers, 32) as load:
        logins = [pool.submit(server.request, "POST", "/api/v1/auth/login", LOGIN) for _ in range(4)]
        wait_until(lambda: len(load.acknowledged) > 200 and any(login.done() for login in logins), 10, "answers")
        end(server, how)
        time.sleep(1.5)
        assert b"HTTP/1.1 201 CREATED" in slow.finish()
        status = server.ends(within=25)
        load.stop()
        statuses = [login.result().status for login in logins]
    assert status == 0
    assert statuses == [200] * 4
    assert not load.refused, load.failures()
    # Who connects between the last look into the kernel's queue and its end is reset: nothing of him was read.
    others = [error for error in load.failed if not isinstance(error, ConnectionRefusedError)]
    assert len(others) <= 1, load.failures()
    assert all(isinstance(error, ConnectionResetError) for error in others), load.failures()
    assert_nothing_left(server)
    assert_nothing_lost(server, load.acknowledged)
    assert "Traceback" not in server.log.read_text()


def test_idle_connections_do_not_hold_up_the_end(server: InTerminal) -> None:
    idle = [server.connect() for _ in range(50)]
    try:
        for connection in idle[:25]:
            assert ask(connection, "GET", "/health/live").status == 200
        for connection in idle[25:]:
            connection.connect()
        began = time.monotonic()
        assert server.terminate() == 0
        took = time.monotonic() - began
    finally:
        for connection in idle:
            connection.close()
    print(f"ended in {took:.1f} s with 50 idle connections")
    assert took < ENDS_WITHIN
    assert_nothing_left(server)


SLOW_TO_LISTEN = f"""
import time
exec(open({str(PROJECT / "gunicorn.conf.py")!r}).read())
_post_fork = post_fork


def post_fork(server, worker):
    if worker.age == 2:  # as on a machine with much else to do
        time.sleep(1)
    _post_fork(server, worker)
"""


def test_a_worker_that_is_told_before_it_listens_ends_too(tmp_path: Path) -> None:
    config = tmp_path / "gunicorn.conf.py"
    config.write_text(SLOW_TO_LISTEN)
    server = Walnut(tmp_path / "instance", WORKERS=2)
    words = [sys.executable, "-m", "gunicorn", "-c", str(config), "api:create_app()"]
    subprocess.run([sys.executable, "-m", "api", "db", "upgrade"], env=os.environ | server.environment(), check=True)
    with (tmp_path / "log").open("wb") as log:
        gunicorn = subprocess.Popen(words, env=os.environ | server.environment(), stderr=log, stdout=log)
    try:
        wait_until(lambda: (tmp_path / "log").read_text().count("Booting worker") == 2, 20, "the second fork")
        gunicorn.terminate()
        assert gunicorn.wait(ENDS_WITHIN) == 0
    finally:
        gunicorn.kill()
        gunicorn.wait()


def test_a_second_ctrl_c_ends_at_once(server: InTerminal) -> None:
    with SlowBody(server, sign_in(server)) as slow:
        server.press_ctrl_c()
        time.sleep(1)
        assert server.running  # it waits for the slow one
        server.press_ctrl_c()
        server.ends(within=2)
        wait_until(lambda: not server.pids(), 2, "nobody left")
        assert slow.finish() == b""
    assert_nothing_left(server)


def test_who_stops_in_the_middle_of_a_request_holds_up_the_end_only_for_the_graceful_time(tmp_path: Path) -> None:
    server = InTerminal(tmp_path, **QUIET | {"GUNICORN_CMD_ARGS": "--graceful-timeout 3"})
    with server, SlowBody(server, sign_in(server)):
        began = time.monotonic()
        assert server.terminate() == 0
        assert 2 < time.monotonic() - began < 3 + ENDS_WITHIN
        assert_nothing_left(server)


def test_a_reload_fails_no_request_and_changes_every_worker(server: InTerminal) -> None:
    with Load(server, sign_in(server), 16) as load:
        for _ in range(2):
            assert_goes_on(load)
            before = set(server.worker_pids())
            os.kill(server.pid, signal.SIGHUP)
            wait_until(partial(all_gone, server, before), 30, "the end of the old workers")
        assert_goes_on(load)
    assert not load.failures()


def all_gone(walnut: Walnut, pids: set[int]) -> bool:
    """Whether none of these processes is left."""
    return not pids & set(walnut.pids())


def assert_goes_on(load: Load) -> None:
    """Another hundred writes are acknowledged."""
    enough = len(load.acknowledged) + 100
    wait_until(lambda: len(load.acknowledged) > enough, 20, "writes")


def test_ready_says_no_while_the_server_is_ending(server: InTerminal) -> None:
    """A load balancer looks elsewhere, also one that keeps its connection."""
    with SlowBody(server, sign_in(server)) as slow, closing(server.connect()) as balancer:
        assert ask(balancer, "GET", "/health/ready").status == 200
        server.press_ctrl_c()
        wait_until(lambda: "Handling signal: term" in server.log.read_text(), 5, "the beginning of the end")
        time.sleep(0.05)
        answer = ask(balancer, "GET", "/health/ready")
        slow.finish()
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Connection"] == "close"
    assert server.ends(within=20) == 0
