"""Addresses and passwords, as the wire sees them."""

from marshmallow import Schema, fields
from marshmallow.validate import Length

from api.auth.names import mailable
from api.auth.password_rules import RULES
from api.auth.schemas import CODE, NEW_PASSWORD, PASSWORD


class AddressIn(Schema):
    """Whom to write to."""

    email = fields.Email(required=True, validate=[Length(max=254), mailable], metadata={"example": "john@example.com"})


class MessageOut(Schema):
    """What happens next, in words."""

    message = fields.String()


class NewPasswordIn(Schema):
    """The password to be."""

    password = fields.String(required=True, validate=RULES, metadata=NEW_PASSWORD)


class ChangeIn(Schema):
    """The password that is, and the one to be."""

    current_password = fields.String(**PASSWORD)
    new_password = fields.String(required=True, validate=RULES, metadata=NEW_PASSWORD | {"example": "correct horse"})
    code = fields.String(**CODE)
