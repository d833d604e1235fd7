"""Turns a request into checked Python values: one intake for every body, one for every query string."""

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import lru_cache, wraps
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

from flask import g, request
from gevent import Timeout
from gunicorn.http.errors import ParseException
from marshmallow import Schema, ValidationError, fields

from api.errors import Invalid, Malformed, TimedOut, TooLarge, UnsupportedMediaType
from api.web import strict_json
from api.web.contract import Contract

MAX_FAULTS = 20  # named in one answer
BODY_SECONDS = 30  # for the whole body, or a client could hold a place by sending a byte now and then
UPPER = re.compile(r"_([a-z])")


NOTHING = Schema()


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Read and check what the contract says the request holds."""
    strict = contract.writes and not (contract.query or contract.signed)
    if not (contract.body or contract.query or strict):
        return view

    @wraps(view)
    def checked(**kwargs: Any) -> Any:
        if contract.query:
            kwargs["query"] = g.query = load_query(contract.query, request.environ.get("QUERY_STRING", ""))
        elif strict and request.environ.get("QUERY_STRING"):  # who filters a write and is not heard, writes too much
            load_query(NOTHING, request.environ["QUERY_STRING"])
        if contract.body:
            data = body(contract.max_body)
            kwargs["body"] = data if contract.signed else parsed_body(contract.body, data)
        return view(**kwargs)

    return checked


def load(schema: Schema, data: dict[str, Any], spelling: dict[str, str] | None = None) -> Any:
    """Return what the schema makes of the data. Raises Invalid, naming each wrong field as the client spelt it."""
    try:
        return schema.load(_without_most_unknown(schema, data))
    except ValidationError as error:
        faults = islice(_faults(error.messages, spelling or {}), MAX_FAULTS)
        found = [(pointer, _suggested(schema, pointer, text)) for pointer, text in faults]
    names = ", ".join(sorted({pointer.lstrip("/")[:50] or "the body" for pointer, _ in found}))
    detail = f"{names}: {found[0][1]}" if len(found) == 1 else f"Some values are not right: {names}."
    raise Invalid(detail, fields=found)


def _without_most_unknown(schema: Schema, data: dict[str, Any]) -> dict[str, Any]:
    """Leave out unknown fields that no answer would name: marshmallow takes the longer the more there are."""
    if len(data) <= len(schema.fields) + MAX_FAULTS:
        return data
    few = set(islice((name for name in data if name not in schema.fields), MAX_FAULTS))
    return {name: value for name, value in data.items() if name in schema.fields or name in few}


def parsed_body(schema: Schema, data: bytes) -> Any:
    """Return what the schema makes of the bytes of a body. Raises Malformed, UnsupportedMediaType or Invalid."""
    return load(schema, *snake_cased(schema, _json_object(data)))


def _json_object(data: bytes) -> dict[str, Any]:
    """Return the body, which must be one JSON object. No body counts as {}: the schema says what is missing."""
    if not data:
        return {}
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType("Send JSON, with 'Content-Type: application/json'.")
    value = strict_json.parse(data)
    if not isinstance(value, dict):
        raise Invalid("The body must be a JSON object.", fields=[("", 'Must be an object, as in {"name": "value"}.')])
    return value


def body(most: int) -> bytes:
    """Return the bytes of the body, `most` at the most. What was cut off on its way must not be taken for whole.

    Raises TooLarge, TimedOut, or Malformed for a body that does not end as it said (RFC 9112, 8).
    """
    try:
        with Timeout(BODY_SECONDS, TimedOut(f"The body did not arrive within {BODY_SECONDS} seconds.")):
            data = request.get_data(cache=True)
    except (OSError, ParseException):  # as Gunicorn calls chunks that end too early, or are none
        raise Malformed("The body ended before it was whole.") from None
    if len(data) > most:
        raise TooLarge(f"The body is larger than {most >> 10} KiB.")
    if request.content_length not in (None, len(data)):
        raise Malformed("The body ended before it was whole.")
    return data


def load_query(schema: Schema, raw: str) -> dict[str, Any]:
    """Return what the schema makes of a query string. Raises Invalid, naming each wrong argument."""
    # What people search for may be a person: nothing of it is kept.
    return dict((_loaded_query.__wrapped__ if "q=" in raw else _loaded_query)(schema, raw))


@lru_cache(maxsize=1024)  # the same few lists are asked for again and again
def _loaded_query(schema: Schema, raw: str) -> dict[str, Any]:
    found: dict[str, Any] = load(schema, _arguments(schema, raw))
    return found


def _arguments(schema: Schema, raw: str) -> dict[str, Any]:
    """Return a query string as a dict: a list for a field that takes many, otherwise exactly one value a name."""
    try:
        given = parse_qs(raw, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise Malformed("The query string is not UTF-8, or has more than 100 arguments.") from None
    strict_json.inspect(given)
    many = {name for name, field in schema.fields.items() if isinstance(field, fields.List)}
    if twice := [name for name, values in given.items() if len(values) > 1 and name not in many]:
        raise Invalid(f"{twice[0]} is given twice.", fields=[(f"/{twice[0]}", "Give it once.")])
    return {name: values if name in many else values[0] for name, values in given.items()}


@lru_cache(maxsize=1024)
def camel_case(name: str) -> str:
    """Return refresh_token as refreshToken."""
    return UPPER.sub(lambda match: match[1].upper(), name)


def snake_cased(schema: Schema, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Let a client write refreshToken for refresh_token. Return the body, and how it spelt what it renamed."""
    spelling = {}
    for name in schema.fields:
        camel = camel_case(name)
        if camel == name or camel not in body:
            continue
        if name in body:
            raise Invalid(
                f"{name} is given twice.", fields=[(f"/{camel}", f"Is the same as {name}. Give one of them.")]
            )
        body[name] = body.pop(camel)
        spelling[name] = camel
    return body, spelling


def _suggested(schema: Schema, pointer: str, text: str) -> str:
    """Say what an unknown field may have been meant to be."""
    if text != "Unknown field.":
        return text
    near = get_close_matches(pointer.lstrip("/")[:50], schema.fields, 1)
    return (
        f"Unknown field. Did you mean {near[0]}?" if near else f"Unknown field. Known are {', '.join(schema.fields)}."
    )


def _faults(messages: Any, spelling: dict[str, str], pointer: str = "") -> Iterator[tuple[str, str]]:
    """Flatten marshmallow's messages into pairs of a JSON pointer (RFC 6901) and a sentence."""
    if isinstance(messages, dict):
        for name, inner in messages.items():
            step = (
                "" if name == "_schema" else "/" + spelling.get(name, str(name)).replace("~", "~0").replace("/", "~1")
            )
            yield from _faults(inner, spelling if not pointer else {}, pointer + step)
    else:
        for message in messages if isinstance(messages, list) else [messages]:
            yield pointer, str(message)
