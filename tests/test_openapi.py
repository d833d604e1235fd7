import json
import re
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from marshmallow import fields
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.api_keys.schemas import ApiKeyIn, ApiKeyOut, NewApiKeyOut
from api.audit.schemas import HistoryOut, TrailOut, VerdictOut
from api.auth.schemas import LoginIn, OwnSessionOut, Proof, RefreshIn, RegisterIn, TokensOut, UserOut
from api.credentials.schemas import AddressIn, ChangeIn, MessageOut, NewPasswordIn
from api.jobs.schemas import AcceptedOut, JobIn, JobOut, RetryIn, SummaryOut, WebhookIn, WebhookOut
from api.ops.schemas import DatabaseOut, HealthOut, PartOut
from api.second_factor.schemas import RecoveryCodesOut, TotpCodeIn, TotpIn, TotpOut, TotpRemovalIn
from api.tasks.schemas import TaskChange, TaskIn, TaskOut
from api.users.schemas import ExportOut, OwnChange, UserChange, UserIn
from api.vendors.schemas import SecretIn, VendorChange, VendorIn, VendorOut, VendorSecretOut, VendorStateOut
from api.version import __version__
from api.web.fields import Timestamp, rfc3339
from api.web.output import shaper
from api.web.versions import VERSIONS
from tests.conftest import PASSWORD, assert_problem

ANSWERS = (
    *(TaskOut, UserOut, TokensOut, OwnSessionOut, HealthOut, DatabaseOut, PartOut, TrailOut, HistoryOut, VerdictOut),
    MessageOut,
    *(AcceptedOut, SummaryOut, JobOut, WebhookOut, VendorOut, VendorSecretOut, VendorStateOut),
    *(TotpOut, RecoveryCodesOut),
    *(ApiKeyOut, NewApiKeyOut),
    ExportOut,
)
BODIES = (
    *(TaskIn, TaskChange, RegisterIn, LoginIn, RefreshIn),
    *(AddressIn, NewPasswordIn, ChangeIn),
    *(JobIn, RetryIn, WebhookIn, VendorIn, VendorChange, SecretIn),
    *(TotpIn, TotpCodeIn, TotpRemovalIn),
    ApiKeyIn,
    *(UserIn, UserChange, OwnChange, Proof),
)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture(scope="module")
def spec(lasting_app, version):
    return json.loads(lasting_app.test_client().get(f"/api-docs/openapi.json?version={version}").data)


def contracts(app, version=1):
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if contract and rule.rule.startswith(f"/api/v{version}/"):
            yield rule, contract


def resolved(spec, found):
    while "$ref" in found:
        for step in found["$ref"].removeprefix("#/").split("/"):
            found, spec = (spec[step], spec[step]) if step in spec else (found, spec)
        spec = found
    return found


def validator(spec, schema):
    """Return a validator that knows the document's components."""
    return OAS31Validator(
        {**schema, "components": spec["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


# ---- the document


def test_it_is_valid_openapi_3_1(spec):
    assert spec["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(spec).iter_errors()) == []


def test_it_names_this_version_and_how_to_sign_in(spec):
    assert spec["info"]["version"] == __version__
    assert spec["components"]["securitySchemes"]["bearer"] == {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
    }


def test_operation_ids_are_unique_and_every_operation_has_a_room(spec):
    operations = [one for path in spec["paths"].values() for one in path.values()]
    ids = [one["operationId"] for one in operations]
    assert len(set(ids)) == len(ids)
    assert {tag for one in operations for tag in one["tags"]} == {
        *("auth", "credentials", "api_keys", "second_factor", "users"),
        *("tasks", "jobs", "vendors", "audit", "events", "ops"),
    }


def test_what_needs_a_token_says_so_and_what_does_not_does_not(spec, lasting_app, version):
    for rule, contract in contracts(lasting_app, version):
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for operation in spec["paths"][path].values():
            assert (operation.get("security") == [{"bearer": []}]) == (contract.allow != "public"), path
            assert ("401" in operation["responses"]) >= (contract.allow != "public"), path


def test_every_problem_is_documented_as_a_problem(spec):
    for path in spec["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                assert answer["description"]
                if status >= "400":
                    assert answer["content"] == {
                        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                    }
            assert "500" not in operation["responses"], "a 500 is a bug and no answer"


def test_bodies_take_no_other_fields_and_answers_hold_all_of_theirs(spec):
    schemas = spec["components"]["schemas"]
    for schema in ANSWERS:
        found = schemas[schema.__name__]
        assert set(found["required"]) == set(found["properties"]) == set(schema().fields), schema
    for schema in BODIES:
        assert schemas[schema.__name__]["additionalProperties"] is False
        assert set(schemas[schema.__name__]["properties"]) == set(schema().fields)


@pytest.mark.parametrize("schema", BODIES)
def test_the_examples_of_a_body_are_taken_as_they_are(schema):
    """Swagger UI fills in the examples: pressing Execute must work."""
    example = {
        name: field.metadata["example"] for name, field in schema().fields.items() if "example" in field.metadata
    }
    assert example
    schema().load(example)


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00Z", "soon", 5])
def test_a_body_that_the_document_refuses_is_refused_and_the_other_way_round(spec, lasting_admin, text):
    schema = {"$ref": "#/components/schemas/TaskIn"}
    ok = not list(validator(spec, schema).iter_errors({"title": "x", "due_at": text}))
    assert ok == (text == "2026-01-31T12:00:00Z")
    if not ok:
        assert lasting_admin("POST", "/tasks", {"title": "x", "due_at": text}).status_code == 422


ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
SOMETIMES = {"Link", "Idempotency-Replayed"}  # the last part of a list has no next one, a first answer is no repetition


def test_answers_are_as_documented(spec, version, app, admin, user, anyone):
    """Each real answer against the schema of its status."""
    task = admin("POST", "/tasks", {"title": "x", "tags": ["a"], "due_at": "2026-01-31T12:00:00Z"})
    path = f"/tasks/{task.json['id']}"
    account = {"username": "eve", "email": "eve@example.com", "password": "correct horse"}
    acme = {"name": "acme", "url": "http://127.0.0.1:9/", "mode": "async"}
    change = {"current_password": "correct horse", "new_password": "another horse"}
    asked = [
        (admin, "POST", "/tasks", "/tasks", {"title": "x"}, 201),
        (admin, "GET", path, "/tasks/{task_id}", None, 200),
        (admin, "PATCH", path, "/tasks/{task_id}", {"assignee_id": user.id}, 200),
        (admin, "PUT", path, "/tasks/{task_id}", {"title": "y"}, 200),
        (user, "GET", "/tasks", "/tasks", None, 200),
        (user, "GET", "/tasks?limit=0", "/tasks", None, 422),
        (user, "GET", "/tasks?q=%FF", "/tasks", None, 400),
        (user, "POST", "/tasks", "/tasks", {"title": "x"}, 403),
        (anyone, "POST", "/tasks", "/tasks", {"title": "x"}, 401),
        (admin, "POST", "/tasks", "/tasks", {}, 422),
        (user, "GET", "/users/me", "/users/me", None, 200),
        (anyone, "POST", "/auth/register", "/auth/register", account, 201),
        (anyone, "POST", "/auth/register", "/auth/register", account, 409),
        (anyone, "POST", "/auth/register", "/auth/register", account | {"role": "admin"}, 403),
        (anyone, "POST", "/auth/login", "/auth/login", {"email": "eve@example.com", "password": "correct horse"}, 200),
        (anyone, "POST", "/auth/login", "/auth/login", {"email": "eve@example.com", "password": "wrong"}, 401),
        (anyone, "POST", "/auth/refresh", "/auth/refresh", {"refresh_token": user.refresh_token}, 200),
        (anyone, "POST", "/auth/refresh", "/auth/refresh", {"refresh_token": "x"}, 401),
        (anyone, "PUT", "/auth/forgot-password", "/auth/forgot-password", {"email": "x@example.com"}, 202),
        (anyone, "PUT", "/auth/forgot-password", "/auth/forgot-password", {"email": "x"}, 422),
        (anyone, "PUT", "/auth/confirmation", "/auth/confirmation", {"email": "x@example.com"}, 202),
        (anyone, "PUT", "/auth/confirmation/x", "/auth/confirmation/{token}", None, 404),
        (anyone, "PUT", "/auth/reset-password/x", "/auth/reset-password/{token}", {"password": "secret123"}, 404),
        (user, "PUT", "/auth/change-password", "/auth/change-password", change | {"current_password": "no"}, 403),
        (user, "PUT", "/auth/change-password", "/auth/change-password", change, 204),
        (anyone, "GET", "/health", "/health", None, 200),
        (anyone, "GET", "/health/db", "/health/db", None, 200),
        (anyone, "GET", "/health/redis", "/health/redis", None, 200),
        (admin, "POST", "/tasks", "/tasks", {"title": "x"}, 201),
        (user, "GET", f"{path}/history", "/tasks/{task_id}/history", None, 200),
        (admin, "GET", "/audit", "/audit", None, 200),
        (admin, "GET", "/audit?limit=0", "/audit", None, 422),
        (admin, "GET", "/audit/verify", "/audit/verify", None, 200),
        (user, "GET", "/audit", "/audit", None, 403),
        (admin, "POST", "/vendors", "/vendors", acme, 201),
        (admin, "POST", "/vendors", "/vendors", acme, 409),
        (admin, "POST", "/vendors", "/vendors", acme | {"url": "nowhere"}, 422),
        (user, "GET", "/vendors", "/vendors", None, 403),
        (admin, "GET", "/vendors", "/vendors", None, 200),
        (admin, "GET", "/vendors/acme", "/vendors/{name}", None, 200),
        (admin, "PATCH", "/vendors/acme", "/vendors/{name}", {"limit": "5 per second"}, 200),
        (admin, "POST", "/vendors/acme/secret", "/vendors/{name}/secret", {}, 200),
        (anyone, "POST", "/webhooks/acme", "/webhooks/{vendor}", {"request_id": "x", "status": "complete"}, 401),
        (anyone, "POST", "/webhooks/nobody", "/webhooks/{vendor}", {}, 404),
        (admin, "DELETE", "/vendors/acme", "/vendors/{name}", None, 204),
        (admin, "DELETE", "/vendors/acme", "/vendors/{name}", None, 404),
        (admin, "DELETE", path, "/tasks/{task_id}", None, 204),
        (admin, "DELETE", path, "/tasks/{task_id}", None, 404),
        (
            user,
            "POST",
            "/auth/api-keys",
            "/auth/api-keys",
            {"name": "x", "scopes": ["tasks:read"], "password": PASSWORD},
            201,
        ),
        (
            user,
            "POST",
            "/auth/api-keys",
            "/auth/api-keys",
            {"name": "x", "scopes": ["tasks:write"], "password": PASSWORD},
            422,
        ),
        (user, "GET", "/auth/api-keys", "/auth/api-keys", None, 200),
        (user, "DELETE", f"/auth/api-keys/{ID}", "/auth/api-keys/{key_id}", None, 404),
        (user, "POST", "/auth/logout", "/auth/logout", None, 204),
    ]
    for caller, method, path, template, body, status in asked:
        own = {"Authorization": f"Bearer {caller.token}"} if caller.token else {}
        answer = caller.client.open(f"/api/v{version}{path}", method=method, json=body, headers=own)
        assert answer.status_code == status, (method, path, answer.text)
        documented = spec["paths"][f"/api/v{version}{template}"][method.lower()]["responses"][str(status)]
        if status == 204:
            assert (answer.data, documented.get("content")) == (b"", None)
            continue
        ((kind, content),) = documented["content"].items()
        assert answer.content_type == kind
        assert list(validator(spec, content["schema"]).iter_errors(answer.json)) == []
        for name in set(documented.get("headers", {})) - SOMETIMES:
            assert name in answer.headers, (method, path, name)


def test_a_list_is_asked_for_and_answered_as_its_version_has_it(spec, version):
    operation = spec["paths"][f"/api/v{version}/tasks"]["get"]
    parameters = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"]
    assert set(parameters) & {"page", "limit", "cursor"} == ({"page", "limit"} if version == 1 else {"cursor", "limit"})
    answer = operation["responses"]["200"]
    properties = set(answer["content"]["application/json"]["schema"]["properties"])
    assert properties == ({"items", "page", "limit", "total"} if version == 1 else {"items", "next_cursor"})
    assert ("Link" in answer["headers"]) == (version > 1)


def test_what_is_never_stored_has_no_etag_to_ask_with(spec, version):
    health = spec["paths"][f"/api/v{version}/health"]["get"]
    assert "304" not in health["responses"]
    assert "headers" not in health["responses"]["200"]
    assert health["parameters"] == []


# ---- what comes back is what schema.dump would give

TIMES = st.integers(min_value=-62_135_596_800_000, max_value=253_402_300_799_999)


def values(field):
    """Return a strategy for what a row may hold for a field."""
    kinds = {
        Timestamp: TIMES,
        fields.String: st.text(),
        fields.Integer: st.integers(-(2**63), 2**63 - 1),
        fields.Boolean: st.booleans(),
        fields.Dict: st.dictionaries(st.text(), st.integers()),
        fields.Raw: st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=3),
    }
    if type(field) is fields.List:
        found = st.lists(values(field.inner), max_size=3)
    elif type(field) is fields.Nested:
        found = st.fixed_dictionaries({name: values(inner) for name, inner in field.schema.fields.items()})
    else:
        found = kinds[type(field)]
    return found | st.none() if field.allow_none else found


@pytest.mark.parametrize("schema", ANSWERS)
def test_the_quick_way_out_gives_what_the_schema_would(schema):
    made = schema()
    rows = st.fixed_dictionaries({name: values(field) for name, field in made.fields.items()})
    quick = shaper(made)

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(row=rows)
    def check(row):
        row = row | {"seq": 1, "password_hash": "secret"}
        assert quick(row) == made.dump(row)
        assert list(quick(row)) == list(made.dump(row))

    check()


def test_no_schema_renames_or_computes_what_the_quick_way_out_copies():
    for schema in ANSWERS:
        for name, field in schema().fields.items():
            assert field.data_key in (None, name), f"{schema.__name__}.{name}"
            assert field.attribute in (None, name), f"{schema.__name__}.{name}"


def test_every_schema_that_a_route_returns_is_held_equal(lasting_app):
    found = {type(one.returns) for _, one in contracts(lasting_app) if one.returns and not one.streams}
    assert found <= set(ANSWERS)


@settings(max_examples=200, deadline=None, database=None)
@given(TIMES)
def test_a_time_goes_out_and_comes_in_again_as_it_was(milliseconds):
    text = rfc3339(milliseconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert Timestamp().deserialize(text) == milliseconds


# ---- where it is served


def test_the_document_is_sent_once_and_then_only_if_it_changed(lasting_app):
    client = lasting_app.test_client()
    first = client.get("/api-docs/openapi.json")
    assert first.content_type == "application/json"
    again = client.get("/api-docs/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get("/api-docs/openapi.json?version=1").data == first.data


@pytest.mark.parametrize("version", ["9", "x", "", "01", "-1"])
def test_a_version_that_there_is_not_is_refused(lasting_app, version):
    answer = lasting_app.test_client().get(f"/api-docs/openapi.json?version={version}")
    assert_problem(answer, 422, "invalid", "/version")


class Page(HTMLParser):
    """Collects what a page loads, and what stands in it that a strict policy forbids."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.inline, self._script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loaded += [given[name] for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += ["style"] * (tag == "style")
        self._script = tag == "script"

    def handle_data(self, data):
        if self._script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, _tag):
        self._script = False


@pytest.mark.parametrize("path", ["/api-docs", "/"])
def test_the_pages_have_nothing_inline_and_load_from_here_only(lasting_app, path):
    client = lasting_app.test_client()
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/html")
    page = Page(answer.text)
    assert page.inline == []
    assert len(page.loaded) >= 3
    for address in page.loaded:
        assert address.startswith(("/", "#")), address
        assert not address.startswith("//"), address
        if address.startswith("/") and "." in address:
            found = client.get(address)
            assert found.status_code == 200, address
            found.close()
    answer.close()


def test_swagger_ui_is_of_our_time_and_not_the_one_that_flasgger_bundles(lasting_app):
    ours = Path(find_spec("flask_swagger_ui").origin).parent / "dist"
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        served = lasting_app.test_client().get(f"/api-docs/assets/{name}")
        assert served.data == (ours / name).read_bytes()
        served.close()


def test_a_stream_says_what_its_events_are_and_how_to_go_on(spec, version):
    operation = spec["paths"][f"/api/v{version}/events"]["get"]
    ((kind, content),) = operation["responses"]["200"]["content"].items()
    assert kind == "text/event-stream"
    event = content["schema"]["items"]["properties"]
    assert set(event) == {"event", "id", "data"}
    assert set(resolved(spec, event["data"])["required"]) == {"type"}
    told = {"type": "job.complete", "id": ID, "at": "2026-01-31T12:00:00.000Z"}
    job = {"request_id": ID, "vendor_type": "sync", "status": "complete"}
    for data in (told, told | job, {"type": "reset"}):
        assert list(validator(spec, content["schema"]).iter_errors([{"event": "x", "id": "1-2", "data": data}])) == []
    assert list(validator(spec, content["schema"]).iter_errors([{"data": {"id": ID}}]))
    named = {(one["in"], one["name"]) for one in operation["parameters"]}
    assert named == {("header", "Last-Event-ID"), ("query", "last_event_id")}
