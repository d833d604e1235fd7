"""API keys as the wire sees them."""

import unicodedata

from marshmallow import Schema, ValidationError, fields
from marshmallow.validate import Length, OneOf

from api import db
from api.auth.names import INVISIBLE
from api.auth.schemas import Proof
from api.web import SCOPES, Timestamp

EXAMPLE_ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
SCOPES_ARE = "What it may do: of that, only what the role of its owner allows at the moment it is used."


def legible(name: str) -> None:
    """Refuse a name in which not all can be seen. Raises ValidationError."""
    strange = any(unicodedata.category(character)[0] in "CZ" and character != " " for character in name)
    if strange or INVISIBLE.search(name) or not name.strip():
        raise ValidationError("Must be text that can be seen: no line ends, no control or invisible characters.")


def in_the_future(moment: int) -> None:
    """Refuse a time that has passed. Raises ValidationError."""
    if moment <= db.now():
        raise ValidationError("Has passed already. Give a time in the future, or leave it out.")


class ApiKeyIn(Proof):
    """A new key."""

    name = fields.String(
        required=True,
        validate=[Length(1, 100), legible],
        metadata={"example": "nightly report", "description": "What it is for, to know it again."},
    )
    scopes = fields.List(
        fields.String(validate=OneOf(SCOPES), metadata={"enum": list(SCOPES)}),
        required=True,
        validate=Length(1, 100),
        metadata={"example": ["tasks:read"], "description": SCOPES_ARE},
    )
    expires_at = Timestamp(
        load_default=None,
        allow_none=True,
        validate=in_the_future,
        metadata={"description": "Good until then; left out or null: until it is removed."},
    )


class ApiKeyOut(Schema):
    """A key, without what opens the door."""

    id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})
    name = fields.String(metadata={"example": "nightly report"})
    hint = fields.String(metadata={"example": "walnut_Qm5x2", "description": "How the key begins."})
    scopes = fields.List(fields.String(), metadata={"description": SCOPES_ARE})
    created_at = Timestamp()
    expires_at = Timestamp(allow_none=True)
    last_used_at = Timestamp(allow_none=True, metadata={"description": "To the minute."})


class NewApiKeyOut(ApiKeyOut):
    """A key, and what is said once and never again."""

    key = fields.String(metadata={"description": "Send it as `Authorization: Bearer …`. Shown this once."})


class AuditedOut(Schema):
    """What the audit trail says of a key: nothing that it opens doors with, and no name, which may be a person's."""

    id = fields.String()
    user_id = fields.String()
    scopes = fields.List(fields.String())
    created_at = Timestamp()
    expires_at = Timestamp(allow_none=True)


class ApiKeyQuery(Schema):
    """Which order."""

    sort = fields.String(load_default="-created_at", validate=OneOf(["created_at", "-created_at"]))
