"""Accounts as the wire sees them, for who looks after them and for their owners."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf

from api.audit.schemas import EntryOut
from api.auth.schemas import CODE, PASSWORD, RegisterIn
from api.jobs.schemas import JobOut
from api.tasks.schemas import TaskOut
from api.web import ROLES, Timestamp, YesOrNo

ROLE = {"enum": list(ROLES), "example": "user"}
NOTHING = "Nothing to change: give at least one field."


class UserFilter(Schema):
    """Which accounts, and in which order."""

    q = fields.String(
        validate=Length(1, 254),
        metadata={"description": "Text to find anywhere in a username or an address, in capitals or not."},
    )
    role = fields.String(validate=OneOf(ROLES))
    active = fields.Boolean()
    sort = fields.String(
        load_default="-created_at",
        validate=OneOf([f"{sign}{name}" for name in ("created_at", "username") for sign in ("", "-")]),
        metadata={"description": "`-` puts the greatest first."},
    )


class UserIn(RegisterIn):
    """An account that an admin makes. Without a password its owner gets a link by mail to choose one."""

    role = fields.String(load_default="user", validate=OneOf(ROLES), metadata=ROLE)


class UserChange(UserIn):
    """What an admin may change of an account. A new address must be confirmed, by the link of the mail to it."""

    class Meta:
        """Whoever looks after an account does not know its password."""

        exclude = ("password",)

    active = YesOrNo(metadata={"description": "`false` ends all sessions, and lets nobody sign in.", "example": True})

    @validates_schema
    def something(self, data: dict[str, Any], **_more: Any) -> None:
        """Refuse an empty change. Raises ValidationError."""
        if not data:
            raise ValidationError(NOTHING)


class OwnChange(RegisterIn):
    """What one may change of one's own account. A new address counts once the link of the mail to it was used."""

    class Meta:
        """The one is changed elsewhere, the other by others."""

        exclude = ("password", "role")

    current_password = fields.String(**PASSWORD | {"required": False})
    code = fields.String(**CODE)

    @validates_schema
    def something(self, data: dict[str, Any], **_more: Any) -> None:
        """Refuse an empty change, and a new address of who does not say the password. Raises ValidationError."""
        if not data.keys() & {"username", "email"}:
            raise ValidationError(NOTHING)
        if "email" in data and "current_password" not in data:
            raise ValidationError("Needed for a new address.", "current_password")


class SessionExport(Schema):
    """A session, as its owner may have it."""

    id = fields.String(metadata={"format": "uuid"})
    device = fields.String(allow_none=True)
    address = fields.String(allow_none=True)
    created_at = Timestamp()
    last_seen_at = Timestamp()
    expires_at = Timestamp()
    ended_at = Timestamp(allow_none=True)


class KeyExport(Schema):
    """An API key, without what opens a door."""

    id = fields.String(metadata={"format": "uuid"})
    name = fields.String()
    hint = fields.String()
    scopes = fields.List(fields.String())
    created_at = Timestamp()
    expires_at = Timestamp(allow_none=True)
    last_used_at = Timestamp(allow_none=True)


class JobExport(JobOut):
    """A job, with the key that its owner gave it. What a mail says is in the mail."""

    deduplication_key = fields.String(allow_none=True)


class ExportOut(Schema):
    """All that is kept about a person. The lists are as they were while they were written, one after the other."""

    exported_at = Timestamp()
    account = fields.Dict(metadata={"description": "As GET /users/me shows it."})
    sessions = fields.List(fields.Nested(SessionExport))
    api_keys = fields.List(fields.Nested(KeyExport))
    tasks_created = fields.List(fields.Nested(TaskOut))
    tasks_assigned = fields.List(
        fields.Nested(TaskOut), metadata={"description": "By others: what is one's own is in `tasks_created`."}
    )
    jobs = fields.List(fields.Nested(JobExport), metadata={"description": "Mails are jobs too."})
    deeds = fields.List(fields.Nested(EntryOut), metadata={"description": "The audit trail of what one did."})
    changes = fields.List(
        fields.Nested(EntryOut), metadata={"description": "What others changed about the account; not from where."}
    )
