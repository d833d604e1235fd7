"""What an authenticator app makes of a secret and the time: six digits, others every 30 seconds (TOTP, RFC 6238).

SHA-1, 6 digits, 30 seconds and 160 bits: the apps people have know nothing else for sure (RFC 4226, 4: R6). A code of
the step before or after is taken too, for clocks that are a little off (RFC 6238, 5.2).
"""

import base64
import re
import secrets

import segno
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

ISSUER = "Walnut"
DIGITS, SECONDS, WINDOW = 6, 30, 1  # the window in steps, either way
SECRET_BYTES = 20
LABEL = 64  # characters of an address: what the app shows, and what makes the QR code large
SIX_DIGITS = re.compile(r"[0-9]{6}")


def new_secret() -> bytes:
    """Return a new secret."""
    return secrets.token_bytes(SECRET_BYTES)


def described(secret: bytes, email: str) -> dict[str, str]:
    """Return a secret as people and apps take it in: `secret` to type, `uri` to open, `qr` to scan (an SVG).

    Takes 20 ms: not for a transaction. https://github.com/google/google-authenticator/wiki/Key-Uri-Format
    """
    uri = _totp(secret).get_provisioning_uri(email[:LABEL], ISSUER)
    # Dark on white, whatever the page's colours are: many apps read nothing else.
    image = segno.make(uri, error="l", micro=False).svg_data_uri(scale=4, dark="#000", light="#fff")
    return {"secret": base64.b32encode(secret).decode(), "uri": uri, "qr": image}


def newest_step(secret: bytes, code: str, now: int) -> int | None:
    """Return the step that a code is of, if that is in the window round a time (milliseconds). None: it is of none.

    The newest, should two steps have the same code: once that is used, the code is of no more use.
    """
    current = now // 1000 // SECONDS
    given = (digits(code) or "").encode()
    steps = range(max(0, current - WINDOW), current + WINDOW + 1)
    right = [step for step in steps if bytes_eq(_totp(secret).generate(step * SECONDS), given)]
    return max(right, default=None)


def digits(code: str) -> str | None:
    """Return the six digits of a code as it was typed ("123 456"), or None if it is something else."""
    plain = code.replace(" ", "")
    return plain if SIX_DIGITS.fullmatch(plain) else None


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, DIGITS, SHA1(), SECONDS)  # noqa: S303 (HMAC-SHA-1 is not broken: RFC 6194)
