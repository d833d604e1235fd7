"""The second factor as the wire sees it."""

from marshmallow import Schema, fields
from marshmallow.validate import Length

from api.auth.schemas import PASSWORD
from api.auth.totp import is_code, is_six_digits
from api.web import Timestamp


class TotpIn(Schema):
    """Who begins to set it up."""

    password = fields.String(**PASSWORD)


class TotpCodeIn(Schema):
    """What the app shows now."""

    code = fields.String(
        required=True,
        validate=[Length(1, 64), is_six_digits],
        metadata={"example": "123456", "description": "The six digits that your app shows."},
    )


class TotpRemovalIn(Schema):
    """Who switches it off."""

    password = fields.String(**PASSWORD)
    code = fields.String(
        required=True,
        validate=[Length(1, 64), is_code],
        metadata={"example": "123456", "description": "The six digits that your app shows, or a recovery code."},
    )


class TotpOut(Schema):
    """What an authenticator app has to be told. Shown this once."""

    secret = fields.String(metadata={"description": "To be typed into the app.", "example": "JBSWY3DPEHPK3PXPJBSWY3DP"})
    uri = fields.String(metadata={"description": "To be opened by the app: otpauth://totp/…"})
    qr = fields.String(metadata={"description": "To be scanned by the app: an SVG, as a data: URI."})


class RecoveryCodesOut(Schema):
    """What to sign in with when the device is lost: each code once. Shown this once."""

    recovery_codes = fields.List(fields.String(metadata={"example": "ABCD-EFGH-IJKL-MNOP"}))


class FactorOut(Schema):
    """Whether an account has a second factor: all that an audit entry says of it."""

    totp_enabled_at = Timestamp(allow_none=True)
