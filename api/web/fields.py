"""Kinds of values on the wire that marshmallow does not have."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from marshmallow import ValidationError, fields
from marshmallow.validate import Length

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=10_000)  # a list holds the same times again and again
def rfc3339(milliseconds: int | None) -> str | None:
    """Return a stored time as 2026-01-31T12:00:00.000Z."""
    if milliseconds is None:
        return None
    return (EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds")[:-6] + "Z"


class Timestamp(fields.Integer):
    """A time: milliseconds since 1970 in the database, RFC 3339 in UTC on the wire."""

    default_error_messages = {
        "invalid": "Write a time with its offset, as in 2026-01-31T12:00:00Z. In an address + is %2B."
    }

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        return rfc3339(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        try:
            moment = datetime.fromisoformat(value)
            milliseconds = round(moment.timestamp() * 1000)
            rfc3339(milliseconds)
        except (TypeError, ValueError, OverflowError, OSError):
            raise self.make_error("invalid") from None
        if moment.tzinfo is None:
            raise self.make_error("invalid")
        return milliseconds


class WholeNumber(fields.Integer):
    """An integer as JSON writes it: neither "3", nor 3.0, nor true."""

    default_error_messages = {"invalid": "Not a whole number."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) is not int:
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class YesOrNo(fields.Boolean):
    """A boolean as JSON writes it: neither "yes", nor 1."""

    default_error_messages = {"invalid": "Must be true or false."}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) is not bool:
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class ShortList(fields.List[Any]):
    """A list of `most` items, and `least`. One that is too long is refused before any of its items is looked at.

    marshmallow's own asks for the length last: half a million items, each wrong, hold a worker up for seconds.
    """

    def __init__(self, inner: fields.Field[Any], *, most: int, least: int | None = None, **more: Any) -> None:
        """Take what List takes, and how long it may be: the documentation says so too."""
        super().__init__(inner, validate=Length(least, most), **more)
        self.most = most

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, list) and len(value) > self.most:
            raise ValidationError(f"Has {len(value)} items. At most {self.most} are allowed: leave some out.")
        return super()._deserialize(value, attr, data, **kwargs)
