import logging
import re

import pytest
from flask import Flask

from api import errors
from api.tasks import queries
from api.web import problems
from tests.conftest import Caller, assert_problem

KNOWN = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Refusal)][1:]
# Those that share their status with a more general one.
ONE_OF_SEVERAL = {
    *(errors.KeyReused.code, errors.SecondFactorNeeded.code, errors.SecondFactorRequired.code),
    errors.EmailNotConfirmed.code,
}


@pytest.fixture
def stranger(lasting_app, lasting_admin):
    return Caller(lasting_app)


@pytest.fixture
def buggy(app, monkeypatch):
    """An app with one view that has a bug."""

    def bug(**_):
        raise ZeroDivisionError("the secret recipe")

    monkeypatch.setitem(app.view_functions, "tasks_v1.index", bug)
    return Caller(app)


def test_every_refusal_has_a_status_and_hardly_two_have_the_same():
    assert {error.code for error in KNOWN} == set(problems.STATUS)
    own = [status for code, status in problems.STATUS.items() if code not in ONE_OF_SEVERAL]
    assert len(set(own)) == len(own)
    assert (problems.CODES[422], problems.CODES[403]) == ("invalid", "forbidden")
    assert all(400 <= status < 600 and status != 500 for status in problems.STATUS.values())


@pytest.mark.parametrize("path", ["/", "/nowhere", "//tasks", "/tasks/42", "/tasks/%2e%2e", "/TASKS", "/%FF%FE"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_address_is_not_found(stranger, method, path):
    problem = assert_problem(stranger(method, path), 404, "not_found")
    assert problem["title"] == "Not Found"


def test_an_address_outside_the_api_is_a_problem_too(lasting_app):
    answer = lasting_app.test_client().get("/wp-login.php")
    assert_problem(answer, 404, "not_found")


def test_a_file_that_is_not_there_is_not_found(lasting_app):
    for path in ("/static/nowhere.js", "/static/../api/settings.py", "/static/%2e%2e/pyproject.toml", "/static/css"):
        assert_problem(lasting_app.test_client().get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/tasks", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("DELETE", "/tasks", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("TRACE", "/tasks", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("BREW", "/tasks", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/users/me", None),
        ("GET", "/auth/login", {"POST", "OPTIONS"}),
        ("GET", "/auth/logout", {"POST", "PUT", "OPTIONS"}),
        ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_an_unknown_method_is_told_which_there_are(stranger, method, path, allowed):
    answer = stranger(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    found = set(re.split(r", *", answer.headers["Allow"]))
    assert found == allowed or (allowed is None and method not in found)


def test_options_tells_the_methods_and_needs_nobody(stranger):
    answer = stranger("OPTIONS", "/tasks")
    assert answer.status_code == 204
    assert set(answer.allow) == {"GET", "HEAD", "OPTIONS", "POST"}
    assert answer.data == b""


def test_head_answers_as_get_without_a_body(lasting_admin):
    got, head = lasting_admin("GET", "/tasks"), lasting_admin("HEAD", "/tasks")
    assert (head.status_code, head.data) == (200, b"")
    for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control"):
        assert head.headers[name] == got.headers[name]


def test_head_of_what_is_refused_is_refused_without_a_body(stranger):
    answer = stranger("HEAD", "/tasks")
    assert (answer.status_code, answer.data) == (401, b"")
    assert answer.headers["WWW-Authenticate"]


def test_a_bug_is_answered_without_a_word_about_it(buggy):
    answer = buggy("GET", "/tasks", X_Request_ID="trouble-1")
    problem = assert_problem(answer, 500, "internal_server_error")
    assert problem["request_id"] == "trouble-1"
    for word in ("Zero", "recipe", "Traceback", "queries", ".py"):
        assert word not in answer.text


def test_a_bug_is_in_the_log_with_its_traceback_and_the_request_id(buggy, caplog):
    buggy("GET", "/tasks", X_Request_ID="trouble-2")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.ERROR
    assert record.request_id == "trouble-2"
    assert record.exc_info[0] is ZeroDivisionError


def test_a_bug_inside_a_transaction_undoes_it(app, admin, monkeypatch):
    create = queries.create

    def half(*given):
        create(*given)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(queries, "create", half)
        assert_problem(admin("POST", "/tasks", {"title": "half"}), 500, "internal_server_error")
    assert admin("GET", "/tasks").json["total"] == 0
    assert admin("POST", "/tasks", {"title": "whole"}).status_code == 201


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (errors.Unavailable("The disk is full. Nothing was changed."), 503, {"Retry-After": "1"}),
        (errors.Unavailable("Too many at the moment.", retry_after=5), 503, {"Retry-After": "5"}),
        (errors.Conflict("It is taken already.", fields=[("/name", "Is taken.")]), 409, {}),
        (errors.Unauthenticated("Sign in first."), 401, {"WWW-Authenticate": 'Bearer realm="walnut"'}),
        (
            errors.Unauthenticated("It has expired.", reason="invalid_token"),
            401,
            {"WWW-Authenticate": 'Bearer realm="walnut", error="invalid_token", error_description="It has expired."'},
        ),
    ],
)
def test_what_the_domain_refuses_leaves_as_a_problem(app, monkeypatch, error, status, headers):
    def refuse(**_):
        raise error

    monkeypatch.setitem(app.view_functions, "tasks_v1.index", refuse)
    answer = Caller(app)("GET", "/tasks")
    problem = assert_problem(answer, status, error.code, *(pointer for pointer, _ in error.fields))
    assert problem["detail"] == error.detail
    for name, value in headers.items():
        assert answer.headers[name] == value
    assert ("Retry-After" in answer.headers) == ("Retry-After" in headers)


@pytest.mark.parametrize("error", KNOWN)
def test_every_refusal_can_be_answered(error):
    app = Flask(__name__)
    with app.test_request_context("/there"):
        response = problems.refused(error("A sentence for a person."))
    assert response.status_code == problems.STATUS[error.code]


ANSWERS = [
    ("GET", "/health/live", 200),
    ("GET", "/tasks", 401),
    ("GET", "/nowhere", 404),
    ("PATCH", "/tasks", 405),
    ("POST", "/auth/login", 422),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_the_security_headers_once(stranger, method, path, status):
    answer = stranger(method, path)
    assert answer.status_code == status
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    names = [name.lower() for name, _ in answer.headers]
    assert len(names) == len(set(names))


def test_a_bug_and_a_file_have_the_security_headers_too(buggy, app):
    for answer in (buggy("GET", "/tasks"), app.test_client().get("/"), app.test_client().get("/api-docs")):
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        answer.close()
