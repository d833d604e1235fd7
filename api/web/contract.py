"""What a route declares, and the corridor keeps."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from marshmallow import Schema

from api.web.versions import VERSIONS

SECRET = re.compile("token|secret|password|hash|(^|_)key$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What one route declares about itself."""

    allow: str  # the permission it needs, or guard.PUBLIC or guard.SIGNED_IN
    body: Schema | None = None
    query: Schema | None = None
    returns: Schema | None = None
    many: bool = False  # answers with a Page of `returns`
    status: int = 200
    location: bool = False  # says where the new thing is
    conditional: bool = False  # honours If-Match
    limit: str = "default"  # the name of its rate limit
    cache: tuple[str, ...] = ()  # the generations that a kept answer depends on
    idempotent: bool = False  # honours Idempotency-Key
    audit: str | None = None  # the action, "task.created": the kind of the subject, and what is done to it
    audited: Schema | None = None  # what an audit entry may say of the subject; without it, `returns`
    prepare: Callable[..., dict[str, Any]] | None = None  # work to be done before the transaction opens
    transaction: bool = True  # False: the view opens its own
    writes: bool = False  # set by Resource from the method
    problems: tuple[int, ...] = ()  # statuses of refusals that the rest of the contract does not imply
    versions: tuple[int, ...] = VERSIONS

    def __post_init__(self) -> None:
        if not self.transaction and (self.idempotent or self.audit):
            raise TypeError("idempotent and audit need the corridor's transaction")
        if self.audit:
            _refuse_secrets(self.audited or self.returns)


def _refuse_secrets(schema: Schema | None) -> None:
    """Refuse to audit what is not known to be harmless."""
    if schema is None:
        raise TypeError("audit needs `audited` or `returns`: the fields that an entry may hold")
    if secret := [name for name in schema.fields if SECRET.search(name)]:
        raise TypeError(f"{type(schema).__name__} has {secret[0]}, which no audit entry may hold: declare `audited`")
