import json
import logging
import os
import re
import secrets
import socket

import gevent
import pytest
from flask import Response

from api import exchange, metrics, observe
from api.watchdog import watchdog
from tests.conftest import Caller, assert_problem, ended, sign_up, start_python

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.fixture
def lines(caplog):
    """Return a function that gives the log lines of requests so far."""
    caplog.set_level(logging.INFO, "walnut.request")
    return lambda: [record for record in caplog.records if record.name == "walnut.request"]


def test_every_request_has_one_line_with_what_one_needs_to_know(app, anyone, lines):
    answer = anyone("GET", "/health/live")
    (line,) = lines()
    assert (line.levelname, line.getMessage()) == ("INFO", "request")
    assert (line.method, line.status, line.route, line.address) == ("GET", 200, "/health/live", "127.0.0.1")
    assert line.request_id == answer.headers["X-Request-ID"]
    assert line.replica == answer.headers["X-Served-By"]
    assert 0 < line.ms < 10_000


def test_the_line_says_who_and_why_not(app, admin, user, lines):
    user("POST", "/tasks", {"title": "x"})
    line = lines()[-1]
    assert (line.status, line.code, line.user_id) == (403, "forbidden", user.id)


def test_a_bug_has_its_line_too(app, admin, lines, monkeypatch):
    def bug(**_):
        raise ZeroDivisionError

    monkeypatch.setitem(app.view_functions, "tasks_v1.index", bug)
    admin("GET", "/tasks")
    assert lines()[-1].status == 500


def test_no_secret_reaches_the_log(app, caplog):
    caplog.set_level(logging.DEBUG)
    caller = sign_up(app, "alice")
    caller("GET", "/tasks?q=private-query")
    caller("GET", "/tasks/private-path?q=private-query")
    caller("POST", "/auth/refresh", {"refresh_token": caller.refresh_token})
    Caller(app)("POST", "/auth/login", {"email": "alice@example.com", "password": "private-password"})
    Caller(app)("GET", "/users/me", Authorization="Bearer private-token", Cookie="private=cookie")
    everything = "\n".join(str(vars(record)) for record in caplog.records if not record.name.startswith("tests"))
    for secret in ("private-query", "private-password", "private-token", "correct horse", "cookie", "alice@"):
        assert secret not in everything, secret
    assert caller.token not in everything
    assert caller.refresh_token not in everything


def test_the_path_of_a_route_that_was_found_is_not_logged(app, admin, lines):
    admin("GET", "/tasks/019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e")
    assert "019a9f3e" not in str(vars(lines()[-1]))
    assert lines()[-1].route == "/tasks/<uuid:task_id>"


def test_an_unknown_path_is_logged_but_not_all_of_a_long_one(app, anyone, lines):
    anyone("GET", "/tasks/of/all/of/us" + "/xy" * 5000)
    assert lines()[-1].path.startswith("/api/v1/tasks/of/all/of/us/xy")
    assert len(lines()[-1].path) == 200


def test_what_may_be_a_token_in_an_unknown_path_is_not_logged(app, anyone, lines):
    anyone("GET", f"/auth/confirmation/{secrets.token_urlsafe(32)}/x")
    assert lines()[-1].path == "/api/v1/auth/confirmation/.../x"


def test_the_version_and_the_size_of_the_answer_are_logged(app, admin, lines):
    answer = admin("GET", "/tasks")
    assert (lines()[-1].version, lines()[-1].bytes) == ("1", len(answer.data))
    assert admin("HEAD", "/tasks").data == b""
    assert lines()[-1].bytes == 0
    Caller(app).client.get("/health/live")
    assert "version" not in vars(lines()[-1])


def test_a_bug_has_one_id_in_the_log_and_for_the_client(app, caplog, monkeypatch):
    monkeypatch.setitem(app.view_functions, "ops.live", lambda: 1 / 0)
    answer = Caller(app).client.get("/health/live")
    (bug,) = [record for record in caplog.records if record.getMessage() == "bug"]
    assert answer.status_code == 500
    assert bug.request_id == answer.json["request_id"] == answer.headers["X-Request-ID"]
    assert "ZeroDivisionError" in str(bug.exc_info)


def test_a_bug_outside_of_flask_is_a_problem_with_its_id_too(app, lines, caplog):
    """In the middleware: nothing catches it but the outermost layer."""
    inner = app.wsgi_app.wsgi_app
    app.wsgi_app.wsgi_app = lambda environ, start: 1 / 0
    answer = Caller(app).client.get("/health/live?token=secret")
    app.wsgi_app.wsgi_app = inner
    (bug,) = [record for record in caplog.records if record.getMessage() == "bug"]
    found = assert_problem(answer, 500, "internal_server_error")
    assert bug.request_id == found["request_id"]
    assert (lines()[-1].status, lines()[-1].request_id) == (500, bug.request_id)


def test_what_ends_a_request_from_outside_is_seen_and_passed_on(app, lines, caplog):
    def late(environ, start):
        raise gevent.Timeout(1)

    app.wsgi_app.wsgi_app = late
    with pytest.raises(gevent.Timeout):
        Caller(app).client.get("/x")
    (broken,) = [record for record in caplog.records if record.getMessage() == "broken off"]
    assert (lines()[-1].status, lines()[-1].request_id) == (0, broken.request_id)


def test_a_stream_is_counted_when_it_has_ended(app, lines):
    def stream():
        yield b"one"
        assert not [line for line in lines() if getattr(line, "route", "") == "/stream"]
        assert metrics.ACTIVE_REQUESTS._value.get() == active + 1
        yield b"twelve"

    app.add_url_rule("/stream", "stream", lambda: Response(stream()))
    active = metrics.ACTIVE_REQUESTS._value.get()
    answer = Caller(app).client.get("/stream")
    assert answer.data == b"onetwelve"
    answer.close()
    assert (lines()[-1].status, lines()[-1].bytes) == (200, 9)
    assert metrics.ACTIVE_REQUESTS._value.get() == active


def test_a_stream_that_breaks_says_so_with_its_id(app, lines, caplog):
    def stream():
        yield b"one"
        raise ZeroDivisionError

    app.add_url_rule("/stream", "stream", lambda: Response(stream()))
    with pytest.raises(ZeroDivisionError):
        Caller(app).client.get("/stream").get_data()
    (broken,) = [record for record in caplog.records if record.getMessage() == "broken off"]
    assert lines()[-1].request_id == broken.request_id


def test_a_slow_request_is_a_warning_that_says_whether_it_waited(app, anyone, lines, monkeypatch):
    monkeypatch.setattr(exchange, "SLOW_SECONDS", 0.0)
    anyone("GET", "/health/live")
    assert (lines()[-1].levelname, lines()[-1].slow, lines()[-1].blocked_ms) == ("WARNING", True, 0)
    monkeypatch.setitem(
        app.view_functions, "ops.live", lambda: setattr(watchdog, "blocked", watchdog.blocked + 2) or "x"
    )
    Caller(app).client.get("/health/live")
    assert lines()[-1].blocked_ms == 2000


def test_a_quiet_log_still_has_the_slow_ones(app, anyone, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "walnut.request")
    monkeypatch.setattr(exchange, "SLOW_SECONDS", 0.0)
    anyone("GET", "/health/live")
    assert [record.slow for record in caplog.records if record.name == "walnut.request"] == [True]


@pytest.mark.parametrize("given", ["abc", "A-b_c.9", "x" * 64])
def test_an_id_that_is_given_is_kept(lasting_app, given):
    answer = Caller(lasting_app)("GET", "/health/live", X_Request_ID=given)
    assert answer.headers.getlist("X-Request-ID") == [given]


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a;b", "<script>", "ü", '{"a":1}', "a\tb"])
def test_an_id_that_is_no_id_is_replaced(lasting_app, given):
    answer = Caller(lasting_app)("GET", "/health/live", X_Request_ID=given)
    assert UUID7.fullmatch(answer.headers["X-Request-ID"])


def test_two_requests_have_two_ids(lasting_app):
    ids = {Caller(lasting_app)("GET", "/health/live").headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


def test_every_answer_says_who_made_it(lasting_app):
    expected = f"{socket.gethostname()}:3000/{os.getpid()}"
    for path in ("/api/v1/health/live", "/nowhere", "/", "/api-docs"):
        answer = lasting_app.test_client().get(path)
        assert answer.headers.getlist("X-Served-By") == [expected], path
        answer.close()


def test_a_quiet_log_writes_no_lines(app, anyone, caplog):
    caplog.set_level(logging.WARNING, "walnut.request")
    anyone("GET", "/health/live")
    assert not [record for record in caplog.records if record.name == "walnut.request"]


def test_facts_outside_of_a_request_go_nowhere():
    observe.note(user_id="x")


LOG = """
import logging, logging.config, sys
from api import logs, observe
from flask import Flask, Response
logging.config.dictConfig(logs.config(sys.argv[1]))
app = Flask("x")
observe.init_app(app, type("Settings", (), {"port": 3000}))
app.get("/")(lambda: Response("x"))
app.test_client().get("/", headers={"X-Request-ID": "one"})
logging.getLogger("api.x").warning("two\\nlines", extra={"request_id": "two"})
logging.getLogger("api.x").debug("three")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("api.x").exception("bug")
"""


def test_the_log_is_one_json_object_a_line_on_standard_output():
    lines = [json.loads(line) for line in ended(start_python(LOG, "info")).splitlines()]
    assert [line["message"] for line in lines] == ["request", "two\nlines", "bug"]
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "ERROR"]
    assert [line["logger"] for line in lines] == ["walnut.request", "api.x", "api.x"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", line["time"]) for line in lines)
    assert (lines[0]["request_id"], lines[0]["status"], lines[0]["path"]) == ("one", 200, "/")
    assert "ZeroDivisionError" in lines[2]["exc_info"]


def test_the_log_level_is_what_is_asked_for():
    lines = [json.loads(line) for line in ended(start_python(LOG, "warning")).splitlines()]
    assert [line["level"] for line in lines] == ["WARNING", "ERROR"]
