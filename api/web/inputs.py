"""Turns a request into checked Python values: one intake for every body, one for every query string."""

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from typing import Any
from urllib.parse import parse_qs

from flask import request
from gevent import Timeout
from gunicorn.http.errors import ParseException
from marshmallow import Schema, ValidationError, fields

from api.errors import Invalid, Malformed, TimedOut, TooLarge, UnsupportedMediaType
from api.web.contract import Contract

MAX_BODY = 1 << 20  # bytes
BODY_SECONDS = 30  # for the whole body, or a client could hold a place by sending a byte now and then
MAX_DEPTH = 32
INTEGERS = range(-(2**63), 2**63)
UPPER = re.compile(r"_([a-z])")


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Read and check what the contract says the request holds."""
    if not (contract.body or contract.query):
        return view

    @wraps(view)
    def checked(**kwargs: Any) -> Any:
        if contract.query:
            kwargs["query"] = load_query(contract.query, request.environ.get("QUERY_STRING", ""))
        if contract.body:
            kwargs["body"] = load(contract.body, *snake_cased(contract.body, json_object()))
        return view(**kwargs)

    return checked


def load(schema: Schema, data: dict[str, Any], spelling: dict[str, str] | None = None) -> Any:
    """Return what the schema makes of the data. Raises Invalid, naming each wrong field as the client spelt it."""
    try:
        return schema.load(data)
    except ValidationError as error:
        found = list(_faults(error.messages, spelling or {}))
    names = ", ".join(sorted({pointer.lstrip("/") or "the body" for pointer, _ in found}))
    raise Invalid(f"Some values are not right: {names}.", fields=found)


def json_object() -> dict[str, Any]:
    """Return the body, which must be one JSON object. No body counts as {}: the schema says what is missing."""
    data = body()
    if not data:
        return {}
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType("Send JSON, with 'Content-Type: application/json'.")
    value = parse(data)
    if not isinstance(value, dict):
        raise Invalid("The body must be a JSON object.", fields=[("", 'Must be an object, as in {"name": "value"}.')])
    return value


def body() -> bytes:
    """Return the bytes of the body, all of them: what was cut off on its way must not be taken for whole.

    Raises TooLarge, TimedOut, or Malformed for a body that does not end as it said (RFC 9112, 8).
    """
    try:
        with Timeout(BODY_SECONDS, TimedOut(f"The body did not arrive within {BODY_SECONDS} seconds.")):
            data = request.get_data(cache=True)
    except (OSError, ParseException):  # as Gunicorn calls chunks that end too early, or are none
        raise Malformed("The body ended before it was whole.") from None
    if len(data) > MAX_BODY:
        raise TooLarge("The request is larger than 1 MiB.")
    if request.content_length not in (None, len(data)):
        raise Malformed("The body ended before it was whole.")
    return data


def parse(data: bytes) -> Any:
    """Return the value of JSON text, strictly: UTF-8, no duplicate keys, no NaN, 64-bit integers, bounded depth.

    Raises Malformed for what is no such text. https://seriot.ch/projects/parsing_json.html lists what can go wrong.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer
        )
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except RecursionError:
        raise Malformed(f"The JSON is nested deeper than {MAX_DEPTH} levels.") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    _inspect(value)
    return value


def load_query(schema: Schema, raw: str) -> dict[str, Any]:
    """Return what the schema makes of a query string. Raises Invalid, naming each wrong argument."""
    return dict(_loaded_query(schema, raw))


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
    _inspect(given)
    many = {name for name, field in schema.fields.items() if isinstance(field, fields.List)}
    if twice := [name for name, values in given.items() if len(values) > 1 and name not in many]:
        raise Invalid(f"{twice[0]} is given twice.", fields=[(f"/{twice[0]}", "Give it once.")])
    return {name: values if name in many else values[0] for name, values in given.items()}


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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"The JSON has the key {json.dumps(twice)} twice in one object.")
    return found


def _constant(name: str) -> None:
    raise Malformed(f"The JSON has {name}, which is no JSON number.")


def _integer(digits: str) -> int:
    if len(digits) > 20 or (number := int(digits)) not in INTEGERS:
        raise Malformed(f"The JSON has an integer of more than 64 bits: {digits[:20]}.")
    return number


def _inspect(value: Any) -> None:
    """Refuse what no database column can hold: lone surrogates, NUL, infinity; and depth."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _inspect_text(item)
            elif isinstance(item, dict):
                following += item.keys()
                following += item.values()
            elif isinstance(item, list):
                following += item
            elif item in (float("inf"), float("-inf")):
                raise Malformed("The JSON has a number that is too large.")
        if not following:
            return
        level = following
    raise Malformed(f"The JSON is nested deeper than {MAX_DEPTH} levels.")


def _inspect_text(text: str) -> None:
    if "\x00" in text:
        raise Malformed("The text holds a NUL character.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed("The text holds half of a surrogate pair, which is no character.") from None


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
