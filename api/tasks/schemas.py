"""Tasks as the wire sees them."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from api.web import ShortList, Timestamp, WholeNumber

STATUSES = ("todo", "in_progress", "done")
SORTS = ("created_at", "updated_at", "due_at", "priority")
UUID = Regexp(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", error="Is no id: a lower-case UUID.")
EXAMPLE_ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"


def not_blank(text: str) -> None:
    """Refuse a text of nothing but spaces. Raises ValidationError."""
    if not text.strip():
        raise ValidationError("May not be blank.")


class TaskIn(Schema):
    """A whole task, to be added or to replace one."""

    title = fields.String(required=True, validate=[Length(1, 200), not_blank], metadata={"example": "My Task"})
    description = fields.String(load_default="", validate=Length(max=10_000))
    status = fields.String(load_default="todo", validate=OneOf(STATUSES))
    priority = WholeNumber(load_default=3, validate=Range(1, 5), metadata={"description": "1 is the most urgent."})
    tags = ShortList(
        fields.String(validate=[Length(1, 50), not_blank]),
        most=20,
        load_default=list,
        metadata={"example": ["home"], "default": []},
    )
    due_at = Timestamp(load_default=None, allow_none=True)
    assignee_id = fields.String(load_default=None, allow_none=True, validate=UUID, metadata={"format": "uuid"})

    @post_load
    def once_each(self, data: dict[str, Any], **_more: Any) -> dict[str, Any]:
        """Keep each tag once, in the order given."""
        if "tags" in data:
            data["tags"] = list(dict.fromkeys(data["tags"]))
        return data


class TaskChange(TaskIn):
    """Some fields of a task, to be changed."""

    @validates_schema
    def something(self, data: dict[str, Any], **_more: Any) -> None:
        """Refuse an empty change. Raises ValidationError."""
        if not data:
            raise ValidationError("Nothing to change: give at least one field.")


class TaskOut(Schema):
    """A task."""

    id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})
    title = fields.String(metadata={"example": "My Task"})
    description = fields.String()
    status = fields.String(metadata={"enum": list(STATUSES)})
    priority = fields.Integer(metadata={"minimum": 1, "maximum": 5})
    tags = fields.List(fields.String(), metadata={"example": ["home"]})
    due_at = Timestamp(allow_none=True)
    assignee_id = fields.String(allow_none=True, metadata={"format": "uuid"})
    created_by = fields.String(allow_none=True, metadata={"format": "uuid"})
    created_at = Timestamp()
    updated_at = Timestamp()
    version = fields.Integer(metadata={"description": "Counts the changes; the ETag says the same."})


class TaskFilter(Schema):
    """Which tasks, and in which order."""

    status = fields.String(validate=OneOf(STATUSES))
    priority = fields.Integer(validate=Range(1, 5))
    assignee_id = fields.String(validate=UUID, metadata={"format": "uuid"})
    tag = fields.String(validate=Length(1, 50))
    due_before = Timestamp()
    due_after = Timestamp()
    q = fields.String(
        validate=[Length(1, 200), not_blank],
        metadata={"description": "Up to 8 words to find in title and description; each may be the beginning of one."},
    )
    sort = fields.String(
        load_default="-created_at",
        validate=OneOf([f"{sign}{name}" for name in SORTS for sign in ("", "-")]),
        metadata={"description": "`-` puts the greatest first. Tasks without a due date come last."},
    )
