"""What may not come in: each is answered with a problem of the right kind, and nothing is stored."""

import io
import json
import math

import pytest
from gunicorn.http.errors import InvalidChunkSize
from marshmallow import Schema, fields, pre_load

from api.errors import Invalid, Malformed
from api.web import inputs, strict_json
from tests.conftest import PASSWORD, assert_problem, rows

JSON = "application/json"


def post(caller, data, content_type=JSON, path="/tasks", method="POST"):
    return caller.send(method, path, data=data, content_type=content_type)


# ---- bytes that are no JSON: 400

MALFORMED = {
    "not JSON": b"title",
    "half an object": b'{"title": "x"',
    "two values": b'{"title": "x"} {}',
    "single quotes": b"{'title': 'x'}",
    "trailing comma": b'{"title": "x",}',
    "comment": b'{"title": "x"} // done',
    "BOM": b'\xef\xbb\xbf{"title": "x"}',
    "UTF-16": '{"title": "x"}'.encode("utf-16"),
    "only spaces": b"   ",
    "bad UTF-8": b'{"title": "\xff"}',
    "overlong UTF-8": b'{"title": "\xc0\xaf"}',
    "surrogate in UTF-8": b'{"title": "\xed\xa0\x80"}',
    "lone surrogate": rb'{"title": "\ud800"}',
    "lone low surrogate": rb'{"title": "x\udc00y"}',
    "lone surrogate in a key": rb'{"title": "x", "\ud800": 1}',
    "NUL": b'{"title": "a\\u0000b"}',
    "NUL in a key": b'{"title": "x", "\\u0000": 1}',
    "control character": b'{"title": "a\nb"}',
    "2**63": b'{"title": "x", "priority": 9223372036854775808}',
    "-2**63-1": b'{"title": "x", "priority": -9223372036854775809}',
    "10,000 digits": b'{"title": "x", "priority": ' + b"9" * 10_000 + b"}",
    "1e400": b'{"title": "x", "priority": 1e400}',
    "-1e400": b'{"title": "x", "priority": -1e400}',
    "NaN": b'{"title": "x", "priority": NaN}',
    "Infinity": b'{"title": "x", "priority": Infinity}',
    "-Infinity": b'{"title": "x", "priority": -Infinity}',
    "duplicate key": b'{"title": "x", "title": "y"}',
    "duplicate key below": b'{"title": "x", "tags": [{"a": 1, "a": 1}]}',
    "duplicate key, escaped": b'{"title": "x", "\\u0074itle": "y"}',
    "100,000 lists": b'{"title": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100,000 lists, never closed": b"[" * 100_000,
    "33 lists": b'{"title": ' + b"[" * 33 + b"]" * 33 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_json_is_malformed(lasting_admin, body):
    assert_problem(post(lasting_admin, body), 400, "malformed")


@pytest.mark.parametrize("query", ["q=%FF", "q=%C0%AF", "%FF=1", "q=%ED%A0%80", "q=%00", "q=a%00b"])
def test_a_query_that_is_no_text_is_malformed(lasting_admin, query):
    assert_problem(lasting_admin("GET", f"/tasks?{query}"), 400, "malformed")


def test_a_query_of_very_many_arguments_is_refused(lasting_admin):
    assert lasting_admin("GET", "/tasks?" + "&".join(f"a{number}=1" for number in range(5000))).status_code in (
        400,
        422,
    )


# ---- JSON of another shape: 422


@pytest.mark.parametrize("body", [b"[]", b'[{"title": "x"}]', b"null", b"true", b"1", b'"title"', b"0.5"])
def test_a_body_must_be_an_object(lasting_admin, body):
    problem = assert_problem(post(lasting_admin, body), 422, "invalid", "")
    assert "object" in problem["detail"]


WRONG = {
    "nothing": ({}, "/title"),
    "null title": ({"title": None}, "/title"),
    "number for text": ({"title": 5}, "/title"),
    "list for text": ({"title": ["x"]}, "/title"),
    "object for text": ({"title": {"x": 1}}, "/title"),
    "empty title": ({"title": ""}, "/title"),
    "blank title": ({"title": " \t\u2003"}, "/title"),
    "201 characters": ({"title": "x" * 201}, "/title"),
    "10,001 characters": ({"title": "x", "description": "x" * 10_001}, "/description"),
    "null description": ({"title": "x", "description": None}, "/description"),
    "unknown status": ({"title": "x", "status": "later"}, "/status"),
    "status of another case": ({"title": "x", "status": "TODO"}, "/status"),
    "priority 0": ({"title": "x", "priority": 0}, "/priority"),
    "priority 6": ({"title": "x", "priority": 6}, "/priority"),
    "the greatest integer": ({"title": "x", "priority": 2**63 - 1}, "/priority"),
    "the least integer": ({"title": "x", "priority": -(2**63)}, "/priority"),
    "true for a number": ({"title": "x", "priority": True}, "/priority"),
    "false for a number": ({"title": "x", "priority": False}, "/priority"),
    "text for a number": ({"title": "x", "priority": "3"}, "/priority"),
    "fraction": ({"title": "x", "priority": 3.5}, "/priority"),
    "whole fraction": ({"title": "x", "priority": 3.0}, "/priority"),
    "null priority": ({"title": "x", "priority": None}, "/priority"),
    "tags as text": ({"title": "x", "tags": "home"}, "/tags"),
    "null tags": ({"title": "x", "tags": None}, "/tags"),
    "a tag that is no text": ({"title": "x", "tags": ["home", 1]}, "/tags/1"),
    "a blank tag": ({"title": "x", "tags": [" "]}, "/tags/0"),
    "a tag of 51 characters": ({"title": "x", "tags": ["x" * 51]}, "/tags/0"),
    "21 tags": ({"title": "x", "tags": [str(number) for number in range(21)]}, "/tags"),
    "a time without offset": ({"title": "x", "due_at": "2026-01-31T12:00:00"}, "/due_at"),
    "a date": ({"title": "x", "due_at": "2026-01-31"}, "/due_at"),
    "no time": ({"title": "x", "due_at": "tomorrow"}, "/due_at"),
    "seconds": ({"title": "x", "due_at": 1769860800}, "/due_at"),
    "a list for a time": ({"title": "x", "due_at": []}, "/due_at"),
    "a time that does not exist": ({"title": "x", "due_at": "2026-02-30T12:00:00Z"}, "/due_at"),
    "a time before year 1": ({"title": "x", "due_at": "0001-01-01T00:00:00+23:59"}, "/due_at"),
    "a time after year 9999": ({"title": "x", "due_at": "9999-12-31T23:59:59-23:59"}, "/due_at"),
    "a time rounded past year 9999": ({"title": "x", "due_at": "9999-12-31T23:59:59.9999Z"}, "/due_at"),
    "no id": ({"title": "x", "assignee_id": "root"}, "/assignee_id"),
    "an id with a line break": (
        {"title": "x", "assignee_id": "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e\n"}, "/assignee_id",
    ),
    "an id in capitals": ({"title": "x", "assignee_id": "019A9F3E-5B1C-7C3A-9D0E-0F6B2A1C4D5E"}, "/assignee_id"),
    "an id that is nobody's": (
        {"title": "x", "assignee_id": "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"}, "/assignee_id",
    ),
    "unknown field": ({"title": "x", "colour": "red"}, "/colour"),
    "unknown field with a slash": ({"title": "x", "a/b~c": 1}, "/a~1b~0c"),
    "a field of the server": ({"title": "x", "created_by": "me"}, "/created_by"),
    "id": ({"title": "x", "id": "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"}, "/id"),
    "version": ({"title": "x", "version": 7}, "/version"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "pointer"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_field_is_named(lasting_admin, body, pointer):
    assert_problem(lasting_admin("POST", "/tasks", body), 422, "invalid", pointer)


def test_every_wrong_field_is_named_at_once(lasting_admin):
    body = {"title": "", "priority": 9, "tags": ["", "ok", 3], "colour": "red", "dueAt": "soon"}
    problem = assert_problem(
        lasting_admin("POST", "/tasks", body),
        *(422, "invalid"),
        *("/title", "/priority", "/tags/0", "/tags/2", "/colour", "/dueAt"),
    )
    assert "colour, dueAt, priority" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"title": "x" * 200}, "title", "x" * 200),
        ({"title": "\U0001d54f" * 200}, "title", "\U0001d54f" * 200),
        ({"title": "👨‍👩‍👧 é ü 買牛奶 \u202e"}, "title", "👨‍👩‍👧 é ü 買牛奶 \u202e"),
        ({"title": "x", "description": "y" * 10_000}, "description", "y" * 10_000),
        ({"title": "x", "description": "line\r\nline\ttab"}, "description", "line\r\nline\ttab"),
        ({"title": "x", "priority": 1}, "priority", 1),
        ({"title": "x", "tags": ["b", "a", "b"]}, "tags", ["b", "a"]),
        ({"title": "x", "tags": [str(n) for n in range(20)]}, "tags", [str(n) for n in range(20)]),
        ({"title": "x", "due_at": "2026-01-31T12:00:00Z"}, "due_at", "2026-01-31T12:00:00.000Z"),
        ({"title": "x", "due_at": "2026-01-31T12:00:00.123456+02:00"}, "due_at", "2026-01-31T10:00:00.123Z"),
        ({"title": "x", "due_at": "0001-01-01T00:00:00Z"}, "due_at", "0001-01-01T00:00:00.000Z"),
        ({"title": "x", "due_at": "9999-12-31T23:59:59.999Z"}, "due_at", "9999-12-31T23:59:59.999Z"),
        ({"title": "x", "due_at": None}, "due_at", None),
    ],
)
def test_what_is_just_allowed_comes_back_as_it_was_sent(admin, body, field, value):
    made = admin("POST", "/tasks", body)
    assert made.status_code == 201, made.text
    assert made.json[field] == value
    assert admin("GET", f"/tasks/{made.json['id']}").json == made.json


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        (f"page={10**30}", "/page"),
        (f"page={'9' * 5000}", "/page"),
        ("page=0", "/page"),
        ("page=-1", "/page"),
        ("page=1.5", "/page"),
        ("page=true", "/page"),
        ("page=", "/page"),
        ("page=NaN", "/page"),
        (f"page={2**63}", "/page"),
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("sort=title", "/sort"),
        ("sort=--priority", "/sort"),
        ("sort=priority;drop", "/sort"),
        ("status=later", "/status"),
        ("priority=0", "/priority"),
        ("priority=true", "/priority"),
        ("assignee_id=me", "/assignee_id"),
        ("tag=", "/tag"),
        ("q=", "/q"),
        ("q=%20", "/q"),
        (f"q={'x' * 201}", "/q"),
        ("due_before=soon", "/due_before"),
        ("due_after=2026-01-31", "/due_after"),
        ("colour=red", "/colour"),
        ("page=1&page=2", "/page"),
    ],
)
def test_a_wrong_argument_is_named(lasting_admin, query, pointer):
    assert_problem(lasting_admin("GET", f"/tasks?{query}"), 422, "invalid", pointer)


@pytest.mark.parametrize("body", [{}, None])
def test_a_change_of_nothing_is_refused(app, admin, body):
    made = admin("POST", "/tasks", {"title": "x"}).json
    assert_problem(admin("PATCH", f"/tasks/{made['id']}", body), 422, "invalid", "")
    assert admin("GET", f"/tasks/{made['id']}").json == made


# ---- camelCase


@pytest.mark.parametrize("name", ["due_at", "dueAt"])
def test_a_field_may_be_written_in_both_ways(admin, name):
    assert admin("POST", "/tasks", {"title": "x", name: "2026-01-31T12:00:00Z"}).json["due_at"].startswith("2026-01-31")
    made = admin("POST", "/tasks", {"title": "x"}).json
    changed = admin("PATCH", f"/tasks/{made['id']}", {name: "2027-01-31T12:00:00Z"})
    assert changed.json["due_at"].startswith("2027-01-31")


def test_a_field_may_not_be_given_in_both_ways_at_once(lasting_admin):
    both = {"title": "x", "due_at": "2026-01-31T12:00:00Z", "dueAt": "2027-01-31T12:00:00Z"}
    assert_problem(lasting_admin("POST", "/tasks", both), 422, "invalid", "/dueAt")


@pytest.mark.parametrize(("name", "pointer"), [("dueAt", "/dueAt"), ("due_at", "/due_at")])
def test_a_wrong_field_is_named_as_it_was_written(lasting_admin, name, pointer):
    assert_problem(lasting_admin("POST", "/tasks", {"title": "x", name: "soon"}), 422, "invalid", pointer)


def test_answers_are_in_snake_case_whatever_was_sent(admin):
    made = admin("POST", "/tasks", {"title": "x", "dueAt": None, "assigneeId": None}).json
    assert all(name == name.lower() for name in made)


# ---- content type and size


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "json", ""]
)
def test_a_body_of_another_kind_is_refused(lasting_admin, kind):
    assert_problem(post(lasting_admin, b'{"title": "x"}', kind), 415, "unsupported_media_type")


def test_a_body_without_a_kind_is_refused(lasting_admin):
    answer = lasting_admin.send("POST", "/tasks", data=b'{"title": "x"}')
    assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", [JSON, "application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"]
)
def test_json_may_have_any_of_its_names(admin, kind):
    assert post(admin, b'{"title": "x"}', kind).status_code == 201


def padded(size):
    body = b'{"title": "x"'
    return body + b" " * (size - len(body) - 1) + b"}"


def test_a_body_of_1_mib_is_read_and_one_more_byte_is_not(app, admin):
    assert post(admin, padded(1 << 20)).status_code == 201
    assert_problem(post(admin, padded((1 << 20) + 1)), 413, "too_large")
    assert rows(app, "SELECT count(*) FROM tasks") == [(1,)]


@pytest.mark.parametrize(("size", "status"), [(1 << 20, 201), ((1 << 20) + 1, 413), (3 << 20, 413)])
def test_a_body_that_does_not_say_its_size_is_counted(admin, size, status):
    """As Gunicorn gives a chunked body: no Content-Length, and an input that ends by itself."""
    chunked = {
        "wsgi.input": io.BytesIO(padded(size)),
        "wsgi.input_terminated": True,
        "HTTP_TRANSFER_ENCODING": "chunked",
    }
    answer = admin.send("POST", "/tasks", content_type=JSON, environ_overrides=chunked)
    assert answer.status_code == status, answer.text
    if status == 413:
        assert_problem(answer, 413, "too_large")


def test_a_body_that_is_too_large_is_not_cut_off_and_taken(app, admin):
    """What stands beyond the first MiB here would make it another body."""
    body = b'{"title": "x"}' + b" " * (1 << 20) + b"and more"
    chunked = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
    assert admin.send("POST", "/tasks", content_type=JSON, environ_overrides=chunked).status_code == 413
    assert rows(app, "SELECT count(*) FROM tasks") == [(0,)]


def test_every_route_with_a_body_refuses_the_same(app, anyone, admin):
    """One intake for all: whatever takes a body takes it strictly."""
    made = admin("POST", "/tasks", {"title": "x"}).json
    tried = 0
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if not (contract and contract.body and rule.rule.startswith("/api/v1")):
            continue
        path = rule.rule.removeprefix("/api/v1").replace("<uuid:task_id>", made["id"])
        if "<" in path:
            continue
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            tried += 1
            assert_problem(post(admin, b"{", path=path, method=method), 400, "malformed")
            assert_problem(post(admin, b"[]", path=path, method=method), 422, "invalid", "")
            assert_problem(post(admin, b"{}", "text/plain", path, method), 415, "unsupported_media_type")
            assert_problem(post(admin, padded((1 << 20) + 1), path=path, method=method), 413, "too_large")
            unknown = post(admin, b'{"nonsuch": 1}', path=path, method=method)
            assert unknown.status_code == 422
            assert "/nonsuch" in [error["pointer"] for error in unknown.json["errors"]]
    assert tried >= 7


# ---- what would take long


def test_a_list_that_is_too_long_is_refused_before_its_items_are_looked_at(admin):
    """Each item is wrong, and none is named: nobody looked at them."""
    for path, name, most in (("/tasks", "tags", 20), ("/auth/api-keys", "scopes", 100)):
        body = {"title": "x"} if name == "tags" else {"name": "x", "password": PASSWORD}
        refused = assert_problem(admin("POST", path, body | {name: [""] * (most + 1)}), 422, "invalid", f"/{name}")
        assert f"At most {most}" in refused["detail"]
        named = admin("POST", path, body | {name: [""] * most}).json["errors"]
        assert {error["pointer"].count("/") for error in named} == {2}


def test_of_many_unknown_fields_only_those_are_looked_at_that_are_named(admin):
    class Counting(Schema):
        title = fields.String()

        @pre_load
        def counted(self, data, **_more):
            seen.append(len(data))
            return data

    seen = []
    with pytest.raises(Invalid) as refusal:
        inputs.load(Counting(), {str(n): 0 for n in range(1000)} | {"title": "x"})
    assert (seen, len(refusal.value.fields)) == ([21], 20)


def test_a_body_of_which_nothing_is_long_is_small(admin):
    large = b'{"name": "' + b"x" * 17_000 + b'"}'
    paths = [("POST", "/auth/api-keys"), ("PATCH", "/users/me"), ("DELETE", "/users/me"), ("POST", "/users")]
    for method, path in [*paths, ("PATCH", f"/users/{admin.id}")]:
        assert_problem(post(admin, large, path=path, method=method), 413, "too_large")


# ---- the parser by itself


def test_only_numbers_that_may_be_too_large_are_looked_at_one_by_one(monkeypatch):
    monkeypatch.setattr(strict_json, "_integer", pytest.fail)
    assert strict_json.parse(b"[1,-999999999999999999]") == [1, -999999999999999999]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"-0", 0),
        (b"1e3", 1000.0),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\xf0\x9f\x98\x80"', "😀"),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
        (b'[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        (b"[" * 31 + b"1" + b"]" * 31, None),
    ],
)
def test_strict_json_is_still_all_of_json(text, value):
    found = strict_json.parse(text)
    assert value is None or found == value


@pytest.mark.parametrize("levels", [32, 33, 500, 5000, 200_000])
def test_depth_is_bounded_before_the_stack_is(levels):
    with pytest.raises(Malformed, match="deeper than 32"):
        strict_json.parse(b"[" * levels + b"1" + b"]" * levels)


def test_what_is_read_is_what_pythons_own_reader_reads():
    for value in ({"a": [1, 2.5, None, True, "ü"], "b": {}}, [], "", 0, [[[]]]):
        assert strict_json.parse(json.dumps(value).encode()) == value
    assert math.isclose(strict_json.parse(b"0.1"), 0.1)


@pytest.mark.parametrize(
    ("name", "camel"), [("refresh_token", "refreshToken"), ("id", "id"), ("a_b_c", "aBC"), ("due_at", "dueAt")]
)
def test_camel_case(name, camel):
    assert inputs.camel_case(name) == camel


def test_chunks_that_are_none_are_the_clients_fault(admin):
    class Chunks(io.RawIOBase):
        def readinto(self, _buffer):
            raise InvalidChunkSize(b"nonsense")

    chunked = {"wsgi.input": Chunks(), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert_problem(admin.send("POST", "/tasks", content_type=JSON, environ_overrides=chunked), 400, "malformed")


def test_a_query_of_a_write_that_takes_none_is_refused(app, admin):
    for path, body in (("/tasks", {"title": "x"}), ("/jobs/retry", {})):
        assert_problem(admin("POST", f"{path}?vendor_type=sync", body), 422, "invalid", "/vendor_type")
    assert rows(app, "SELECT count(*) FROM jobs") == rows(app, "SELECT count(*) FROM tasks") == [(0,)]
