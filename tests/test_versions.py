import dataclasses
import timeit
from datetime import UTC, datetime

import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import create_environ

from api.errors import NotAcceptable
from api.web import guard, headers, problems, resource, versions
from api.web.contract import Contract
from api.web.openapi import document
from api.web.versions import VERSIONS
from tests.conftest import Caller, assert_problem

READ = {"Authorization", "Accept-Encoding"}
UNVERSIONED = {"X-API-Version", "Accept"}


@pytest.fixture
def ask(lasting_app, lasting_admin):
    """Return a function that sends a request to any path as the admin."""

    def sent(path, method="GET", **given):
        named = {name.replace("_", "-"): value for name, value in given.items()}
        own = {"Authorization": f"Bearer {lasting_admin.token}"}
        return lasting_app.test_client().open(path, method=method, headers=own | named)

    return sent


def vary(answer):
    """Return what an answer says it varies by; there is one such header at most."""
    said = answer.headers.getlist("Vary")
    assert len(said) <= 1
    return {name.strip() for name in ",".join(said).split(",") if name.strip()}


def is_of(answer, version):
    """Tell whether an answer is a list as a version has it, and says so."""
    assert answer.status_code == 200, answer.text
    assert answer.headers.getlist("X-API-Version") == [str(version)]
    return set(answer.json) == ({"items", "page", "limit", "total"} if version == 1 else {"items", "next_cursor"})


# ---- which version


@pytest.mark.parametrize("version", VERSIONS)
def test_the_path_names_the_version(ask, version):
    answer = ask(f"/api/v{version}/tasks")
    assert is_of(answer, version)
    assert vary(answer) == READ


@pytest.mark.parametrize("version", VERSIONS)
def test_a_header_names_the_version(ask, version):
    answer = ask("/api/tasks", X_API_Version=str(version))
    assert is_of(answer, version)
    assert vary(answer) == READ | UNVERSIONED


def test_who_says_nothing_gets_version_1_and_caches_are_told_what_it_hangs_on(ask):
    answer = ask("/api/tasks")
    assert is_of(answer, 1)
    assert vary(answer) == READ | UNVERSIONED


@pytest.mark.parametrize(
    ("accept", "version"),
    [
        ("application/json;version=2", 2),
        ("application/json; version=2", 2),
        ('application/json; version="2"', 2),
        ("APPLICATION/JSON; Version=2", 2),
        ("application/vnd.walnut+json;version=2", 2),
        ("application/vnd.walnut.v2+json", 2),
        ("application/vnd.api+json;version=2", 2),
        ("application/json;version=1", 1),
        ("application/vnd.walnut.v1+json", 1),
        ("application/json", 1),
        ("application/vnd.walnut+json", 1),
        ("*/*", 1),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 1),
        ("text/html", 1),
        ("", 1),
        # several, with how much each is wanted
        ("application/json;version=1;q=0.5, application/json;version=2", 2),
        ("application/json;version=1, application/json;version=2;q=0.5", 1),
        ("application/json;version=2, text/plain, */*", 2),
        ("application/json;version=2, application/json", 2),
        ("application/json;version=2;q=0.5, application/json", 1),
        ("application/json;version=2;q=0.5, */*;q=0.1", 2),
        ("application/json;version=2;q=0.5, */*", 1),
        ("application/json;version=2;q=0.5, application/json;q=0.4, */*", 2),
        ("application/json;version=2, application/json;version=1", 2),
        ("application/json;version=1, application/json;version=2", 1),
        ("text/html, application/json;version=2;q=0.1", 2),
        ("application/xml;version=2", 1),
        # what there is not, and something else besides
        ("application/json;version=9, application/json;version=2;q=0.1", 2),
        ("application/json;version=9, */*;q=0.1", 1),
        ("application/json;version=9, application/*;q=0.1", 1),
        # what is not wanted at all
        ("application/json;version=1;q=0, */*", 2),
        ("application/json;version=1;q=0, application/json", 2),
    ],
)
def test_accept_names_the_version(ask, accept, version):
    answer = ask("/api/tasks", Accept=accept)
    assert is_of(answer, version)
    assert vary(answer) >= UNVERSIONED
    assert answer.content_type == "application/json"


@pytest.mark.parametrize(
    "accept",
    [
        "application/json;version=9",
        "application/json;version=two",
        "application/json;version=02",
        "application/vnd.walnut.v9+json",
        "application/vnd.api+json;version=3",
        "application/json;version=9, text/html",
        "application/json;version=2;q=0",
        "application/json;version=9, */*;q=0",
    ],
)
def test_accept_of_versions_there_are_not_is_not_acceptable(ask, accept):
    answer = ask("/api/tasks", Accept=accept)
    problem = assert_problem(answer, 406, "not_acceptable")
    assert "1, 2" in problem["detail"]
    assert problem["instance"] == "/api/tasks"
    assert vary(answer) == UNVERSIONED
    assert "X-API-Version" not in answer.headers


@pytest.mark.parametrize("given", ["9", "0", "-1", "v2", "2.0", "01", "two", "1,2", "²", "9" * 5000])
def test_a_header_of_a_version_there_is_not_is_refused(ask, given):
    answer = ask("/api/tasks", X_API_Version=given)
    assert "1, 2" in assert_problem(answer, 400, "malformed")["detail"]
    assert len(answer.data) < 1000
    assert vary(answer) == UNVERSIONED


@pytest.mark.parametrize(
    "path", ["/api/v9/tasks", "/api/v0/tasks", "/api/v01/tasks", "/api/v9", "/api/v%39/x", f"/api/v{'9' * 3000}/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_path_of_a_version_there_is_not_is_refused_and_says_which_there_are(ask, path, method):
    problem = assert_problem(ask(path, method), 400, "malformed")
    assert "1, 2" in problem["detail"]
    assert len(problem["detail"]) < 200


def test_the_path_wins_over_the_headers(ask):
    answer = ask("/api/v1/tasks", X_API_Version="2", Accept="application/json;version=2")
    assert is_of(answer, 1)
    assert vary(answer) == READ
    assert is_of(ask("/api/v2/tasks", X_API_Version="9", Accept="application/json;version=9"), 2)


def test_the_header_wins_over_accept(ask):
    assert is_of(ask("/api/tasks", X_API_Version="2", Accept="application/json;version=1"), 2)
    assert_problem(ask("/api/tasks", X_API_Version="9", Accept="application/json;version=1"), 400, "malformed")


@pytest.mark.parametrize(
    "path", ["/api/nowhere", "/api/", "/api/vx/tasks", "/api/V1/tasks", "/api//v1/tasks", "/api/ü"]
)
def test_what_is_nowhere_in_any_version_is_not_found_under_the_name_it_was_asked_for(ask, path):
    problem = assert_problem(ask(path), 404, "not_found")
    assert problem["instance"] == path


@pytest.mark.parametrize(
    "path", ["/api", "/api-docs", "/", "/health", "/static/favicon.svg", "/apiv2/tasks", "/apis/v9/x"]
)
def test_what_is_no_part_of_the_api_has_no_version(ask, path):
    answer = ask(path, X_API_Version="9", Accept="application/json;version=9")
    assert answer.status_code in (200, 404)
    assert "X-API-Version" not in answer.headers
    assert not vary(answer) & UNVERSIONED
    answer.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_kind_of_answer_names_its_version(lasting_app, lasting_admin, version):
    stranger = lasting_app.test_client()
    for method, path, status in [
        ("GET", "/tasks", 401), ("GET", "/nowhere", 404), ("PATCH", "/tasks", 405), ("POST", "/auth/login", 422),
        ("OPTIONS", "/tasks", 204), ("GET", "/health", 200),
    ]:  # fmt: skip
        for address, said in ((f"/api/v{version}{path}", {}), (f"/api{path}", {"X-API-Version": str(version)})):
            answer = stranger.open(address, method=method, headers=said)
            assert answer.status_code == status, (address, answer.text)
            assert answer.headers.getlist("X-API-Version") == [str(version)]


def test_a_new_thing_is_where_its_version_has_it(app, admin):
    """The address names the version, so that it is the same thing for whoever follows it without our header."""
    for path, said, there in (
        ("/api/v2/tasks", {}, "/api/v2/tasks/"),
        ("/api/tasks", {"X-API-Version": "2"}, "/api/v2/tasks/"),
        ("/api/tasks", {}, "/api/v1/tasks/"),
    ):
        own = {"Authorization": f"Bearer {admin.token}"} | said
        made = admin.client.post(path, json={"title": "x"}, headers=own)
        assert made.status_code == 201, made.text
        assert made.headers["Location"] == there + made.json["id"]


def test_one_rule_serves_all_versions(app, admin, user):
    """What one version wrote, the other reads and changes; who may not in one, may not in the other."""
    made = admin("POST", "/tasks", {"title": "x"}).json
    own = {"Authorization": f"Bearer {admin.token}"}
    assert admin.client.get(f"/api/v2/tasks/{made['id']}", headers=own).json == made
    tag = {"If-Match": '"1"'}
    changed = admin.client.patch(f"/api/v2/tasks/{made['id']}", json={"title": "y"}, headers=own | tag)
    assert changed.json == admin("GET", f"/tasks/{made['id']}").json
    assert_problem(admin.client.patch(f"/api/v2/tasks/{made['id']}", json={}, headers=own | tag), 422, "invalid", "")
    other = {"Authorization": f"Bearer {user.token}"}
    assert_problem(admin.client.post("/api/v2/tasks", json={"title": "x"}, headers=other), 403, "forbidden")


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "application/json",
                    "*/*",
                    "application/*",
                    "text/html",
                    "application/vnd.walnut.v2+json",
                    "",
                    ";",
                    '"',
                ]
            ),
            st.sampled_from(["", ";version=1", ";version=2", ";version=9", ';version="', ";version", ";version=*;x"]),
            st.sampled_from(["", ";q=0", ";q=0.5", ";q=1", ";q=x", ";q=", ";q=2", ";q=-1", ";q=nan"]),
        ).map("".join),
        max_size=5,
    ).map(", ".join)
    | st.text(alphabet=st.characters(max_codepoint=255), max_size=40)
)
def test_whatever_accept_says_it_is_a_version_or_not_acceptable(accept):
    try:
        assert versions._accepted(accept) in VERSIONS
    except NotAcceptable:
        assert "version" in accept or "walnut" in accept


# ---- what it costs


def test_it_costs_a_few_microseconds_a_request(lasting_app):
    """Against a layer that does nothing, and only an order of magnitude: machines differ."""

    class Outside:
        wsgi_app = staticmethod(lambda _environ, _start: [])

    layer = versions.Versions(Outside())

    def cost(path, **given):
        environ = create_environ(path, headers=given)

        def ask():
            environ["PATH_INFO"] = path
            environ.pop(headers.ADDED, None)
            layer(environ, None)

        return min(timeit.repeat(ask, number=2000, repeat=5)) / 2000

    assert cost("/api/v2/tasks") < 20e-6
    assert cost("/api/tasks", Accept="application/json;version=1;q=0.5, application/json;version=2") < 40e-6


# ---- routes on their way out

SINCE = datetime(2027, 1, 31, tzinfo=UTC)
GONE = datetime(2027, 7, 31, 12, tzinfo=UTC)


@pytest.fixture
def leaving():
    """An app with a room whose one route is on its way out in version 1 and as it should be in version 2."""
    room = resource.Resource("room", __name__)

    @room.get("/old/<name>", allow=guard.PUBLIC, limit=None, transaction=False, status=204, versions=(1,),
              deprecated=SINCE, sunset=GONE, successor="/api/v2/old/{name}")  # fmt: skip
    def old(name):
        """Answer in the old way."""
        if name == "missing":
            raise problems.errors.NotFound("There is nothing here any more.")

    @room.get("/old/<name>", allow=guard.PUBLIC, limit=None, transaction=False, status=204, versions=(2,))
    def new(name):
        """Answer in the new way."""

    app = Flask(__name__)
    resource.mount(app, room)
    problems.init_app(app)
    versions.init_app(app, None)
    app.wsgi_app = headers.Headers(app.wsgi_app, False)
    return app


@pytest.mark.parametrize(("name", "status"), [("thing", 204), ("missing", 404)])
def test_a_route_on_its_way_out_says_so_whatever_it_answers(leaving, name, status):
    answer = leaving.test_client().get(f"/api/v1/old/{name}")
    assert answer.status_code == status
    assert answer.headers["Deprecation"] == f"@{int(SINCE.timestamp())}"
    assert answer.headers["Sunset"] == "Sat, 31 Jul 2027 12:00:00 GMT"
    assert answer.headers["Link"] == f'</api/v2/old/{name}>; rel="successor-version"'


def test_its_successor_says_nothing_of_the_kind(leaving):
    answer = leaving.test_client().get("/api/v2/old/thing")
    assert not {"Deprecation", "Sunset", "Link"} & set(answer.headers.keys())


def test_the_document_shows_what_is_on_its_way_out(leaving):
    old = document(leaving, 1)["paths"]["/api/v1/old/{name}"]["get"]
    assert old["deprecated"] is True
    assert set(old["responses"]["204"]["headers"]) == {"Deprecation", "Sunset", "Link"}
    new = document(leaving, 2)["paths"]["/api/v2/old/{name}"]["get"]
    assert "deprecated" not in new
    assert "headers" not in new["responses"]["204"]


@pytest.mark.parametrize(
    "given",
    [
        {"sunset": GONE},
        {"successor": "/api/v2/x"},
        {"deprecated": GONE, "sunset": SINCE},
        {"deprecated": datetime(2027, 1, 31)},
        {"deprecated": SINCE, "sunset": datetime(2027, 7, 31)},
    ],
)
def test_a_farewell_that_makes_no_sense_stops_the_start(given):
    with pytest.raises(TypeError):
        Contract(allow=guard.PUBLIC, **given)


def test_a_farewell_is_said_in_utc():
    paris = datetime.fromisoformat("2027-07-31T14:00:00+02:00")
    contract = Contract(allow=guard.PUBLIC, deprecated=SINCE, sunset=paris)
    assert dict(contract.farewell({}))["Sunset"] == "Sat, 31 Jul 2027 12:00:00 GMT"
    assert dataclasses.replace(contract, deprecated=None, sunset=None).farewell({}) == []


def test_no_route_of_ours_is_on_its_way_out_yet(lasting_app):
    for version in VERSIONS:
        for path in document(lasting_app, version)["paths"].values():
            assert not any(operation.get("deprecated") for operation in path.values())


def test_a_stranger_may_ask_without_a_version_too(app):
    assert Caller(app).client.get("/api/health/live").json == {"status": "ok"}
