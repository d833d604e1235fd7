"""The HTTP round the answers: what caches may do, HEAD, OPTIONS, conditions, and no header twice."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from flask import Flask, Response

from api.web import headers
from tests.conftest import PASSWORD, Caller, assert_problem

GOOD_SECRET = "0123456789abcdefghijklmnopqrstuvwxyz"
NOBODY = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"


@pytest.fixture
def task(admin):
    """The path of a task, without the version."""
    return f"/tasks/{admin('POST', '/tasks', {'title': 'x'}).json['id']}"


@pytest.fixture
def client(lasting_app, lasting_admin):
    return lasting_app.test_client()


# ---- Cache-Control


@pytest.mark.parametrize("path", ["/tasks", "{task}", "/users/me", "/tasks?q=x", "/tasks?status=done"])
def test_a_read_is_for_its_caller_and_is_checked_before_it_is_used_again(admin, task, path):
    answer = admin("GET", path.format(task=task))
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Vary"] in ("Authorization", "Authorization, Accept-Encoding")
    assert answer.headers["ETag"]


@pytest.mark.parametrize("path", ["", "/db", "/redis", "/live", "/ready"])
@pytest.mark.parametrize("prefix", ["/health", "/api/v1/health", "/api/v2/health", "/api/health"])
def test_health_is_of_this_moment(client, prefix, path):
    answer = client.get(prefix + path)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert not {"ETag", "Last-Modified"} & set(answer.headers.keys())


def test_tokens_and_changes_are_not_to_be_stored(app, admin, task):
    anyone = Caller(app)
    answers = [
        anyone("POST", "/auth/login", {"email": "root@example.com", "password": PASSWORD}),
        anyone("POST", "/auth/refresh", {"refresh_token": admin.refresh_token}),
        anyone("POST", "/auth/register", {"username": "eve", "email": "eve@example.com", "password": PASSWORD}),
        admin("POST", "/tasks", {"title": "y"}),
        admin("PATCH", task, {"title": "y"}),
        admin("PUT", task, {"title": "y"}),
        admin("DELETE", task),
        admin("POST", "/auth/logout"),
    ]
    for answer in answers:
        assert answer.status_code < 300, answer.text
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/static/favicon.svg", "/static/js/main.js", "/api-docs",
                                  "/api-docs/assets/swagger-ui.css", "/api-docs/openapi.json?version=2"])  # fmt: skip
def test_files_pages_and_the_document_are_checked_before_they_are_used_again(client, path):
    """None has a version in its name, so none may be kept without asking: an upgrade shows at once."""
    first = client.get(path)
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-cache")
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    first.close()
    again.close()


def test_what_says_nothing_about_caches_is_not_stored():
    app = Flask(__name__)
    app.add_url_rule("/", "page", lambda: Response("x"))
    app.wsgi_app = headers.Headers(app.wsgi_app, False)
    assert app.test_client().get("/").headers.getlist("Cache-Control") == ["no-store"]


# ---- HEAD and OPTIONS

ADDRESSES = ["/api/v1/tasks", "/api/v2/tasks?limit=1", "/api/v1/users/me", "/health", "/api/v1/nowhere", "/api/v9/x",
             "/", "/api-docs", "/api-docs/openapi.json", "/static/favicon.svg", "/api/tasks?limit=0"]  # fmt: skip


@pytest.mark.parametrize("path", ADDRESSES)
def test_head_is_get_without_a_body(lasting_app, lasting_admin, path):
    own = {"Authorization": f"Bearer {lasting_admin.token}", "X-Request-ID": "same"}
    client = lasting_app.test_client()
    client.get(path, headers=own).close()  # so that what is kept is kept for both
    got, head = client.get(path, headers=own), client.head(path, headers=own)
    assert (head.status_code, head.data) == (got.status_code, b"")
    if path == "/health":  # its memory and its uptime have another number of digits now and then
        got.headers["Content-Length"] = head.headers["Content-Length"]
    of_the_moment = {"X-RateLimit-Reset"}
    assert {pair for pair in head.headers if pair[0] not in of_the_moment} == {
        pair for pair in got.headers if pair[0] not in of_the_moment
    }
    assert int(head.headers["Content-Length"]) == len(got.data) or path == "/health"
    got.close()
    head.close()


def test_head_is_conditional_like_get(admin, task):
    tag = admin("GET", task).headers["ETag"]
    assert admin("HEAD", task, If_None_Match=tag).status_code == 304
    assert admin("HEAD", task, If_Match='"other"').status_code == 412


def test_options_says_nothing_about_a_body_there_is_not(client):
    answer = client.options("/api/v1/tasks")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert not {"Content-Type", "Content-Length", "ETag"} & set(answer.headers.keys())


@pytest.mark.parametrize("method", ["PUT", "TRACE", "CONNECT", "BREW", "get"])
def test_another_method_is_told_which_there_are(client, method):
    answer = client.open("/api/v2/tasks", method=method)
    if method == "get":  # Werkzeug's client capitalises
        assert answer.status_code == 401
        return
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


# ---- conditions (RFC 9110, 13)


@pytest.mark.parametrize("path", ["/tasks", "{task}", "/users/me"])
def test_what_is_still_good_is_told_with_what_a_cache_needs_and_no_more(admin, task, path):
    address = path.format(task=task)
    got = admin("GET", address)
    again = admin("GET", address, If_None_Match=got.headers["ETag"])
    assert (again.status_code, again.data) == (304, b"")
    for name in ("ETag", "Cache-Control", "Vary"):
        assert again.headers[name] == got.headers[name]
    assert not {"Content-Type", "Content-Length", "Content-Encoding", "Location"} & set(again.headers.keys())


@pytest.mark.parametrize(("sent", "status"), [('"other"', 412), ("*", 200), ("{tag}", 200), ('"x", {tag}', 200)])
def test_a_read_only_of_what_was_seen(admin, task, sent, status):
    tag = admin("GET", task).headers["ETag"]
    answer = admin("GET", task, If_Match=sent.format(tag=tag))
    assert answer.status_code == status
    if status == 412:
        assert_problem(answer, 412, "precondition_failed")


def test_if_match_comes_before_if_none_match(admin, task):
    tag = admin("GET", task).headers["ETag"]
    assert admin("GET", task, If_Match='"other"', If_None_Match=tag).status_code == 412
    assert admin("GET", task, If_Match=tag, If_None_Match=tag).status_code == 304


@pytest.mark.parametrize(("method", "body"), [("PUT", {"title": "y"}), ("PATCH", {"title": "y"}), ("DELETE", None)])
@pytest.mark.parametrize("sent", ["*", '"1"', 'W/"1"'])
def test_a_change_only_of_what_is_not_there(admin, task, method, body, sent):
    """If-None-Match: * is how a client says: make it, but do not overwrite."""
    assert_problem(admin(method, task, body, If_None_Match=sent), 412, "precondition_failed")
    assert admin("GET", task).json["title"] == "x"
    assert admin(method, task, body, If_None_Match='"other"').status_code < 300


def test_a_time_is_no_condition_where_no_time_of_change_is_told(admin, task):
    """RFC 9110, 13.1.3: ignored where there is no Last-Modified."""
    soon = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    assert admin("GET", task, If_Modified_Since=soon).status_code == 200
    assert "Last-Modified" not in admin("GET", task).headers


def test_an_unknown_media_type_is_told_what_would_be_taken(admin):
    answer = admin.send("POST", "/tasks", data=b"<x/>", content_type="text/xml")
    assert_problem(answer, 415, "unsupported_media_type")
    assert answer.headers["Accept"] == "application/json"


# ---- every answer

SENT = [*(("GET", path) for path in ADDRESSES), ("OPTIONS", "/api/tasks"), ("BREW", "/api/v1/tasks"),
        ("POST", "/api/tasks"), ("GET", f"/api/tasks/{NOBODY}"), ("GET", "/api-docs/index.html"),
        ("GET", "/apidocs/index.html")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), SENT)
def test_no_header_is_there_twice_and_none_is_empty(lasting_app, lasting_admin, method, path):
    own = {"Authorization": f"Bearer {lasting_admin.token}"}
    answer = lasting_app.test_client().open(path, method=method, headers=own)
    names = [name.lower() for name, _ in answer.headers]
    assert len(names) == len(set(names)), names
    assert all(value.strip() for _, value in answer.headers)
    assert "cache-control" in names
    answer.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/api-docs", "text/html; charset=utf-8"),
        ("/static/js/main.js", "text/javascript; charset=utf-8"),
        ("/static/css/walnut.css", "text/css; charset=utf-8"),
        ("/health", "application/json"),  # RFC 8259, 11: JSON has no charset to name
        ("/nowhere", "application/problem+json"),
    ],
)
def test_a_body_says_what_it_is(client, path, kind):
    answer = client.get(path)
    assert answer.content_type == kind
    answer.close()


@pytest.mark.parametrize("name", headers.LISTS)
def test_what_several_add_to_leaves_as_one_header(name):
    given = [(name, "a"), ("X", "1"), (name, "b"), ("Cache-Control", "no-cache")]
    found = headers.complete(given)
    assert sorted(found) == sorted([("X", "1"), ("Cache-Control", "no-cache"), (name, "a, b")])


# ---- Strict-Transport-Security (RFC 6797)


def transport(app, **given):
    return app.test_client().get("/health", headers=given).headers.get("Strict-Transport-Security")


def test_https_is_for_good_once_a_trusted_proxy_says_so_in_production(make_app):
    app = make_app(APP_ENV="production", JWT_SECRET=GOOD_SECRET, TRUSTED_PROXIES="1")
    assert re.fullmatch(r"max-age=(\d{8,}); includeSubDomains", transport(app, X_Forwarded_Proto="https"))
    assert transport(app, X_Forwarded_Proto="http") is None
    assert transport(app) is None


def test_who_is_not_trusted_cannot_say_so(make_app):
    app = make_app(APP_ENV="production", JWT_SECRET=GOOD_SECRET)
    assert transport(app, X_Forwarded_Proto="https") is None


def test_a_developers_machine_is_not_bound_to_https(make_app):
    app = make_app(APP_ENV="development", TRUSTED_PROXIES="1")
    assert transport(app, X_Forwarded_Proto="https") is None


def test_swagger_ui_of_a_version_there_is_not_is_refused(client):
    assert_problem(client.get("/api-docs?version=3"), 422, "invalid", "/version")
    assert client.get("/api-docs?version=2").status_code == 200
