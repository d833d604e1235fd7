"""Accounts as the wire sees them."""

from marshmallow import Schema, fields

from api.web import Timestamp

EXAMPLE_ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"


class UserOut(Schema):
    """An account, as its owner and admins see it."""

    id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})
    username = fields.String(metadata={"example": "john"})
    email = fields.String(metadata={"example": "john@example.com"})
    role = fields.String(metadata={"enum": ["admin", "user"], "example": "user"})
    active = fields.Boolean()
    created_at = Timestamp()
    updated_at = Timestamp()
    version = fields.Integer(metadata={"description": "Counts the changes; the ETag says the same."})
