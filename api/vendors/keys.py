"""The keys that Walnut and a vendor share: each signs what it sends to the other (https://www.standardwebhooks.com).

What is signed is `ID.TIMESTAMP.BODY`, with HMAC-SHA256. Of several keys, the newest first, those that were replaced are
good for a while longer, so that a vendor has time to follow. The library `standardwebhooks` signs text only, takes the
time from its own clock, and fails on malformed signatures with whatever Python says; so it is the tests that use it, as
somebody else who must understand us.
"""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Mapping

import orjson
from werkzeug.datastructures import Headers

from api.errors import Invalid, Unauthenticated
from api.secret_box import SecretBox, Unreadable, secret_box
from api.statements import Row

PREFIX = "whsec_"
BYTES = 32  # of a new key; the standard allows 24 to 64
OVERLAP = 24 * 3600 * 1000  # milliseconds for which a key that was replaced is good
MOST = 3  # keys of a vendor
TOLERANCE = 5 * 60 * 1000  # milliseconds between the two clocks, either way
SCHEME = "Standard-Webhooks"  # for WWW-Authenticate, which must name something (RFC 9110, 15.5.2)

ID = re.compile(r"[!-\-/-~]{1,255}")  # visible, and no full stop: it ends the id in what is signed
TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")
SIGNATURE = re.compile(r"v1,([A-Za-z0-9+/]{43}=)")


def new() -> str:
    """Return a new key."""
    return PREFIX + base64.b64encode(secrets.token_bytes(BYTES)).decode()


def check(key: str) -> None:
    """Raise ValueError, with a sentence for people, if this is no key as the standard has it."""
    try:
        size = len(_bytes(key)) if key.startswith(PREFIX) and key.isascii() else 0
    except binascii.Error:
        size = 0
    if not 24 <= size <= 64:
        raise ValueError(f"Must be {PREFIX} followed by the base64 of 24 to 64 bytes.")


def kept(key: str, box: SecretBox) -> str:
    """Return what the database keeps of a vendor's first key."""
    return _sealed([{"key": key, "until": None}], box)


def rotated(vendor: Row, key: str, now: int) -> str:
    """Return what the database keeps of a vendor's keys when a new one comes first. `now` is in milliseconds.

    Keys that nobody can decrypt any more are lost. Raises Invalid if the key is one of them already.
    """
    try:
        older = _good(vendor, now)
    except Unreadable:
        older = []
    if any(other["key"] == key for other in older):
        raise Invalid(
            "The vendor has this secret already.", fields=[("/secret", "Is in use. Leave it out for a new one.")]
        )
    for other in older:
        other["until"] = other["until"] or now + OVERLAP
    return _sealed([{"key": key, "until": None}, *older][:MOST], secret_box())


def good(vendor: Row, now: int) -> list[str]:
    """Return the keys of a vendor that are good at this time (milliseconds), the newest first. Raises Unreadable."""
    return [entry["key"] for entry in _good(vendor, now)]


def sign(vendor: Row, message_id: str, now_ms: int, body: bytes) -> dict[str, str]:
    """Return the headers that sign a message to a vendor, with each of its good keys. The id has no full stop in it.

    Raises Unreadable.
    """
    timestamp = str(now_ms // 1000)
    signatures = [_signature(key, message_id, timestamp, body) for key in good(vendor, now_ms)]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def verify(vendor: Row, headers: Headers | Mapping[str, str], body: bytes, now_ms: int) -> str:
    """Return the id of a message that the vendor has signed with one of its good keys, and not long ago.

    Raises Unauthenticated for any other, whatever its headers and its bytes are; Unreadable. `headers` finds names in
    lower case.
    """
    message_id, timestamp = headers.get("webhook-id") or "", headers.get("webhook-timestamp") or ""
    if not ID.fullmatch(message_id):
        raise _refused("webhook-id must be 1 to 255 visible ASCII characters other than the full stop.")
    if not TIMESTAMP.fullmatch(timestamp):
        raise _refused("webhook-timestamp must be whole seconds since 1970, as in 1767225600.")
    if abs(now_ms - int(timestamp) * 1000) > TOLERANCE:
        raise _refused("webhook-timestamp is more than five minutes off. Sign anew when you send again; set the clock.")
    words = (headers.get("webhook-signature") or "").split(" ")
    given = [found[1] for word in words if (found := SIGNATURE.fullmatch(word))]
    expected = [_signature(key, message_id, timestamp, body) for key in good(vendor, now_ms)]
    # As text: base64 has several ways to write the same bytes, and one is enough.
    if not any([hmac.compare_digest(one, other) for one in expected for other in given]):  # noqa: C419 (all, always)
        raise _refused("No signature in webhook-signature is one of ID.TIMESTAMP.BODY with a key of this vendor's.")
    return message_id


def _good(vendor: Row, now: int) -> list[Row]:
    entries = orjson.loads(secret_box().open(vendor["secrets"]))
    return [entry for entry in entries if entry["until"] is None or entry["until"] > now]


def _sealed(entries: list[Row], box: SecretBox) -> str:
    return box.seal(orjson.dumps(entries).decode())


def _bytes(key: str) -> bytes:
    return base64.b64decode(key.removeprefix(PREFIX), validate=True)


def _signature(key: str, message_id: str, timestamp: str, body: bytes) -> str:
    signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)
    return base64.b64encode(hmac.digest(_bytes(key), signed, "sha256")).decode()


def _refused(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, scheme=SCHEME)
