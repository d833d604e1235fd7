"""What one sees of a running server is so: counts are exact, logs whole, and no secret is in any of it."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.system.clients import ACCOUNT, PASSWORD, sign_in
from tests.system.conftest import NO_LIMITS
from tests.system.processes import PROJECT, HttpServer, Walnut, ask, program, wait_until

SHARED_MEMORY = Path("/dev/shm")
REQUESTS = "http_server_request_duration_seconds_count"
SETTINGS: dict[str, Any] = NO_LIMITS | {"WORKERS": 2}
MANUAL = (PROJECT / "docs" / "operations.md").read_text()
NOWHERE = "/api/v1/tasks/019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"

Seen = Counter[tuple[str, str, str]]  # method, route, status


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    """Two workers, with log files."""
    folder = tmp_path_factory.mktemp("eyes")
    with Walnut(folder, **SETTINGS, LOG_DIR=folder / "logs") as walnut:
        yield walnut


def scrape(server: HttpServer) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every series of a replica."""
    answer = server.request("GET", "/health/metrics")
    assert answer.status == 200, answer.body
    families = text_string_to_metric_families(answer.body.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def total(server: HttpServer, name: str) -> float:
    """Return the sum of a metric over its labels."""
    return sum(value for (found, _), value in scrape(server).items() if found == name)


def requests(server: HttpServer) -> Seen:
    """Return how many requests of each kind a replica counted, without scrapes."""
    found: Seen = Counter()
    for (name, labels), value in scrape(server).items():
        known = dict(labels)
        if name == REQUESTS and known["http_route"] != "/health/metrics":
            kind = known["http_request_method"], known["http_route"], known["http_response_status_code"]
            found[kind] += int(value)
    return found


def kinds(headers: Mapping[str, str]) -> list[tuple[tuple[str, str, str], tuple[Any, ...]]]:
    """Return requests of many kinds, each with how it must be counted."""
    task, one = "/api/v1/tasks", "/tasks/<uuid:task_id>"
    return [
        (("GET", "/tasks", "200"), ("GET", f"{task}?limit=2", None, headers)),
        (("POST", "/tasks", "201"), ("POST", task, {"title": "x"}, headers)),
        (("POST", "/tasks", "422"), ("POST", task, {"title": ""}, headers)),
        (("GET", one, "404"), ("GET", NOWHERE, None, headers)),
        (("GET", "/tasks", "401"), ("GET", task)),
        (("GET", "", "404"), ("GET", "/nowhere/" + "x" * 50)),
        (("DELETE", "", "405"), ("DELETE", task)),
        (("HEAD", "/tasks", "200"), ("HEAD", task, None, headers)),
        (("GET", "/static/<path:filename>", "200"), ("GET", "/static/css/walnut.css")),
    ]


class Mix:
    """Threads that send every kind of request, and count them."""

    def __init__(self, server: HttpServer, headers: Mapping[str, str], threads: int, rounds: int | None) -> None:
        self.answered: Seen = Counter()
        self.sent: Seen = Counter()
        self._server, self._kinds, self._rounds = server, kinds(headers), rounds
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    def __enter__(self) -> "Mix":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rounds is None:
            self._ended.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        connection = self._server.connect()
        for _ in itertools.count() if self._rounds is None else range(self._rounds):
            for kind, request in self._kinds:
                with self._lock:
                    self.sent[kind] += 1
                try:
                    answer = ask(connection, *request)
                    assert answer.status == int(kind[2]), (kind, answer.body)
                    with self._lock:
                        self.answered[kind] += 1
                except (OSError, HTTPException):
                    connection.close()
            if self._ended.is_set():
                break
        connection.close()


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return every line of the log files of a kind."""
    return [json.loads(line) for path in sorted(folder.glob(f"{name}-*.log")) for line in path.read_text().splitlines()]


def test_two_workers_under_load_count_every_request_once(server: Walnut) -> None:
    headers = sign_in(server)
    before, logged = requests(server), len(lines(server.instance / "logs", "application"))
    commits = total(server, "walnut_database_commit_changes_sum")
    with Mix(server, headers, threads=8, rounds=40) as mix:
        pass
    assert mix.answered == mix.sent
    assert requests(server) - before == mix.sent
    assert {worker["replica"] for worker in lines(server.instance / "logs", "application") if "replica" in worker} == {
        f"{socket.gethostname()}:{server.port}/{pid}" for pid in server.worker_pids()
    }
    assert total(server, "walnut_database_commit_changes_sum") - commits == mix.sent["POST", "/tasks", "201"]
    assert total(server, "http_server_active_requests") == 1  # the scrape itself
    found = [
        line for line in lines(server.instance / "logs", "application")[logged:] if "route" in line or "path" in line
    ]
    counted = Counter(
        (line["method"], line.get("route", ""), str(line["status"]))
        for line in found
        if line.get("route") != "/health/metrics"
    )
    assert counted == mix.sent, "the log has exactly one line a request"
    assert len({line["request_id"] for line in found}) == len(found)
    assert len({line["span_id"] for line in found}) == len(found)


def test_standard_output_has_the_same_lines(server: Walnut) -> None:
    server.request("GET", "/health/live", headers={"X-Request-ID": "the-last-one"})
    printed = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    kept = [path.read_text().splitlines() for path in sorted((server.instance / "logs").glob("application-*.log"))]
    assert set(printed) >= set(itertools.chain(*kept))
    assert any("the-last-one" in line for line in printed)


def test_the_parts_of_the_log_are_for_their_owner_only(server: Walnut) -> None:
    folder = server.instance / "logs"
    assert folder.stat().st_mode & 0o077 == 0
    assert [path for path in folder.iterdir() if path.stat().st_mode & 0o077] == []


def test_an_idle_server_that_has_just_started_gives_no_alarm(tmp_path: Path) -> None:
    with Walnut(tmp_path, **SETTINGS) as walnut:
        time.sleep(1)
        walnut.request("GET", "/health")
        assert total(walnut, "walnut_hub_blocked_seconds_total") == 0
        assert "stood still" not in walnut.log.read_text()


def test_counters_never_go_backwards_when_a_worker_is_killed(tmp_path: Path) -> None:
    with Walnut(tmp_path, **SETTINGS) as walnut:
        headers = sign_in(walnut)
        before = requests(walnut)
        seen = [before.copy()]
        with Mix(walnut, headers, threads=4, rounds=None) as mix:
            for _ in range(3):
                victim = walnut.worker_pids()[0]
                wait_until(lambda: total(walnut, REQUESTS) > seen[-1].total() + 200, 30, "some load")
                os.kill(victim, signal.SIGKILL)
                wait_until(partial(_look, walnut, seen, victim), 30, "a new worker")
        seen.append(requests(walnut))
        for earlier, later in itertools.pairwise(seen):
            assert not earlier - later, "a counter went backwards"
        counted = seen[-1] - before
        assert not mix.answered - counted, "what was answered is counted"
        assert not counted - mix.sent, "nothing is counted twice"
        assert mix.answered.total() > 600
        assert total(walnut, "walnut_worker_processes") == 2
        assert total(walnut, "http_server_active_requests") == 1, "the dead are not active"


def _look(walnut: Walnut, seen: list[Seen], victim: int) -> bool:
    """Add what is counted now, and tell whether the victim has a successor."""
    with suppress(OSError, HTTPException):  # the killed worker had taken this very connection
        seen.append(requests(walnut))
    pids = walnut.worker_pids()
    return victim not in pids and len(pids) == 2


def test_processor_time_survives_a_worker(tmp_path: Path) -> None:
    with Walnut(tmp_path, **SETTINGS) as walnut:
        before = total(walnut, "process_cpu_seconds_total")
        os.kill(walnut.worker_pids()[0], signal.SIGKILL)
        wait_until(lambda: total(walnut, "walnut_worker_processes") == 2, 10, "a new worker")
        assert total(walnut, "process_cpu_seconds_total") >= before


def board(walnut: Walnut) -> Path:
    """Return the folder where a replica keeps its numbers: other tests have theirs beside it."""
    own = Path(f"/proc/{walnut.worker_pids()[0]}/environ").read_bytes().split(b"\0")
    (found,) = [line for line in own if line.startswith(b"WALNUT_SCOREBOARD=")]
    return Path(found.decode().partition("=")[2])


def test_replicas_on_one_instance_path_do_not_mix(tmp_path: Path) -> None:
    with Walnut(tmp_path, **SETTINGS) as one, Walnut(tmp_path, **SETTINGS) as other:
        ours = [board(one), board(other)]
        assert len(set(ours)) == 2
        before = requests(one), requests(other)
        for _ in range(10):
            one.request("GET", "/health/db")
        for _ in range(20):
            other.request("GET", "/health/redis")
        assert requests(one) - before[0] == {("GET", "/health/db", "200"): 10}
        assert requests(other) - before[1] == {("GET", "/health/redis", "200"): 20}
        other.restart()
        assert requests(other)["GET", "/health/redis", "200"] == 0, "a replica starts from zero"
        assert requests(one)["GET", "/health/db", "200"] >= 10
        ours.append(board(other))
        assert ours[2].parent == SHARED_MEMORY
    assert [path for path in ours if path.exists()] == [], "they leave nothing in memory"


def test_a_reload_counts_on(tmp_path: Path) -> None:
    """SIGHUP: Gunicorn reads its settings again and replaces every worker."""
    with Walnut(tmp_path, **SETTINGS) as walnut:
        for _ in range(10):
            walnut.request("GET", "/health/db")
        workers = set(walnut.worker_pids())
        os.kill(walnut.pid, signal.SIGHUP)
        wait_until(lambda: len(set(walnut.worker_pids()) - workers) == 2, 20, "new workers")
        wait_until(lambda: not workers & set(walnut.worker_pids()), 20, "the end of the old ones")
        walnut.request("GET", "/health/db")
        assert requests(walnut)["GET", "/health/db", "200"] == 11


def test_promtool_finds_nothing_wrong_with_the_metrics(server: Walnut) -> None:
    text = server.request("GET", "/health/metrics").body
    checked = subprocess.run(
        [program("promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_alerts_and_the_scrape_configuration_of_the_manual_are_valid(server: Walnut, tmp_path: Path) -> None:
    """`promtool` reads both, and every metric that an alert names is there."""
    blocks = re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL)
    (rules,) = [block for block in blocks if block.startswith("groups:")]
    (config,) = [block for block in blocks if block.startswith("scrape_configs:")]
    for kind, text in (("rules", rules), ("config", config)):
        path = tmp_path / f"{kind}.yml"
        path.write_text(text)
        tool = program("promtool", "prometheus")
        checked = subprocess.run([tool, "check", kind, path], capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    alerts = yaml.safe_load(rules)["groups"][0]["rules"]
    assert len(alerts) >= 5
    names = {name for name, _ in scrape(server)}
    for alert in alerts:
        named = set(re.findall(r"\b(?:walnut|http|process)_\w+", alert["expr"]))
        metrics = {name for name in named if not re.search(rf"\b{name}=~?\"|by \([^)]*\b{name}\b", alert["expr"])}
        assert metrics <= names, alert
    assert not {alert["alert"] for alert in alerts} - set(re.findall(r"alert: (\w+)", MANUAL))


def test_a_full_disk_under_log_dir_harms_no_request(tmp_path: Path) -> None:
    """The files of today and tomorrow lead to /dev/full, where every write fails with "no space left"."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for name, days in itertools.product(("application", "error"), (0, 1)):
        date = (datetime.now(UTC) + timedelta(days=days)).date()
        (folder / f"{name}-{date}.log").symlink_to("/dev/full")
    with Walnut(tmp_path, **SETTINGS, LOG_DIR=folder) as walnut:
        assert {walnut.request("GET", "/health").status for _ in range(50)} == {200}
        assert total(walnut, "walnut_log_lines_lost_total") >= 50
        assert "LOG_DIR takes no lines" in walnut.log.read_text()


def test_no_secret_is_in_any_log_even_at_debug(tmp_path: Path) -> None:
    """Real traffic of every kind, whole and malformed; then everything that was written is searched."""
    key = "a-key-of-the-test-0123456789-abcdefghij"
    settings = SETTINGS | {"LOG_LEVEL": "debug", "LOG_DIR": tmp_path / "logs", "JWT_SECRET": key}
    with Walnut(tmp_path, **settings) as walnut:
        secrets = {PASSWORD, ACCOUNT["email"], key, "wrong-password-77", "canary"}
        secrets |= _traffic(walnut)
        _malformed(walnut)
        walnut.request("GET", "/health/live", headers={"X-Request-ID": "proof-that-it-logs"})
        os.kill(walnut.pid, signal.SIGHUP)  # Gunicorn tells its configuration at DEBUG
        wait_until(lambda: "Hang up" in walnut.log.read_text(), 10, "the reload")
        walnut.stop()
        written = [walnut.log, *(tmp_path / "logs").iterdir()]
        assert len(written) >= 2
        text = "\n".join(path.read_text() for path in written)
    assert "proof-that-it-logs" in text
    assert "a request was refused before it reached the app" in text
    assert {secret for secret in secrets if secret in text} == set()


def _traffic(walnut: Walnut) -> set[str]:
    """Sign up, in, on and out; return every token that was given."""
    headers = sign_in(walnut)
    tokens = {headers["Authorization"].removeprefix("Bearer ")}
    login = {"email": ACCOUNT["email"], "password": PASSWORD}
    for body in (login, login | {"password": "wrong-password-77"}, login | {"canary": "canary"}):
        answer = walnut.request("POST", "/api/v1/auth/login", body)
        if answer.status == 200:
            pair = answer.json()
            tokens |= {pair["access_token"], pair["refresh_token"]}
            again = walnut.request("POST", "/api/v1/auth/refresh", {"refresh_token": pair["refresh_token"]}).json()
            tokens |= {again["access_token"], again["refresh_token"]}
    walnut.request("GET", "/api/v1/tasks?q=canary&token=canary", headers=headers)
    walnut.request("GET", "/api/v1/tasks?nonsense=canary", headers=headers)
    walnut.request("POST", "/api/v1/tasks", {"title": "canary", "description": "canary"}, headers)
    walnut.request("POST", "/api/v1/tasks", b'{"title": "canary', headers | {"Content-Type": "application/json"})
    walnut.request("GET", "/api/v1/tasks", headers={"Authorization": "Bearer canary", "Cookie": "session=canary"})
    walnut.request("GET", "/api/v1/tasks", headers={"Authorization": "Basic canary", "X-Request-ID": "canary;"})
    walnut.request("GET", "/api/v1/tasks", headers={"traceparent": "canary", "tracestate": "canary"})
    walnut.request("GET", f"/api/v1/auth/reset-password/{min(tokens, key=len)}")  # a link of a mail, in the wrong way
    walnut.request("POST", "/api/v1/auth/logout", None, headers)
    return tokens


def _malformed(walnut: Walnut) -> None:
    """Send what Gunicorn refuses by itself, with secrets where it would quote them."""
    host = b"Host: x\r\n"
    for data in (
        b"GET /?token=canary HTTP/1.1 more\r\n" + host + b"\r\n",
        b"GET /?token=canary HTTP/9.9\r\n" + host + b"\r\n",
        b"canary /?token=canary HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Authorization Bearer canary\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Authorization: Bearer\x00canary\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X: y\r\n canary\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Transfer-Encoding: canary\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Content-Length: canary\r\n\r\n",
        b"GET /" + b"canary" * 2000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X: " + b"canary" * 3000 + b"\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\ncanary\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\n" + host + b'Content-Length: 999\r\n\r\n{"password": "canary',
    ):
        with socket.create_connection(("127.0.0.1", walnut.port), timeout=10) as connection:
            connection.sendall(data)
            with suppress(OSError):  # it may have hung up already
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass


def test_nobody_forges_a_line(server: Walnut) -> None:
    forged = "/x%0A%7B%22level%22:%22ERROR%22%7D%1B[31m%C2%85%E2%80%A8"
    answer = server.request("GET", forged, headers={"X-Forwarded-For": '1"\u00e9', "X-Request-ID": 'x"}'})
    assert answer.status == 404
    text = b"".join(path.read_bytes() for path in (server.instance / "logs").iterdir())
    assert text.isascii()
    for line in text.decode().splitlines():
        assert json.loads(line)["time"]
    assert b"\x1b" not in text
    (found,) = [
        line for line in lines(server.instance / "logs", "application") if line.get("path", "").startswith("/x%0A")
    ]
    assert found["request_id"] == answer.headers["X-Request-ID"] != 'x"}'
