import orjson
import pytest
from flask import Flask, Response
from marshmallow import Schema, fields

from api.errors import Malformed, PreconditionFailed
from api.web import Timestamp, unchanged_since
from api.web.conditional import etag
from api.web.output import shaper


class Thing(Schema):
    """Something with a time."""

    id = fields.String()
    made = Timestamp()
    note = fields.String(allow_none=True)


def test_only_what_the_schema_names_goes_out_in_its_order():
    shaped = shaper(Thing())({"secret": 1, "note": None, "made": 0, "id": "a"})
    assert shaped == {"id": "a", "made": "1970-01-01T00:00:00.000Z", "note": None}
    assert list(shaped) == list(Thing().dump({"id": "a", "made": 0, "note": None}))


def test_a_row_that_lacks_what_was_promised_is_a_bug_and_no_answer():
    with pytest.raises(KeyError):
        shaper(Thing())({"id": "a", "made": 0})


@pytest.mark.parametrize(("sent", "fits"), [
    ('"3"', True), ('W/"3"', True), ("*", True), ('"2", "3"', True), ('"2"', False), ('W/"2"', False), ('"33"', False),
])  # fmt: skip
def test_if_match(sent, fits):
    with Flask(__name__).test_request_context(headers={"If-Match": sent}):
        if fits:
            unchanged_since({"version": 3})
        else:
            with pytest.raises(PreconditionFailed, match="version 3"):
                unchanged_since({"version": 3})


@pytest.mark.parametrize("sent", ["", ",", " , ,"])
def test_an_if_match_without_any_etag_is_refused(sent):
    with (
        Flask(__name__).test_request_context(headers={"If-Match": sent}),
        pytest.raises(Malformed, match="holds no ETag"),
    ):
        unchanged_since({"version": 3})


def test_without_if_match_a_change_is_made():
    with Flask(__name__).test_request_context():
        unchanged_since({"version": 3})


def test_an_etag_is_quoted():
    assert etag(7) == '"7"'
    assert Response(headers={"ETag": etag(7)}).get_etag() == ("7", False)


def test_json_goes_out_compact_in_utf_8(admin):
    made = admin("POST", "/tasks", {"title": "ü 買 😀 </script>"})
    assert made.content_type == "application/json"
    assert "ü 買 😀 </script>".encode() in made.data
    assert made.data == orjson.dumps(made.json)
