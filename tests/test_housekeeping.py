import logging
import threading
import time

import pytest

from api import db, housekeeping, sqlite
from tests.conftest import execute, rows


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(housekeeping, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(housekeeping, "PAUSE_SECONDS", 0.001)


@pytest.fixture
def keep(app):
    """Return a function that starts a keeper; they are ended afterwards."""
    stop, keepers = threading.Event(), []

    def start():
        keepers.append(threading.Thread(target=housekeeping.keep_swept, args=(app.extensions["settings"], stop)))
        keepers[-1].start()
        return keepers[-1]

    yield start
    stop.set()
    for keeper in keepers:
        keeper.join(5)
        assert not keeper.is_alive()


def store(app, count, expires_at):
    user = rows(app, "SELECT id FROM users")[0][0]
    execute(
        app,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO idempotency_keys"
        "(user_id, key, fingerprint, status, headers, body, expires_at)"
        " SELECT ?, randomblob(32), x'', 201, '[]', x'', ? FROM n",
        count, user, expires_at,
    )  # fmt: skip


def left(app):
    return rows(app, "SELECT count(*) FROM idempotency_keys")[0][0]


def test_two_replicas_sweep_what_has_expired_and_leave_the_rest(app, admin, quick, keep):
    store(app, 2000, db.now() - 1)
    store(app, 30, db.now() + 60_000)
    keep(), keep()
    deadline = time.monotonic() + 5
    while left(app) > 30 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left(app) == 30
    time.sleep(0.1)
    assert left(app) == 30


def test_a_busy_database_is_tried_again_later(app, admin, quick, keep, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.02)
    store(app, 10, db.now() - 1)
    other = sqlite.driver.connect(app.extensions["settings"].database.database, isolation_level=None, timeout=0)
    other.execute("BEGIN IMMEDIATE")
    keeper = keep()
    deadline = time.monotonic() + 5
    while "sweep failed" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "sweep failed" in caplog.text
    assert keeper.is_alive()
    other.execute("ROLLBACK")
    other.close()
    while left(app) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left(app) == 0
