"""JSON as RFC 8259 means it and a database can hold it, and nothing else. It has no time to waste on anybody's tricks:
every step is linear in the size of the text.
"""

import json
import math
import re
from collections import Counter
from typing import Any

from api.errors import Malformed

MAX_DEPTH = 32
INTEGERS = range(-(2**63), 2**63)
LONG_NUMBER = re.compile(rb"[0-9]{19}")  # with fewer digits every integer has less than 64 bits


def parse(data: bytes) -> Any:
    """Return the value of JSON text, strictly: UTF-8, no duplicate keys, no NaN, 64-bit integers, bounded depth.

    Raises Malformed for what is no such text. https://seriot.ch/projects/parsing_json.html lists what can go wrong.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer if LONG_NUMBER.search(data) else None,  # C's own is five times as fast
            parse_float=_float,
        )
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except RecursionError:
        raise Malformed(f"The JSON is nested deeper than {MAX_DEPTH} levels.") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    if b"\\u" in data or data.count(b"[") + data.count(b"{") >= MAX_DEPTH:  # otherwise there is nothing to be found
        inspect(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise Malformed(f"The JSON has the key {json.dumps(twice[:50])} twice in one object.")
    return found


def _constant(name: str) -> None:
    raise Malformed(f"The JSON has {name}, which is no JSON number.")


def _integer(digits: str) -> int:
    if len(digits) > 20 or (number := int(digits)) not in INTEGERS:
        raise Malformed(f"The JSON has an integer of more than 64 bits: {digits[:20]}.")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Malformed(f"The JSON has a number that is too large: {digits[:20]}.")
    return number


def inspect(value: Any) -> None:
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
