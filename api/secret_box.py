"""Secrets that must be read again (vendors', second factors'): encrypted at rest, under a key outside the database.

Whoever gets hold of the database, a backup of it or its disk cannot read them. Fernet (AES-128-CBC and HMAC-SHA256,
https://github.com/fernet/spec) refuses what was changed; MultiFernet knows several keys, so that one can be replaced.
docs/decisions/0017-secrets-at-rest.md says why, docs/operations.md how to change a key.
"""

import base64
import logging

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flask import Flask, current_app

from api.errors import Unavailable
from api.settings import Settings

FROM_ENCRYPTION_KEY = b"walnut: secrets at rest, from ENCRYPTION_KEY"
FROM_JWT_SECRET = b"walnut: secrets at rest, from JWT_SECRET"
RETRY_SECONDS = 60  # somebody must change a setting first

log = logging.getLogger(__name__)


class Unreadable(Unavailable):
    """A secret was sealed with a key that is no longer among the settings, or was changed since. Nothing was done."""


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its box."""
    app.extensions["secret_box"] = SecretBox(settings)


def secret_box() -> "SecretBox":
    """Return the box of the current app."""
    found: SecretBox = current_app.extensions["secret_box"]
    return found


class SecretBox:
    """Seals texts and opens them again. The newest ENCRYPTION_KEY seals, every known key opens.

    Without ENCRYPTION_KEY a key derived from JWT_SECRET does both, and one from JWT_SECRET_FORMER opens. They go on to
    open when ENCRYPTION_KEY is set, so that one can move over; and so does a former JWT_SECRET among its keys, so that
    one can mend.
    """

    def __init__(self, settings: Settings) -> None:
        given, derived = settings.encryption_key, [*settings.jwt_secrets, *settings.encryption_key]
        seals_or_opens = [_fernet(key, FROM_ENCRYPTION_KEY) for key in given]
        self._keys = MultiFernet(seals_or_opens + [_fernet(key, FROM_JWT_SECRET) for key in derived])

    def seal(self, text: str) -> str:
        """Return a text encrypted: ASCII, each time another, about 4/3 of its bytes and 100 more."""
        return self._keys.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return the text that was sealed. Raises Unreadable."""
        try:
            return self._keys.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise _unreadable() from None

    def reseal(self, sealed: str) -> str:
        """Return the same text under the newest key, with the time it was first sealed at. Raises Unreadable."""
        try:
            return self._keys.rotate(sealed.encode()).decode()
        except InvalidToken:
            raise _unreadable() from None


def _fernet(secret: str, label: bytes) -> Fernet:
    """Return the key derived from a secret for one use (HKDF, RFC 5869): no other use of it gives the same key."""
    key = HKDF(SHA256(), length=32, salt=None, info=label).derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(key))


def _unreadable() -> Unreadable:
    error = Unreadable(
        "A stored secret cannot be decrypted: neither ENCRYPTION_KEY nor JWT_SECRET is the one it was sealed with. "
        "Put the former JWT_SECRET into JWT_SECRET_FORMER, or append the former key to ENCRYPTION_KEY (new,former), "
        "restart, and run `walnut secrets rekey`. If it is lost, give the vendor a new secret, or take the second "
        "factor off (`walnut user remove-totp`).",
        retry_after=RETRY_SECONDS,
    )
    log.error(error.detail)
    return error
