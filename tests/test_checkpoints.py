import threading
import time
from pathlib import Path

import pytest

from api import checkpoints, db, sqlite
from tests.conftest import execute, rows


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(checkpoints, "LOG_BYTES", 100_000)
    monkeypatch.setattr(checkpoints, "TRUNCATE_BYTES", 200_000)


@pytest.fixture
def wal(app):
    return Path(app.extensions["settings"].database.database + "-wal")


def fill(app):
    execute(app, "CREATE TABLE IF NOT EXISTS filler(x)")
    execute(app, "INSERT INTO filler VALUES (zeroblob(300000))")


def test_a_long_log_is_moved_into_the_file_and_its_space_given_back(app, wal, quick):
    fill(app)
    assert wal.stat().st_size > 200_000
    stop = threading.Event()
    keeper = threading.Thread(target=checkpoints.keep_short, args=(app.extensions["settings"], stop))
    keeper.start()
    deadline = time.monotonic() + 5
    while wal.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    keeper.join(5)
    assert wal.stat().st_size == 0
    assert rows(app, "SELECT count(*) FROM filler") == [(1,)]


def test_the_log_is_left_alone_while_it_is_short(app, wal, quick, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOG_BYTES", 10_000_000)
    fill(app)
    stop = threading.Event()
    keeper = threading.Thread(target=checkpoints.keep_short, args=(app.extensions["settings"], stop))
    keeper.start()
    time.sleep(0.15)
    stop.set()
    keeper.join(5)
    assert wal.stat().st_size > 200_000


def test_only_one_process_of_a_host_does_it_and_a_busy_database_stops_nobody(app, quick, monkeypatch):
    done = []
    checkpoint = checkpoints._checkpoint
    monkeypatch.setattr(
        checkpoints, "_checkpoint", lambda *given: (done.append(threading.get_ident()), checkpoint(*given))
    )
    stop = threading.Event()
    keepers = [
        threading.Thread(target=checkpoints.keep_short, args=(app.extensions["settings"], stop)) for _ in range(2)
    ]
    with app.app_context(), db.reading():
        for keeper in keepers:
            keeper.start()
        fill(app)
        time.sleep(0.3)
        before_the_end = list(done)  # when the one stops, the other may still take over for a last time
    stop.set()
    for keeper in keepers:
        keeper.join(5)
        assert not keeper.is_alive()
    assert len(before_the_end) > 2
    assert len(set(before_the_end)) == 1


def test_the_safety_net_is_16_mb(app):
    with app.app_context(), db.writing() as conn:
        assert conn.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar() * 4096 == 16 * sqlite.MEGABYTE
