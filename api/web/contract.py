"""What a route declares, and the corridor keeps."""

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from marshmallow import Schema

from api.web.versions import DEFAULT, VERSIONS

MAX_BODY = 1 << 20

SECRET = re.compile("token|secret|password|hash|(^|_)key$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What one route declares about itself."""

    allow: str  # the permission it needs, or guard.PUBLIC or guard.SIGNED_IN
    body: Schema | None = None
    max_body: int = MAX_BODY  # bytes
    signed: bool = False  # the view gets the body's bytes, to verify them before it has `parsed_body` read them
    query: Schema | None = None
    returns: Schema | None = None
    many: bool = False  # answers with a part of a list of `returns`
    beside: Schema | None = None  # what stands beside the items of a list: each of its fields is a Nested
    streams: bool = False  # answers with server-sent events, whose data are `returns`
    status: int = 200
    location: str | None = None  # says where the new thing is: below this address, by this field of the answer
    conditional: bool = False  # honours If-Match
    storable: bool = True  # False: no cache may keep the answer, not even to ask whether it is still good
    cookie: str | None = None  # the name of a cookie that it also takes
    limit: str | None = "default"  # the name of its rate limit; None: it has none
    cache: tuple[str, ...] = ()  # the generations that a kept answer depends on; none: it is not kept
    shared: bool = False  # the answer is the same for everyone who may have it, so it is kept once for all
    idempotent: bool = False  # honours Idempotency-Key
    audit: str | None = None  # the action, "task.created": the kind of the subject, and what is done to it
    audited: Schema | None = None  # what an audit entry may say of the subject; without it, `returns`
    prepare: Callable[..., dict[str, Any]] | None = None  # work to be done before the transaction opens
    transaction: bool = True  # False: the view opens its own
    writes: bool = False  # set by Resource from the method
    problems: tuple[int, ...] = ()  # statuses of refusals that the rest of the contract does not imply
    versions: tuple[int, ...] = VERSIONS
    version: int = DEFAULT  # set by Resource: the one of `versions` that this walk is for
    deprecated: datetime | None = None  # since when it should no longer be used
    sunset: datetime | None = None  # when it will be gone
    successor: str | None = None  # the path to use instead; {names} in it are those of the route's own

    def __post_init__(self) -> None:
        if not self.transaction and (self.idempotent or self.audit):
            raise TypeError("idempotent and audit need the corridor's transaction")
        if self.signed and not self.body:
            raise TypeError("what is signed is a body: declare its shape")
        if not self.deprecated and (self.sunset or self.successor):
            raise TypeError("sunset and successor are for what is deprecated")
        if any(moment and moment.tzinfo is None for moment in (self.deprecated, self.sunset)):
            raise TypeError("deprecated and sunset are moments in UTC: datetime(2027, 1, 31, tzinfo=UTC)")
        if self.sunset and self.deprecated and self.sunset < self.deprecated:
            raise TypeError("nothing can be gone before it is deprecated (RFC 9745, 4)")
        if self.audit:
            _refuse_secrets(self.audited or self.returns)

    @property
    def has_etag(self) -> bool:
        """Whether an answer has an ETag to ask again with."""
        return bool(self.returns) and self.storable and not self.writes

    def farewell(self, path: dict[str, Any]) -> list[tuple[str, str]]:
        """Return the headers that say that a route is on its way out. `path` has the values of the route's names."""
        headers = []
        if self.deprecated:
            headers.append(("Deprecation", f"@{int(self.deprecated.timestamp())}"))  # RFC 9745
        if self.sunset:
            headers.append(("Sunset", format_datetime(self.sunset.astimezone(UTC), usegmt=True)))  # RFC 8594
        if self.successor:
            target = self.successor.format_map(path)
            headers.append(("Link", f'<{target}>; rel="successor-version"'))  # RFC 5829
        return headers


def _refuse_secrets(schema: Schema | None) -> None:
    """Refuse to audit what is not known to be harmless."""
    if schema is None:
        raise TypeError("audit needs `audited` or `returns`: the fields that an entry may hold")
    if secret := [name for name in schema.fields if SECRET.search(name)]:
        raise TypeError(f"{type(schema).__name__} has {secret[0]}, which no audit entry may hold: declare `audited`")
