"""The corridor every request walks through on its way to a room, and all that a room may import from it."""

from api.web.fields import Timestamp, WholeNumber
from api.web.guard import PUBLIC, ROLES, SIGNED_IN, access_token, actor, bearer, caller
from api.web.lists import Listing
from api.web.output import unchanged_since
from api.web.resource import Resource

__all__ = [
    "PUBLIC",
    "ROLES",
    "SIGNED_IN",
    "Listing",
    "Resource",
    "Timestamp",
    "WholeNumber",
    "access_token",
    "actor",
    "bearer",
    "caller",
    "unchanged_since",
]
