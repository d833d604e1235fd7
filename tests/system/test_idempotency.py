"""Twins of a request on two replicas at the same moment: carried out once, answered alike, whoever is killed.

Few keys and some of the fail points, so that the suite stays quick. The whole proof takes minutes:

    IDEMPOTENCY_KEYS=200 python -m pytest tests/system/test_idempotency.py --timeout 1800
"""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from api.failpoints import NAMES, VARIABLE
from tests.system.clients import QUIET, assert_sound, opened, sign_in
from tests.system.processes import Answer, Walnut, ask

KEYS = int(os.environ.get("IDEMPOTENCY_KEYS", "10"))
FAILPOINTS = NAMES if "IDEMPOTENCY_KEYS" in os.environ else ("audit.before", "commit.before", "answer.before")
TWINS = 50
OWN = {
    "X-Request-ID",
    "X-Served-By",
    "Idempotency-Replayed",
    "Date",
    "Connection",
    "Server",
    "RateLimit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
}
# What a replica does more often than once for each key, and so must be done more often before it dies of it.
OFTEN = {"commit.before": 5, "commit.after": 5, "answer.before": 40}


@contextmanager
def replicas(folder: Path, failpoint: str = "") -> Iterator[tuple[Walnut, Walnut]]:
    """Two replicas on one database, the first of which may be told to die again and again."""
    settings = QUIET | {"WORKERS": 1, "LOG_LEVEL": "info"}
    mortal, steady = Walnut(folder, **settings | {VARIABLE: failpoint}), Walnut(folder, **settings)
    with ExitStack() as ends:
        for one in (mortal, steady):
            ends.callback(one.stop)
            one.launch()
        for one in (mortal, steady):
            one.wait_ready()
        yield mortal, steady


def ask_twins(servers: tuple[Walnut, Walnut], headers: dict[str, str]) -> tuple[dict[str, list[Answer]], int]:
    """Send each key's twins at once, half to each replica, each repeated until it is answered.

    Return all answers by key, and how many attempts were cut off.
    """
    together = threading.Barrier(TWINS)
    answers: dict[str, list[Answer]] = {f"key-{number}": [] for number in range(KEYS)}
    cut: list[Exception] = []

    def client(number: int) -> None:
        server = servers[number % 2]
        connection = server.connect()
        for key in answers:
            together.wait(60)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    answers[key].append(
                        ask(connection, "POST", "/api/v1/tasks", {"title": key}, headers | {"Idempotency-Key": key})
                    )
                    break
                except (OSError, HTTPException) as error:
                    cut.append(error)
                    connection.close()
                    time.sleep(0.02)
        connection.close()

    with ThreadPoolExecutor(TWINS) as pool:
        for done in [pool.submit(client, number) for number in range(TWINS)]:
            done.result()
    return answers, len(cut)


def whole(answer: Answer) -> tuple[int, frozenset[tuple[str, str]], bytes]:
    """Return what must be the same, byte for byte."""
    return answer.status, frozenset(pair for pair in answer.headers.items() if pair[0] not in OWN), answer.body


def assert_once_each(folder: Path, answers: dict[str, list[Answer]]) -> None:
    """One row, one audit entry, one stored answer and one answer for each key. For replicas that have ended."""
    for key, given in answers.items():
        assert len(given) == TWINS, key
        assert {answer.status for answer in given} == {201}, key
        assert len({whole(answer) for answer in given}) == 1, key
        assert "ETag" in given[0].headers
        assert "Location" in given[0].headers
    ids = {given[0].json()["id"] for given in answers.values()}
    with opened(folder) as database:
        assert sorted(database.execute("SELECT title FROM tasks")) == sorted((key,) for key in answers)
        created = "SELECT subject_id FROM audit_entries WHERE action = 'task.created'"
        assert sorted(database.execute(created)) == sorted((one,) for one in ids)
        assert database.execute("SELECT count(*) FROM idempotency_keys").fetchall() == [(KEYS,)]
    assert_sound(folder)


@pytest.mark.timeout(600)
def test_twins_on_two_replicas_are_carried_out_once(tmp_path: Path) -> None:
    with replicas(tmp_path) as both:
        headers = sign_in(both[1])
        started = time.monotonic()
        answers, cut = ask_twins(both, headers)
        print(f"{KEYS} keys, {TWINS} twins each: {KEYS * TWINS / (time.monotonic() - started):.0f} requests/s")
        assert cut == 0
        for given in answers.values():
            assert sum("Idempotency-Replayed" not in answer.headers for answer in given) == 1
        served = {answer.headers["X-Served-By"] for given in answers.values() for answer in given}
        assert len(served) == 2, served
        assert both[0].request("GET", "/api/v1/audit/verify", headers=headers).json()["intact"]
    assert_once_each(tmp_path, answers)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FAILPOINTS)
def test_the_same_across_kill_9_at_every_fail_point(tmp_path: Path, name: str) -> None:
    count = max(1, KEYS // 20) * OFTEN.get(name, 1)
    with replicas(tmp_path, f"{name}:{count}") as both:
        headers = sign_in(both[1])
        answers, cut = ask_twins(both, headers)
        killed = both[0].log.read_text().count("was sent SIGKILL")
        print(f"{name}: killed {killed} times, {cut} requests cut")
        assert killed >= 1
        assert cut >= 1
        assert both[1].request("GET", "/api/v1/audit/verify", headers=headers).json()["intact"]
    assert_once_each(tmp_path, answers)
