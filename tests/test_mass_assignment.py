"""Nobody sets what is not his to set: in the body of any route, under any spelling, nested or twice."""

import json
import re

import pytest
from marshmallow import ValidationError

from api import tables
from api.errors import Invalid, Malformed
from api.web.inputs import camel_case, parsed_body
from tests.conftest import Caller, assert_problem, rows

NOBODY = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
COLUMNS = {column.name for table in tables.metadata.sorted_tables for column in table.columns}
OTHERS = {"confirmed", "is_admin", "admin", "roles", "permissions", "__proto__", "constructor", "user", "data", "$set"}
VALUES = {"role": "admin", "active": True, "version": 1, "user": {"role": "admin"}, "data": {"role": "admin"}}
DANGEROUS = (
    *("role", "active", "confirmed", "email_confirmed_at", "id", "version", "password_hash", "user", "is_admin"),
    *("totp_secret", "totp_enabled_at", "totp_step", "user_id", "owner_id", "created_by"),
)


def bodies(app):
    """Return each route of version 1 that takes a body: method, path, contract."""
    found = {}
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if contract and contract.body and rule.rule.startswith("/api/v1/"):
            path = re.sub(r"<[^>]+>", NOBODY, rule.rule.removeprefix("/api/v1"))
            for method in rule.methods - {"HEAD", "OPTIONS"}:
                found[method, path] = contract
    return [(*route, contract) for route, contract in found.items()]


def example(schema):
    """Return a body that the schema takes: what Swagger UI fills in."""
    given = {name: field.metadata["example"] for name, field in schema.fields.items() if "example" in field.metadata}
    schema.load(given)
    return given


def foreign(schema, names):
    """Yield each name that is no field of the schema, with its camelCase twin, and a value it might want."""
    known = {*schema.fields, *map(camel_case, schema.fields)}
    for name in names:
        for spelling in {name, camel_case(name)} - known:
            yield spelling, VALUES.get(name, 1)


def test_there_is_something_to_try(lasting_app):
    assert len(bodies(lasting_app)) >= 12
    assert {"password_hash", "totp_secret", "role", "active", "email_confirmed_at", "scopes"} <= COLUMNS
    assert set(DANGEROUS) <= COLUMNS | OTHERS


def test_no_schema_takes_a_column_that_it_does_not_name(lasting_app):
    """Every column of every table, in the body of every route."""
    with lasting_app.test_request_context(content_type="application/json"):
        for method, path, contract in bodies(lasting_app):
            body = example(contract.body)
            for name, value in foreign(contract.body, sorted(COLUMNS | OTHERS)):
                with pytest.raises(Invalid) as refusal:
                    parsed_body(contract.body, json.dumps(body | {name: value}).encode())
                assert [pointer for pointer, _ in refusal.value.fields] == [f"/{name}"], (method, path)


def test_none_takes_a_field_twice_in_either_spelling(lasting_app):
    with lasting_app.test_request_context(content_type="application/json"):
        for method, path, contract in bodies(lasting_app):
            for name, value in example(contract.body).items():
                twice = f'{{"{name}": {json.dumps(value)}, "{name}": {json.dumps(value)}}}'
                with pytest.raises(Malformed):
                    parsed_body(contract.body, twice.encode())
                if (camel := camel_case(name)) != name:
                    with pytest.raises(Invalid) as refusal:
                        parsed_body(contract.body, json.dumps({name: value, camel: value}).encode())
                    assert f"/{camel}" in [pointer for pointer, _ in refusal.value.fields], (method, path)


def people(app):
    return rows(app, "SELECT id, role, active, email_confirmed_at, version, password_hash, totp_secret FROM users")


def test_what_is_dangerous_is_refused_over_http_and_changes_nobody(app, admin, user):
    """As an admin, whom every route lets in, and as a user and anybody: to each of them nothing gives way."""
    before, asked = people(app), 0
    for method, path, contract in bodies(app):
        if contract.signed:
            continue  # nothing of it is read before its signature is right
        for name, value in foreign(contract.body, DANGEROUS):
            body = example(contract.body) | {name: value}
            assert_problem(admin(method, path, body), 422, "invalid", f"/{name}")
            asked += 1
        body = example(contract.body) | {"role_": "admin"}
        for caller in (user, Caller(app)):
            answer = caller(method, path, body)
            assert answer.status_code in (401, 403, 422), (method, path)
    assert asked > 200
    assert people(app) == before


def test_nobody_becomes_admin_but_by_the_rule(app, admin, user, anyone):
    account = {"username": "eve", "email": "eve@example.com", "password": "correct horse"}
    assert_problem(anyone("POST", "/auth/register", account | {"role": "admin"}), 403, "forbidden")
    for role in ("Admin", "ADMIN", "admin ", " admin", "\u0430dmin", "ad\u200bmin", ["admin"], {"": "admin"}, True, 1):
        assert_problem(anyone("POST", "/auth/register", account | {"role": role}), 422, "invalid", "/role")
    raw = json.dumps(account)[:-1].encode()
    for twice in (b', "role": "user", "role": "admin"}', b', "role": "user", "rol\\u0065": "admin"}'):
        answer = anyone.send("POST", "/auth/register", data=raw + twice, content_type="application/json")
        assert_problem(answer, 400, "malformed")
    assert anyone("POST", "/auth/register", account | {"role": None}).status_code == 422
    for method, path in (("PATCH", "/users/me"), ("PATCH", f"/users/{user.id}"), ("PUT", "/users/me")):
        assert user(method, path, {"role": "admin"}).status_code in (403, 404, 405, 422), path
    assert rows(app, "SELECT username FROM users WHERE role = 'admin'") == [("root",)]


@pytest.mark.parametrize("password", ["x" * 73, "é" * 37, "x" * 300, "\U0001f330" * 19, "x" * 100_000])
def test_no_password_is_cut_off_wherever_it_is_given(lasting_app, password):
    """bcrypt reads 72 bytes. More is refused by name, before anything is hashed."""
    given = 0
    with lasting_app.test_request_context(content_type="application/json"):
        for _, path, contract in bodies(lasting_app):
            for name in [name for name in contract.body.fields if "password" in name]:
                with pytest.raises(ValidationError) as refused:
                    contract.body.load(example(contract.body) | {name: password})
                assert "72 bytes" in str(refused.value.messages[name]), path
                given += 1
    assert given >= 10
