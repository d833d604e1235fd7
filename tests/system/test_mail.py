"""A real worker and a real SMTP server: what one of them loses, the other gets again."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from api import create_app, db
from api.jobs import mail, queue
from api.migrations import upgrade
from tests.conftest import SECRET, settings_in
from tests.smtp_server import SmtpServer, certificate
from tests.system.processes import PROJECT, Program, wait_until

TO, SUBJECT, TEXT = "john@example.com", "Grüße", "Your token is s3cr3t.\n"


class Worker(Program):
    """`walnut worker`, which sends by a server that asks for a password over TLS."""

    name = "worker"

    def __init__(self, instance: Path, smtp_port: int) -> None:
        super().__init__(instance)
        self.smtp_url = f"smtp://walnut:p%40ss%2Fw%3Ard@127.0.0.1:{smtp_port}"

    def command(self) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", "api", "worker"]

    def environment(self) -> dict[str, str]:
        """Return the settings."""
        own = {"PYTHONPATH": str(PROJECT), "APP_ENV": "testing", "INSTANCE_PATH": str(self.folder)}
        return own | SECRET | {"SMTP_URL": self.smtp_url, "MAIL_FROM": "walnut@example.com"}

    def is_ready(self) -> bool:
        """Return whether a worker waits for its bell."""
        return bool(list(self.folder.glob("walnut.db-workers/*.bell")))

    def working(self) -> list[int]:
        """Return the process that carries out jobs, below the supervisor."""
        return [pid for pid, parent in self.pids().items() if parent == self.pid]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    context, _ = certificate(tmp_path_factory.mktemp("tls"))
    with SmtpServer(tls_context=context, require_starttls=True, password=True) as running:
        yield running


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """An app that asks for mail, as a request would; it sends none itself."""
    given = settings_in(tmp_path_factory.mktemp("instance"))
    upgrade.upgrade(given)
    made = create_app(given)
    yield made
    made.extensions["database"].close()


@pytest.fixture(scope="module")
def worker(app: Flask, server: SmtpServer) -> Iterator[Worker]:
    with Worker(app.extensions["settings"].instance_path, server.port) as running:
        yield running


def send(app: Flask) -> Any:
    with app.app_context(), db.writing() as conn:
        return mail.send(conn, to=TO, subject=SUBJECT, text=TEXT)


def at_its_end(app: Flask, job: Any, within: float = 20) -> Any:
    """Wait until a job has ended, and return it."""

    def now() -> Any:
        with app.app_context(), db.reading() as conn:
            return queue.get(conn, job["id"])

    wait_until(lambda: now()["finished_at"] is not None, within, "the mail")
    return now()


def test_a_mail_is_there_at_once_encrypted_and_signed_in(app: Flask, worker: Worker, server: SmtpServer) -> None:
    server.taken.clear()
    began = time.monotonic()
    ended = at_its_end(app, send(app))
    assert (ended["status"], ended["payload"]) == ("complete", None)
    assert time.monotonic() - began < 2
    assert [found["Subject"] for found in server.mails()] == [SUBJECT]
    assert server.sessions[-1].ssl is not None
    assert server.sessions[-1].authenticated


def test_what_is_refused_for_now_comes_again_and_what_is_refused_for_good_does_not(
    app: Flask, worker: Worker, server: SmtpServer
) -> None:
    server.taken.clear()
    server.answers["RCPT"] = ["550 5.1.1 <john@example.com> unknown"]
    ended = at_its_end(app, send(app))
    assert (ended["status"], ended["attempts"]) == ("failed", 1)
    assert ended["error"] == f"127.0.0.1:{server.port} refused the recipient (550 5.1.1)."
    server.answers["MAIL"] = ["451 4.3.0 later"]
    ended = at_its_end(app, send(app))
    assert (ended["status"], ended["attempts"]) == ("complete", 2)
    assert len(server.taken) == 1


def test_a_worker_that_is_killed_in_the_middle_is_followed_by_another(
    app: Flask, worker: Worker, server: SmtpServer
) -> None:
    """The server had all of it, and the worker was not told: it goes out twice, and can be seen to be one."""
    server.taken.clear()
    server.hang = 5
    job = send(app)
    wait_until(lambda: len(server.taken) == 1, 10, "the first time")
    server.hang = 0
    (working,) = worker.working()
    os.kill(working, signal.SIGKILL)
    assert at_its_end(app, job)["status"] == "complete"
    assert [found["Message-ID"] for found in server.mails()] == [f"<{job['id']}@example.com>"] * 2
    assert server.taken[0].content == server.taken[1].content


def test_nothing_of_it_is_in_the_log(worker: Worker, server: SmtpServer) -> None:
    log = worker.log.read_text()
    assert log.count('"message":"job"') >= 4
    for secret in (TO, "john", "s3cr3t", "p@ss", "p%40ss", "Gr"):
        assert secret not in log
