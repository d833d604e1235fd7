import pytest

from api.web import cors
from tests.conftest import PASSWORD, Caller, assert_problem, sign_up

APP = "https://app.example.com"
OTHER = "http://localhost:5173"
ASKS = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture
def shared(make_app):
    """An app that lets two origins in."""
    return make_app(CORS_ORIGINS=f"{APP}, {OTHER}")


def access(answer):
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


def vary(answer):
    return {name.strip() for name in answer.headers.get("Vary", "").split(",")} - {""}


@pytest.mark.parametrize("origin", [APP, OTHER])
@pytest.mark.parametrize("path", ["/api/v1/tasks", "/api/v2/tasks", "/api/tasks", "/api/v1/nowhere", "/health"])
def test_a_preflight_of_an_origin_that_may_is_told_what_it_may(shared, origin, path):
    answer = shared.test_client().options(path, headers={"Origin": origin} | ASKS)
    assert (answer.status_code, answer.data) == (204, b"")
    told = access(answer)
    assert told.pop("Access-Control-Allow-Origin") == origin
    assert set(told.pop("Access-Control-Allow-Methods").split(", ")) == {
        "DELETE",
        "GET",
        "HEAD",
        "PATCH",
        "POST",
        "PUT",
    }
    taken = {name.lower() for name in told.pop("Access-Control-Allow-Headers").split(", ")}
    assert taken >= {"authorization", "content-type", "if-match", "if-none-match", "idempotency-key", "x-api-version"}
    assert int(told.pop("Access-Control-Max-Age")) > 600
    assert told == {}
    assert "Origin" in vary(answer)
    assert answer.headers["X-Request-ID"]


def test_a_page_of_an_origin_that_may_can_do_the_whole_tour(shared):
    sign_up(shared, "root", role="admin")
    client = shared.test_client()
    said = {"email": "root@example.com", "password": PASSWORD}
    login = client.post("/api/v1/auth/login", json=said, headers={"Origin": APP})
    own = {"Origin": APP, "Authorization": f"Bearer {login.json['access_token']}"}
    made = client.post("/api/v1/tasks", json={"title": "x"}, headers=own)
    for answer in (login, made, client.get("/api/v1/tasks", headers=own), client.get("/api/v1/nowhere", headers=own)):
        assert access(answer) == {
            "Access-Control-Allow-Origin": APP,
            "Access-Control-Expose-Headers": ", ".join(cors.EXPOSED),
        }
        assert "Origin" in vary(answer)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/api/v1/tasks", 401), ("GET", "/api/v1/nowhere", 404), ("BREW", "/api/v1/tasks", 405),
    ("POST", "/api/v1/auth/login", 422), ("GET", "/api/v9/tasks", 400), ("GET", "/static/favicon.svg", 200),
    ("GET", "/api-docs/openapi.json", 200), ("OPTIONS", "/api/v1/tasks", 204),
])  # fmt: skip
def test_every_answer_can_be_read_by_who_may_and_varies_for_everybody(shared, method, path, status):
    for origin in (APP, "https://evil.example.com", None):
        answer = shared.test_client().open(path, method=method, headers={"Origin": origin} if origin else {})
        assert answer.status_code == status
        assert answer.headers.get("Access-Control-Allow-Origin") == (APP if origin == APP else None)
        assert "Origin" in vary(answer)
        assert len(answer.headers.getlist("Vary")) == 1
        answer.close()


@pytest.mark.parametrize(
    "origin",
    ["null", "*", "", "https://evil.example.com", "http://app.example.com", f"{APP}:443", f"{APP}:8443", f"{APP}/",
     f"{APP}.evil.com", "https://evilapp.example.com", "https://xapp.example.com", APP.upper(), f"{APP},{OTHER}",
     f"{APP} {OTHER}", f" {APP}x", "https://appxexample.com", "http://localhost"],
)  # fmt: skip
def test_nobody_else_gets_a_header(shared, origin):
    client = shared.test_client()
    for answer in (
        client.get("/health", headers={"Origin": origin}),
        client.options("/api/v1/tasks", headers={"Origin": origin} | ASKS),
    ):
        assert access(answer) == {}
        assert vary(answer) == {"Origin"}


def test_credentials_and_wildcards_are_never_allowed(shared):
    for origin in (APP, "null"):
        for method in ("GET", "OPTIONS"):
            answer = shared.test_client().open("/health", method=method, headers={"Origin": origin} | ASKS)
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert "*" not in access(answer).values()


def test_without_origins_nothing_is_said_of_them(lasting_app, lasting_admin):
    client = lasting_app.test_client()
    preflight = client.options("/api/v1/tasks", headers={"Origin": APP} | ASKS)
    for answer in (client.get("/health", headers={"Origin": APP}), preflight):
        assert access(answer) == {}
        assert "Origin" not in vary(answer)
    assert preflight.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_options_that_is_no_preflight_is_answered_by_the_route(shared):
    answer = shared.test_client().options("/api/v1/users/me", headers={"Origin": APP})
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    assert "Access-Control-Allow-Methods" not in answer.headers


def test_every_header_of_ours_that_a_page_may_want_is_exposed(shared):
    """What a browser hides from a page unless it is named: all but the safelisted and the ones for browsers."""
    admin = sign_up(shared, "root", role="admin")
    for answer in (admin("GET", "/tasks"), admin("POST", "/tasks", {"title": "x"}), Caller(shared)("GET", "/tasks")):
        hidden = {name.lower() for name, _ in answer.headers} - {name.lower() for name in cors.EXPOSED}
        assert hidden <= {
            *("cache-control", "content-length", "content-type"),  # https://fetch.spec.whatwg.org: safelisted
            *("content-security-policy", "cross-origin-opener-policy", "cross-origin-resource-policy", "vary"),
            *("permissions-policy", "referrer-policy", "x-content-type-options", "x-frame-options"),
        }


def test_a_refusal_of_cors_is_no_refusal_of_the_request(shared):
    """The browser keeps the answer from the page; without a token there is nothing to keep."""
    assert_problem(shared.test_client().get("/api/v1/tasks", headers={"Origin": "null"}), 401, "unauthenticated")
