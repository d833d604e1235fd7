"""The corridor every request walks through on its way to a room, and all that a room may import from it."""

from api.web.access_tokens import access_token, bearer, presented
from api.web.api_keys import PREFIX as API_KEY_PREFIX
from api.web.api_keys import api_key_hash
from api.web.audit import for_audit, record
from api.web.cache import clear_cache
from api.web.conditional import unchanged_since
from api.web.fields import ShortList, Timestamp, WholeNumber, YesOrNo, rfc3339
from api.web.guard import IN_PERSON, PUBLIC, ROLES, SCOPES, SIGNED_IN, actor, caller, may, rights_of
from api.web.idempotency import sweep as sweep_idempotency_keys
from api.web.inputs import parsed_body
from api.web.limits import address, forgive, ip, slow_down
from api.web.lists import Listing
from api.web.resource import Resource
from api.web.versions import asked_path

__all__ = [
    "API_KEY_PREFIX",
    "IN_PERSON",
    "PUBLIC",
    "ROLES",
    "SCOPES",
    "SIGNED_IN",
    "Listing",
    "Resource",
    "ShortList",
    "Timestamp",
    "WholeNumber",
    "YesOrNo",
    "access_token",
    "actor",
    "address",
    "api_key_hash",
    "asked_path",
    "bearer",
    "caller",
    "clear_cache",
    "for_audit",
    "forgive",
    "ip",
    "may",
    "parsed_body",
    "presented",
    "record",
    "rfc3339",
    "rights_of",
    "slow_down",
    "sweep_idempotency_keys",
    "unchanged_since",
]
