"""The corridor every request walks through on its way to a room, and all that a room may import from it."""

from api.web.audit import for_audit, record
from api.web.fields import Timestamp, WholeNumber
from api.web.guard import PUBLIC, ROLES, SIGNED_IN, access_token, actor, bearer, caller
from api.web.idempotency import sweep as sweep_idempotency_keys
from api.web.output import Page, unchanged_since
from api.web.resource import Resource

__all__ = [
    "PUBLIC",
    "ROLES",
    "SIGNED_IN",
    "Page",
    "Resource",
    "Timestamp",
    "WholeNumber",
    "access_token",
    "actor",
    "bearer",
    "caller",
    "for_audit",
    "record",
    "sweep_idempotency_keys",
    "unchanged_since",
]
