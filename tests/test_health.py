import threading
from pathlib import Path

import pytest

from api import create_app, db, sqlite
from api.version import __version__
from tests.conftest import Caller, assert_problem

PATHS = ["/health", "/health/db", "/health/redis", "/health/live", "/health/ready"]


def get(app, path, **headers):
    return app.test_client().get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
@pytest.mark.parametrize("path", PATHS)
def test_everybody_may_ask_at_the_root_and_under_the_version(lasting_app, prefix, path):
    answer = get(lasting_app, prefix + path)
    assert answer.status_code == 200
    assert answer.json["status"] in ("ok", "off")


def test_the_summary_tells_of_every_part(lasting_app):
    found = get(lasting_app, "/health").json
    assert (found["status"], found["version"], found["redis"]) == ("ok", __version__, {"status": "off"})
    assert found["database"] == {"status": "ok", "engine": f"SQLite {sqlite.VERSION}", "safe": True}
    assert 10_000_000 < found["memory"]["resident_bytes"] < 10_000_000_000
    assert found["uptime_seconds"] >= 0


def test_a_redis_that_is_down_only_degrades(make_app):
    app = make_app(REDIS_URL="redis://127.0.0.1:1/0")
    assert (get(app, "/health").status_code, get(app, "/health").json["status"]) == (200, "degraded")
    assert get(app, "/health").json["redis"] == {"status": "down"}
    assert get(app, "/health/redis").json == {"status": "down"}
    assert get(app, "/health/ready").status_code == 200


def test_a_library_with_the_wal_reset_bug_is_shown(app, monkeypatch):
    monkeypatch.setattr(sqlite, "is_safe", lambda: False)
    found = get(app, "/health").json
    assert (found["status"], found["database"]["safe"]) == ("degraded", False)


def test_nobody_is_told_that_what_they_have_is_still_so_when_it_is_not(app, make_app, monkeypatch):
    """A browser asks with the ETag of the last answer: 304 would show it `ok` for ever."""
    tag = get(app, "/health").headers.get("ETag", '"none"')
    monkeypatch.setattr(sqlite, "is_safe", lambda: False)
    again = get(app, "/health", If_None_Match=tag)
    assert again.status_code == 200
    assert again.json["status"] == "degraded"


@pytest.mark.parametrize("path", ["/health", "/health/db", "/health/ready"])
def test_without_its_database_it_is_not_ready(app, path):
    path_of_file = app.extensions["settings"].database.database
    app.extensions["database"].close()
    app.extensions["database"] = db.Database(f"sqlite:///{path_of_file}.gone/nowhere.db")
    answer = get(app, path)
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"]


def test_a_database_that_is_not_there_is_not_ready_and_is_not_silently_made(configure):
    """https://sqlite.org/uri.html: only mode=rw opens a file without making it."""
    given = configure()
    app = create_app(given)
    assert_problem(get(app, "/health/ready"), 503, "unavailable")
    app.extensions["database"].close()
    assert not Path(given.database.database).exists()


@pytest.mark.parametrize("path", ["/health/live", "/api/v1/health/live"])
def test_alive_is_alive_whatever_else_is_not(app, path, monkeypatch):
    monkeypatch.setattr(db, "reading", lambda: pytest.fail("touched the database"))
    monkeypatch.setattr(db, "writing", lambda: pytest.fail("touched the database"))
    assert get(app, path).json == {"status": "ok"}


def test_a_process_that_is_about_to_end_is_alive_but_not_ready(app):
    app.extensions["draining"] = lambda: True
    assert_problem(get(app, "/health/ready"), 503, "unavailable")
    assert get(app, "/health/live").status_code == 200
    assert get(app, "/health").status_code == 200
    app.extensions["draining"] = lambda: False
    assert get(app, "/health/ready").status_code == 200


def test_health_does_not_wait_for_a_writer(app):
    entered, leave = threading.Event(), threading.Event()

    def write():
        with app.app_context(), db.writing() as conn:
            conn.exec_driver_sql("UPDATE users SET active = 1")
            entered.set()
            leave.wait(5)

    thread = threading.Thread(target=write)
    thread.start()
    assert entered.wait(5)
    try:
        assert get(app, "/health/ready").status_code == 200
        assert Caller(app)("GET", "/health").status_code == 200
    finally:
        leave.set()
        thread.join()
