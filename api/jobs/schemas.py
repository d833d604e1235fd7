"""Jobs as the wire sees them."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf, Range

from api.jobs.outcomes import STATUSES
from api.web import Timestamp, WholeNumber

EXAMPLE_ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
PAYLOAD = {"productId": "PROD-ABC-123", "action": "fetch_details"}
RESULT = {"status": "success", "vendor": "syncVendor", "data": "Processed sync data for PROD-ABC-123"}
STATUS = {
    "enum": list(STATUSES),
    "description": "pending: it waits for its turn. processing: the vendor was called, or is about to be, or has taken "
    "it on and will say by webhook how it ended. The others are how it ended.",
}


class JobIn(Schema):
    """A job for a vendor."""

    vendor_type = fields.String(required=True, validate=Length(1, 63), metadata={"example": "sync"})
    vendor_payload = fields.Raw(
        required=True, allow_none=True, metadata={"example": PAYLOAD, "description": "Any JSON: the vendor gets it."}
    )
    priority = WholeNumber(load_default=3, validate=Range(1, 5), metadata={"description": "1 is the most urgent."})
    run_at = Timestamp(load_default=None, allow_none=True, metadata={"description": "Not before this time."})
    deduplication_key = fields.String(
        load_default=None,
        allow_none=True,
        validate=Length(1, 100),
        metadata={"description": "While a job of yours for this vendor with the same key has not ended, that is it."},
    )


class JobQuery(Schema):
    """Which jobs, and in which order."""

    status = fields.String(validate=OneOf(STATUSES))
    vendor_type = fields.String(validate=Length(1, 63))
    sort = fields.String(load_default="-created_at", validate=OneOf(["created_at", "-created_at"]))


class RetryIn(Schema):
    """Which failed jobs to try again."""

    vendor_type = fields.String(
        load_default=None,
        allow_none=True,
        validate=Length(1, 63),
        metadata={"example": "sync", "description": "Those of one vendor; left out, those of all."},
    )


class AcceptedOut(Schema):
    """A job that was taken in."""

    request_id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})


class EventOut(Schema):
    """What happened to a job, and when."""

    at = Timestamp()
    event = fields.String(metadata={"example": "claimed"})
    detail = fields.String(allow_none=True)


class SummaryOut(Schema):
    """A job in a list."""

    request_id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})
    kind = fields.String(
        metadata={"example": "vendor", "description": "Admins see other kinds too: mail, maintenance."}
    )
    vendor_type = fields.String(allow_none=True, metadata={"example": "sync"})
    owner_id = fields.String(allow_none=True, metadata={"format": "uuid"})
    status = fields.String(metadata=STATUS)
    error = fields.String(allow_none=True, metadata={"description": "Why it failed, or why it was tried again."})
    priority = fields.Integer(metadata={"minimum": 1, "maximum": 5})
    attempts = fields.Integer(metadata={"description": "How often a worker has begun with it."})
    run_at = Timestamp(metadata={"description": "Not begun before; while a webhook is waited for, until when."})
    created_at = Timestamp()
    updated_at = Timestamp()
    finished_at = Timestamp(allow_none=True)
    version = fields.Integer(metadata={"description": "Counts the changes; the ETag says the same."})


class JobOut(SummaryOut):
    """A job."""

    vendor_payload = fields.Raw(allow_none=True, metadata={"example": PAYLOAD})
    max_attempts = fields.Integer(metadata={"description": "After so many it fails. A retry adds to it."})
    result = fields.Raw(allow_none=True, metadata={"example": RESULT, "description": "What the vendor answered."})
    timeline = fields.List(fields.Nested(EventOut))


class CountsOut(Schema):
    """How many jobs there are of each status."""

    pending = fields.Integer()
    processing = fields.Integer()
    complete = fields.Integer()
    failed = fields.Integer()
    cancelled = fields.Integer()


class CountedOut(Schema):
    """What stands beside a list of jobs."""

    counts = fields.Nested(
        CountsOut, metadata={"description": "Of all your jobs (an admin: of all), whatever `status` was asked for."}
    )


class AuditedOut(Schema):
    """What the audit trail says of a job: neither what was sent, nor what came back."""

    vendor_type = fields.String(allow_none=True)
    status = fields.String()
    attempts = fields.Integer()


class WebhookIn(Schema):
    """How a job ended, as its vendor tells it.

    Our own calls to a vendor, which the same key signs, hold other fields: none of them can be sent back as a webhook.
    """

    request_id = fields.String(required=True, validate=Length(1, 64), metadata={"example": EXAMPLE_ID})
    status = fields.String(required=True, validate=OneOf(("complete", "failed")), metadata={"example": "complete"})
    result = fields.Raw(
        load_default=None, allow_none=True, metadata={"example": RESULT, "description": "Any JSON, if it is complete."}
    )
    error = fields.String(
        load_default=None,
        allow_none=True,
        validate=Length(1, 10_000),
        metadata={"description": "Why, if it failed."},
    )

    @validates_schema
    def consistent(self, data: dict[str, Any], **_more: Any) -> None:
        """Refuse what would be lost. Raises ValidationError."""
        if data["status"] == "complete" and data["error"] is not None:
            raise ValidationError("Is for status failed.", "error")
        if data["status"] == "failed" and data["result"] is not None:
            raise ValidationError("Is for status complete.", "result")


class WebhookOut(Schema):
    """What became of a webhook."""

    request_id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})
    outcome = fields.String(
        metadata={
            "enum": ["completed", "failed", "ignored", "duplicate"],
            "description": "ignored: the job had ended before. duplicate: this webhook-id was taken in before. Either "
            "way there is no need to send it again.",
        }
    )
    reason = fields.String(allow_none=True, metadata={"description": "Why it was ignored."})
