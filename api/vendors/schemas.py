"""Vendors as the wire sees them."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from api.vendors import keys
from api.vendors.pace import pace
from api.web import Timestamp, WholeNumber, YesOrNo

MODES = ("sync", "async")
SORTS = ("name", "created_at")
EXAMPLE_ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
NAME = Regexp(
    r"^[a-z0-9][a-z0-9-]{0,62}\Z", error="Must be 1 to 63 of a-z, 0-9 and -, and must not begin with a hyphen."
)
LIMITS = "Write '10 per second', 'token-bucket CAPACITY refill N/s' or 'leaky-bucket CAPACITY leak N/s'."
MODE = {"description": "sync: the answer to the call is the result. async: a webhook brings it later."}
LIMIT = {
    "description": "How fast it may be called, over all workers. '10 per second' is one each 100 ms; a bucket lets its "
    "capacity begin at once. null: as fast as jobs come.",
    "example": "10 per second",
}
SECRET = {
    "description": "whsec_ and the base64 of 24 to 64 bytes. Left out or null, a new one is made.",
    "example": None,
}


def is_limit(text: str) -> None:
    """Refuse what is no limit. Raises ValidationError."""
    try:
        pace(text)
    except ValueError:
        raise ValidationError(f"Is no limit. {LIMITS}") from None


def is_key(text: str) -> None:
    """Refuse what is no key of Standard Webhooks. Raises ValidationError."""
    try:
        keys.check(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


class Terms(Schema):
    """How to deal with a vendor: all of it can be changed."""

    url = fields.String(
        required=True, validate=Length(1, 2000), metadata={"example": "https://vendor.example.com/jobs"}
    )
    mode = fields.String(required=True, validate=OneOf(MODES), metadata=MODE | {"example": "sync"})
    limit = fields.String(load_default=None, allow_none=True, validate=[Length(1, 64), is_limit], metadata=LIMIT)
    concurrency = WholeNumber(
        load_default=10, validate=Range(1, 1000), metadata={"description": "Calls at once, over all workers."}
    )
    timeout = WholeNumber(load_default=30, validate=Range(1, 300), metadata={"description": "Seconds for a call."})
    callback_timeout = WholeNumber(
        load_default=3600,
        validate=Range(1, 604_800),
        metadata={"description": "Seconds for the webhook to come after the vendor has taken a job on (async)."},
    )
    attempts = WholeNumber(
        load_default=5, validate=Range(1, 50), metadata={"description": "How often a job is tried at the most."}
    )
    active = YesOrNo(load_default=True, metadata={"description": "false: the vendor is not called, and its jobs wait."})


class VendorIn(Terms):
    """A new vendor."""

    name = fields.String(
        required=True,
        validate=NAME,
        metadata={"example": "acme", "description": "What clients send as vendor_type. Cannot be changed."},
    )
    secret = fields.String(load_default=None, allow_none=True, validate=is_key, metadata=SECRET)


class VendorChange(Terms):
    """Some terms of a vendor, to be changed."""

    @validates_schema
    def something(self, data: dict[str, Any], **_more: Any) -> None:
        """Refuse an empty change. Raises ValidationError."""
        if not data:
            raise ValidationError("Nothing to change: give at least one field.")


class SecretIn(Schema):
    """The next secret."""

    secret = fields.String(load_default=None, allow_none=True, validate=is_key, metadata=SECRET)


class VendorOut(Schema):
    """A vendor."""

    id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID, "description": "What the audit trail says."})
    name = fields.String(metadata={"example": "acme"})
    url = fields.String()
    mode = fields.String(metadata=MODE | {"enum": list(MODES)})
    limit = fields.String(allow_none=True, metadata=LIMIT)
    concurrency = fields.Integer()
    timeout = fields.Integer()
    callback_timeout = fields.Integer()
    attempts = fields.Integer()
    active = fields.Boolean()
    created_at = Timestamp()
    updated_at = Timestamp()
    version = fields.Integer(metadata={"description": "Counts the changes; the ETag says the same."})


class VendorStateOut(VendorOut):
    """A vendor, and how it is at the moment."""

    paused_until = Timestamp(
        allow_none=True,
        metadata={"description": "It failed several times in a row, and is left alone until then; then one job tries."},
    )


class VendorSecretOut(VendorOut):
    """A vendor, and what is said once and never again."""

    secret = fields.String(metadata={"description": "The key that signs, in both directions. Shown this once."})


class VendorQuery(Schema):
    """Which order."""

    sort = fields.String(load_default="name", validate=OneOf([f"{sign}{name}" for name in SORTS for sign in ("", "-")]))
