"""What a route declares, and the corridor keeps."""

import dataclasses
from collections.abc import Callable
from typing import Any

from marshmallow import Schema

from api.web.versions import VERSIONS

MAX_BODY = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What one route declares about itself."""

    allow: str  # the permission it needs, or guard.PUBLIC or guard.SIGNED_IN
    body: Schema | None = None
    max_body: int = MAX_BODY  # bytes
    query: Schema | None = None
    returns: Schema | None = None
    many: bool = False  # answers with a Page of `returns`
    status: int = 200
    location: bool = False  # says where the new thing is
    conditional: bool = False  # honours If-Match
    limit: str | None = "default"  # the name of its rate limit; None: it has none
    cache: tuple[str, ...] = ()  # the generations that a kept answer depends on; none: it is not kept
    shared: bool = False  # the answer is the same for everyone who may have it, so it is kept once for all
    idempotent: bool = False  # honours Idempotency-Key
    audit: str | None = None  # the action, "task.created"
    prepare: Callable[..., dict[str, Any]] | None = None  # work to be done before the transaction opens
    transaction: bool = True  # False: the view opens its own
    writes: bool = False  # set by Resource from the method
    problems: tuple[int, ...] = ()  # statuses of refusals that the rest of the contract does not imply
    versions: tuple[int, ...] = VERSIONS

    def __post_init__(self) -> None:
        if not self.transaction and (self.idempotent or self.audit):
            raise TypeError("idempotent and audit need the corridor's transaction")
