"""The audit trail as the wire sees it."""

from marshmallow import Schema, fields
from marshmallow.validate import Length, Range, Regexp

from api.web import Timestamp

EXAMPLE_ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
STATE = {"description": "Its fields, as an answer shows them. `null` where there was nothing, or it was forgotten."}


class ChangeOut(Schema):
    """One change of a thing."""

    at = Timestamp()
    action = fields.String(metadata={"example": "task.changed"})
    actor_id = fields.String(allow_none=True, metadata={"format": "uuid", "description": "Who did it."})
    before = fields.Dict(allow_none=True, metadata=STATE)
    after = fields.Dict(allow_none=True, metadata=STATE)


class EntryOut(ChangeOut):
    """One entry of the audit trail."""

    seq = fields.Integer(metadata={"description": "Counts the entries from 1, without gaps.", "example": 1})
    subject_kind = fields.String(metadata={"example": "task"})
    subject_id = fields.String(metadata={"example": EXAMPLE_ID})
    address = fields.String(allow_none=True, metadata={"example": "192.0.2.7"})
    request_id = fields.String(metadata={"description": "As the answer and the log had it."})
    hash = fields.String(metadata={"description": "SHA-256, in hex, over the hash before it and the entry."})


class HistoryOut(Schema):
    """Changes of a thing, the newest first."""

    items = fields.List(fields.Nested(ChangeOut))
    next_cursor = fields.String(allow_none=True, metadata={"description": "Give it as `cursor` for what is older."})


class TrailOut(Schema):
    """Entries, the newest first."""

    items = fields.List(fields.Nested(EntryOut))
    next_cursor = fields.String(allow_none=True, metadata={"description": "Give it as `cursor` for what is older."})


class HistoryQuery(Schema):
    """Which part of a history."""

    cursor = fields.String(
        validate=Regexp(r"^[0-9]{1,18}$", error="Is no cursor: take it from next_cursor."),
        metadata={"description": "The `next_cursor` of the answer before."},
    )
    limit = fields.Integer(load_default=20, validate=Range(1, 100))


class TrailQuery(HistoryQuery):
    """Which entries."""

    actor_id = fields.String(validate=Regexp(UUID, error="Write the id of an account: a lower-case UUID."))
    action = fields.String(
        validate=[Length(1, 64), Regexp(r"^[a-z_]+\.[a-z_]+$", error="Write a kind and a deed, as in task.created.")],
        metadata={"example": "task.created"},
    )
    subject = fields.String(
        validate=Regexp(r"^([a-z_]+:)?[^:]{1,64}$", error="Write an id, or a kind and an id, as in task:ID."),
        metadata={"description": "An id, or a kind and an id, as in `task:ID`."},
    )
    since = Timestamp(metadata={"description": "At this time or later."})
    until = Timestamp(metadata={"description": "Before this time."})


class VerifyQuery(Schema):
    """Where to go on with a check."""

    after = fields.Integer(
        load_default=0,
        validate=Range(0, 2**62),
        metadata={
            "description": "The entry that the check before has come to: what is up to it is not looked at again."
        },
    )


class TamperedOut(Schema):
    """The first thing that is not as it was written."""

    seq = fields.Integer(metadata={"description": "Its entry, or where an entry is missing."})
    reason = fields.String(metadata={"example": "It was changed."})


class VerdictOut(Schema):
    """Whether the trail is as it was written."""

    intact = fields.Boolean()
    complete = fields.Boolean(metadata={"description": "false: it takes longer. Go on with `after` = `checked_to`."})
    checked_to = fields.Integer(metadata={"description": "The number of the last entry that is in order."})
    head = fields.String(metadata={"description": "The hash of that entry. Note both, to compare with later checks."})
    tampered = fields.Nested(TamperedOut, allow_none=True)
