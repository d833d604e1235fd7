"""What attackers found once, so that nobody finds it again. Each of these stopped a worker, or got past a rule."""

import io
import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from gunicorn.http.errors import InvalidChunkSize
from marshmallow import ValidationError

from api import db, errors
from api.auth import passwords
from api.tasks import search
from api.web import guard, idempotency, inputs, strict_json
from tests.conftest import assert_problem, execute, rows

JSON = "application/json"


@pytest.fixture
def quick():
    """Fail if it takes nearly as long as before it was mended: 7 seconds and more, with nothing else to do."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("path", ["/auth/login", "/auth/register"])
def test_marks_to_be_sorted_stop_nobody(anyone, quick, path):
    """Normalising them takes quadratic time: 120 kB were 7 seconds."""
    body = {"email": "a@example.com", "password": "a" + "\u0301" * 1000 + "\u0327" * 1000}
    if path.endswith("register"):
        body["username"] = "a"
    for _ in range(20):
        assert_problem(anyone("POST", path, body), 422, "invalid", "/password")
    assert passwords.MAX_CHARACTERS < 2000


def test_a_long_password_is_refused_before_it_is_normalised(quick):
    for validate in (passwords.not_too_long, passwords.not_too_short):
        with suppress(ValidationError):
            validate("a" + "\u0301" * 300_000 + "\u0327" * 300_000)


def test_a_key_given_twice_among_many_stops_nobody(lasting_app, quick):
    """Counting each of 60,000 keys among the others took a minute."""
    keys = ",".join(f'"{number:05x}":0' for number in range(60_000))
    with pytest.raises(errors.Malformed, match='"0ea5f" twice'):
        strict_json.parse(f'{{{keys},"0ea5f":0}}'.encode())


def test_a_body_for_anybody_is_small(anyone):
    found = anyone("POST", "/auth/login", {"email": "a@example.com", "password": "x" * 20_000})
    assert_problem(found, 413, "too_large")


def test_many_faults_do_not_make_a_large_answer(admin):
    found = admin("POST", "/tasks", {"title": "x"} | {f"{'x' * 200}{number}": 0 for number in range(1000)})
    assert found.status_code == 422
    assert len(found.json["errors"]) == inputs.MAX_FAULTS
    assert len(found.data) < 20_000


@pytest.mark.parametrize("end", [
    "UPDATE sessions SET ended_at = 1", "UPDATE users SET active = 0", "UPDATE users SET role = 'user'",
])  # fmt: skip
def test_a_write_whose_body_comes_after_the_end_is_refused(app, admin, monkeypatch, end):
    """It was let in, then its body took its time, and meanwhile its session ended or its user lost the permission."""

    def late(_most):
        execute(app, end)
        time.sleep(2 * guard.AT_ONCE_SECONDS)
        return b'{"title": "too late"}'

    monkeypatch.setattr(inputs, "body", late)
    assert admin.send("POST", "/tasks", content_type=JSON).status_code in (401, 403)
    assert rows(app, "SELECT count(*) FROM tasks") == [(0,)]


def test_a_search_has_few_words_and_no_single_letters(admin, quick):
    assert search.expression("a b a") == '"a" "b"'
    assert search.expression(" ".join("abcdefghijkl")).count('"') == 2 * search.WORDS
    assert admin("GET", f"/tasks?q={'+'.join('abcdefghijklmnopqrstuvwxyz')}").status_code == 200


def test_a_question_that_takes_too_long_is_given_up(app, monkeypatch):
    monkeypatch.setattr(db, "READ_SECONDS", 0.1)
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    started = time.monotonic()
    with app.app_context():
        with pytest.raises(errors.Unavailable, match="takes too long"), db.reading() as conn:
            conn.exec_driver_sql(forever)
        assert time.monotonic() - started < 1
        with db.reading() as conn:
            assert conn.exec_driver_sql("SELECT 1").scalar() == 1


class Malformed(io.RawIOBase):
    """A body as Gunicorn gives it: reading it says that its chunks are none."""

    def read(self, *_):
        raise InvalidChunkSize(b'{"password": "do not log me"}')

    readinto = readline = read


def test_a_malformed_chunk_is_a_clients_fault_and_is_not_logged(admin, caplog):
    found = admin.send("POST", "/tasks", content_type=JSON, environ_overrides={
        "wsgi.input": Malformed(), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked",
    })  # fmt: skip
    assert_problem(found, 400, "malformed")
    assert "do not log me" not in caplog.text


@pytest.mark.parametrize("address", ['"\u0001"@example.com', '"a b"@example.com', "a\u200b@example.com"])
def test_an_address_holds_nothing_that_does_not_show(anyone, address):
    account = {"username": "a", "email": address, "password": "correct horse"}
    assert_problem(anyone("POST", "/auth/register", account), 422, "invalid", "/email")


def test_what_is_written_to_a_removed_database_is_not_acknowledged(app, admin):
    assert admin("POST", "/tasks", {"title": "x"}).status_code == 201
    path = app.extensions["database"].path
    path.rename(path.with_name("elsewhere"))
    assert_problem(admin("POST", "/tasks", {"title": "lost"}), 503, "unavailable")
    for health in ("/health", "/health/ready", "/health/db"):
        assert_problem(admin("GET", health), 503, "unavailable")
    path.write_bytes(b"")
    assert_problem(admin("POST", "/tasks", {"title": "lost"}), 503, "unavailable")
    path.unlink()
    path.with_name("elsewhere").rename(path)
    assert admin("POST", "/tasks", {"title": "y"}).status_code == 201


def test_a_secret_that_others_may_read_is_none(configure):
    given = configure()
    (given.instance_path / "jwt_secret").chmod(0o644)
    with pytest.raises(Exception, match="JWT_SECRET: others may read or write"):
        configure()
    assert json.dumps(given.jwt_secret)


def test_nobody_chooses_what_another_is_told_is_next(app, admin, user):
    """An answer may be kept for everybody: its Link must be of the query, not of how somebody wrote it."""
    for number in range(25):
        admin("POST", "/tasks", {"title": f"task {number}"})
    bob, root = ({"Authorization": f"Bearer {caller.token}"} for caller in (user, admin))
    app.test_client().get(f"/api/v2/tasks?limit={'0' * 3000}20", headers=bob)
    link = app.test_client().get("/api/v2/tasks", headers=root).headers["Link"]
    assert "000" not in link
    assert len(link) < 300


def test_a_kept_answer_is_no_way_round_a_database_that_is_gone(app, admin):
    for _ in range(3):
        assert admin("GET", "/tasks").status_code == 200
    app.extensions["database"]._idle.clear()
    database = Path(app.extensions["database"].path)
    database.rename(database.with_name("elsewhere"))
    try:
        assert_problem(admin("GET", "/tasks"), 503, "unavailable")
    finally:
        database.with_name("elsewhere").rename(database)


def test_a_version_of_openmetrics_that_is_no_number_gets_text(app):
    accept = {"Accept": "application/openmetrics-text; version=abc"}
    assert app.test_client().get("/health/metrics", headers=accept).status_code == 200


def test_a_session_that_ends_while_its_body_arrives_gets_no_refusal_kept(app, admin, monkeypatch):
    monkeypatch.setattr(guard, "AT_ONCE_SECONDS", -1.0)
    key_of = idempotency._key

    def meanwhile(*arguments):
        key = key_of(*arguments)
        execute(app, "UPDATE sessions SET ended_at = 1")
        return key

    monkeypatch.setattr(idempotency, "_key", meanwhile)
    answer = admin("POST", "/tasks", {"nonsense": 1}, Idempotency_Key="k")
    assert_problem(answer, 401, "unauthenticated")
    assert rows(app, "SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_a_slash_at_the_end_is_no_other_key(app, admin):
    ids = {admin("POST", path, {"title": "x"}, Idempotency_Key="k").json["id"] for path in ("/tasks", "/tasks/")}
    assert len(ids) == 1
