"""Signing up and in, as the wire sees it."""

from typing import Any

from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf

from api.auth.names import mailable, visible
from api.auth.password_rules import RULES
from api.auth.passwords import not_too_long
from api.auth.totp import is_code
from api.web import ROLES, Timestamp, YesOrNo

EXAMPLE_ID = "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"
NEW_PASSWORD = {
    "format": "password",
    "example": "secret123",
    "minLength": 8,
    "description": "At least 8 characters, at most 72 bytes in UTF-8; none of the commonest, and no name of yours.",
}

PASSWORD: dict[str, Any] = {  # the one that is
    "required": True,
    "validate": not_too_long,
    "metadata": {"format": "password", "example": "secret123", "description": "The password of the account."},
}
CODE: dict[str, Any] = {
    "load_default": None,
    "allow_none": True,
    "validate": [Length(1, 64), is_code],
    "metadata": {
        "description": "Of an account with a second factor: the six digits of its app, or a recovery code.",
        "example": None,
    },
}


class RegisterIn(Schema):
    """A new account."""

    username = fields.String(required=True, validate=[Length(1, 64), visible], metadata={"example": "john"})
    email = fields.Email(
        required=True, validate=[Length(max=254), visible, mailable], metadata={"example": "john@example.com"}
    )
    password = fields.String(required=True, validate=RULES, metadata=NEW_PASSWORD)
    role = fields.String(
        load_default="user",
        validate=OneOf(ROLES),
        metadata={
            "description": "`admin` is for the first account only, where REGISTER_ADMIN says so.",
            "example": "user",
        },
    )


class LoginIn(Schema):
    """What a person signs in with."""

    email = fields.String(required=True, validate=Length(1, 254), metadata={"example": "john@example.com"})
    password = fields.String(**PASSWORD)
    cookie = YesOrNo(
        load_default=False,
        metadata={
            "description": "For browsers: give the refresh token in the cookie `walnut_refresh` (HttpOnly, Secure, "
            "SameSite=Strict), which only `POST …/auth/refresh` gets."
        },
    )
    code = fields.String(**CODE)


class Proof(Schema):
    """What only the owner of an account knows, once more."""

    password = fields.String(**PASSWORD)
    code = fields.String(**CODE)


class RefreshIn(Schema):
    """The refresh token, unless it is sent as Bearer, or in the cookie."""

    refresh_token = fields.String(validate=Length(1, 200), metadata={"example": "3fJp0G…"})


class SessionQuery(Schema):
    """In which order."""

    sort = fields.String(
        load_default="-last_seen_at",
        validate=OneOf([f"{sign}{name}" for name in ("last_seen_at", "created_at") for sign in ("", "-")]),
    )


class LogoutQuery(Schema):
    """How far to sign out."""

    all = fields.Boolean(load_default=False, metadata={"description": "End every session of yours, not only this one."})


class OwnSessionOut(Schema):
    """A session, as its owner sees it: where is he signed in?"""

    id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})
    device = fields.String(
        allow_none=True, metadata={"description": "What it says of itself: its `User-Agent`.", "example": "curl/8.5.0"}
    )
    address = fields.String(allow_none=True, metadata={"example": "192.0.2.7"})
    created_at = Timestamp()
    last_seen_at = Timestamp(metadata={"description": "When it last refreshed its tokens, or signed in."})
    expires_at = Timestamp(metadata={"description": "Unless it is used before: each refresh begins anew."})
    current = fields.Boolean(metadata={"description": "Whether this request belongs to it."})


class SessionOut(Schema):
    """A session as the audit trail has it: nothing that opens a door, nor where its owner is."""

    id = fields.String(metadata={"format": "uuid"})
    user_id = fields.String(metadata={"format": "uuid"})
    created_at = Timestamp()
    expires_at = Timestamp()
    ended_at = Timestamp(allow_none=True)


class TokensOut(Schema):
    """What a sign-in gives."""

    access_token = fields.String(metadata={"description": "Send it as `Authorization: Bearer …`."})
    token_type = fields.String(metadata={"enum": ["Bearer"]})
    expires_in = fields.Integer(metadata={"description": "Seconds the access token is good for.", "example": 900})
    refresh_token = fields.String(
        allow_none=True, metadata={"description": "Good once, for the next pair. null: it came in a cookie."}
    )


class UserOut(Schema):
    """An account, as its owner and admins see it."""

    id = fields.String(metadata={"format": "uuid", "example": EXAMPLE_ID})
    username = fields.String(metadata={"example": "john"})
    email = fields.String(metadata={"example": "john@example.com"})
    new_email = fields.String(
        allow_none=True, metadata={"description": "The address to be, once the link of the mail to it was used."}
    )
    email_confirmed_at = Timestamp(allow_none=True)
    totp_enabled_at = Timestamp(
        allow_none=True, metadata={"description": "Since when a sign-in asks for a second factor."}
    )
    role = fields.String(metadata={"enum": ["admin", "user"], "example": "user"})
    active = fields.Boolean()
    created_at = Timestamp()
    updated_at = Timestamp()
    version = fields.Integer(metadata={"description": "Counts the changes; the ETag says the same."})
