"""One request, one commit: what the corridor's transaction promises."""

import pytest

from api import sqlite
from api.tasks import queries
from tests.conftest import NO_LIMITS, Caller, assert_problem, ended, execute, rows, start_python

REQUESTS = """
from gevent import monkey
monkey.patch_all()
import gevent, greenlet, logging, os
from api import create_app, settings
from api.migrations import upgrade
given = settings.load()
upgrade.upgrade(given)
app = create_app(given)
logging.basicConfig(level="INFO", handlers=[logging.StreamHandler(open(os.devnull, "w"))])
database = app.extensions["database"]

def call(method, path, json=None, token=""):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return app.test_client().open(f"/api/v1{path}", method=method, json=json, headers=headers)

def account(name):
    return {"username": name, "email": f"{name}@example.com", "password": "correct horse"}

def sign_in(name):
    return call("POST", "/auth/login", {"email": f"{name}@example.com", "password": "correct horse"}).json

assert call("POST", "/auth/register", account("root") | {"role": "admin"}).status_code == 201
token = sign_in("root")["access_token"]
switches, commits, statuses = [], [], []
driver = database._writer._driver
driver.set_trace_callback(lambda statement: commits.append(1) if statement == "COMMIT" else None)

def watch(event, args):
    if database._writer._turn.locked() and driver.in_transaction:
        switches.append(event)

def one(number):
    statuses.append(call("POST", "/auth/register", account(f"user{number}")).status_code)
    pair = sign_in(f"user{number}")
    statuses.append(call("POST", "/auth/refresh", {"refresh_token": pair["refresh_token"]}).status_code)
    for _ in range(3):
        made = call("POST", "/tasks", {"title": f"task {number}", "tags": ["a", "b"]}, token)
        statuses.append(made.status_code)
        path = f"/tasks/{made.json['id']}"
        statuses.append(call("PATCH", path, {"tags": ["c"]}, token).status_code)
        statuses.append(call("GET", "/tasks?q=task", None, token).status_code)
    statuses.append(call("POST", "/tasks", {"title": ""}, token).status_code)
    statuses.append(call("DELETE", path, None, token).status_code)

greenlet.settrace(watch)
gevent.joinall([gevent.spawn(one, number) for number in range(12)], raise_error=True)
greenlet.settrace(None)
print(len(switches), len(commits), *sorted(set(statuses)))
with app.app_context():
    print(call("GET", "/tasks", None, token).json["total"])
"""


@pytest.fixture
def fault(app, monkeypatch):
    """Let the change of a task fail with a fault of SQLite's after it was made."""

    def failing(code):
        change = queries.change

        def changed(*given):
            change(*given)
            error = sqlite.driver.OperationalError("injected")
            error.sqlite_errorcode = code
            raise error

        monkeypatch.setattr(queries, "change", changed)

    return failing


def test_no_greenlet_gives_way_while_its_request_holds_the_write_lock(tmp_path):
    """Hashing, logging and the rest of a request happen before or after, never inside."""
    variables = NO_LIMITS | {"APP_ENV": "testing", "INSTANCE_PATH": str(tmp_path)}
    first, total = ended(start_python(REQUESTS, **variables)).splitlines()
    switches, commits, *statuses = map(int, first.split())
    assert switches == 0
    assert statuses == [200, 201, 204, 422]
    assert int(total) == 12 * 2
    assert commits <= 12 * 10


@pytest.mark.parametrize(("code", "word"), [(5, "busy"), (13, "full"), (10, "disk"), (11, "damaged")])
def test_a_fault_below_a_request_is_503_and_nothing_was_changed(app, admin, fault, code, word):
    made = admin("POST", "/tasks", {"title": "x"}).json
    fault(code)
    answer = admin("PATCH", f"/tasks/{made['id']}", {"title": "y"})
    problem = assert_problem(answer, 503, "unavailable")
    assert word in problem["detail"]
    assert "injected" not in answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert admin("GET", f"/tasks/{made['id']}").json == made


def test_a_writer_elsewhere_makes_a_write_503_and_a_read_200(app, admin, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    path = app.extensions["settings"].database.database
    other = sqlite.driver.connect(path, isolation_level=None, timeout=0)
    other.execute("BEGIN IMMEDIATE")
    assert_problem(admin("POST", "/tasks", {"title": "x"}), 503, "unavailable")
    assert admin("GET", "/tasks").json["total"] == 0
    other.execute("ROLLBACK")
    other.close()
    assert admin("POST", "/tasks", {"title": "x"}).status_code == 201


def test_what_a_request_refuses_halfway_is_undone_whole(app, admin):
    """A change that fails after its first statements leaves neither of them."""
    made = admin("POST", "/tasks", {"title": "x", "tags": ["kept"]}).json
    execute(app, "CREATE TRIGGER stop BEFORE UPDATE ON tasks BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert admin("PATCH", f"/tasks/{made['id']}", {"tags": ["lost"]}).status_code == 500
    assert rows(app, "SELECT tag FROM task_tags") == [("kept",)]
    assert admin("GET", "/tasks?tag=kept").json["total"] == 1


def test_an_answer_is_given_only_after_the_commit(app, admin):
    """Whoever reads with another connection the moment an answer is there, finds what it says."""
    path = app.extensions["settings"].database.database
    other = sqlite.driver.connect(path)
    made = admin("POST", "/tasks", {"title": "x"}).json
    assert other.execute("SELECT id FROM tasks").fetchall() == [(made["id"],)]
    other.close()


def test_a_read_cannot_write(app, admin, monkeypatch):
    real = queries.find

    def writes(conn, **given):
        conn.exec_driver_sql("DELETE FROM users")
        return real(conn, **given)

    with monkeypatch.context() as patch:
        patch.setattr(queries, "find", writes)
        assert admin("GET", "/tasks").status_code in (500, 503)
    assert rows(app, "SELECT count(*) FROM users") == [(1,)]


def test_a_refusal_that_must_be_remembered_is_committed(app, user):
    """A stolen refresh token ends its session although the answer is 401: the one write of a refusal there is."""
    anyone = Caller(app)
    first = anyone("POST", "/auth/refresh", {"refresh_token": user.refresh_token}).json["refresh_token"]
    anyone("POST", "/auth/refresh", {"refresh_token": first})
    assert anyone("POST", "/auth/refresh", {"refresh_token": user.refresh_token}).status_code == 401
    assert rows(app, "SELECT count(*) FROM sessions WHERE ended_at IS NOT NULL") == [(1,)]
