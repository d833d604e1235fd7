"""The audit trail: who changed what, each entry chained to the one before, so that a changed past is seen.

An entry's hash is SHA-256 over the hash before it and the entry. The hash of the last one is kept apart and signed with
a key that is not in the database, so that the end cannot be cut off or forged either. What an entry says of a person is
hashed by way of a salted digest, and can be blanked without breaking the chain.
docs/decisions/0011-audit.md says against whom that helps, and against whom not.
"""

import hashlib
import hmac
import os
from typing import Any

import orjson
from flask import Flask, current_app
from sqlalchemy import Connection, bindparam, func, insert, literal, null, or_, select, update

from api import db
from api.settings import Settings
from api.statements import Row, Statement
from api.tables import audit_entries, audit_head

GENESIS = bytes(32)  # the hash before the first entry
UNSIGNED = b""
UNKNOWN_END = (
    "The end is not signed with this server's key: it was forged, or JWT_SECRET is another one than before. If you "
    "changed it, put the former one into JWT_SECRET_FORMER and restart; if that is lost, and the hash is the one you "
    "noted, run `walnut audit seal`."
)
FORGOTTEN = "user.erased"  # the deed after which a person's parts are blank, in its own entry from the start
# Whose affair a change is, by the kind of its subject: the subject's own, or that of whoever did it. Others: nobody's.
OF_SUBJECT, OF_ACTOR = ("user",), ("session", "api_key")
HASHED = ("seq", "at", "action", "actor_id", "subject_id", "request_id", "address_digest", "change_digest")

HEAD = Statement(select(audit_head))
APPEND = Statement(insert(audit_entries))
ADVANCE = Statement(
    update(audit_head).values(
        seq=bindparam("new_seq"), at=bindparam("new_at"), hash=bindparam("new_hash"), signature=bindparam("new_sign")
    )
)
BLANK_ADDRESSES = Statement(
    update(audit_entries)
    .where(audit_entries.c.actor_id == bindparam("person"), audit_entries.c.address_salt.is_not(None))
    .values(address=null(), address_salt=null())
)
KIND = func.substr(audit_entries.c.action, 1, func.instr(audit_entries.c.action, ".") - 1)
BLANK_CHANGES = [
    Statement(
        update(audit_entries)
        .where(
            person == bindparam("person"),
            audit_entries.c.change_salt.is_not(None),
            or_(*(literal(kind) == KIND for kind in kinds)),
        )
        .values(change=null(), change_salt=null())
    )
    for person, kinds in ((audit_entries.c.subject_id, OF_SUBJECT), (audit_entries.c.actor_id, OF_ACTOR))
]


def init_app(app: Flask, settings: Settings) -> None:
    """Keep the keys of the end of the trail."""
    app.extensions["audit_keys"] = keys_of(settings)


def keys_of(settings: Settings) -> list[bytes]:
    """Return the keys of the end of the trail, derived so that they are not those of tokens. The first one signs."""
    label = b"walnut: end of the audit trail"
    return [hmac.digest(secret.encode(), label, "sha256") for secret in settings.jwt_secrets]


def begin(conn: Connection, settings: Settings) -> None:
    """Sign the end of the empty trail, when it is made: later an empty one is one that was emptied."""
    empty = {"seq": 0, "at": 0, "hash": GENESIS}
    signature = _signature(empty, keys_of(settings)[0])
    ADVANCE.run(conn, new_seq=0, new_at=0, new_hash=GENESIS, new_sign=signature)


def append(
    conn: Connection,
    action: str,
    subject_id: str,
    *,
    actor_id: str | None = None,
    address: str | None = None,
    request_id: str = "",
    before: Row | None = None,
    after: Row | None = None,
) -> int:
    """Add an entry in the transaction of the change it tells of, and return its number.

    `action` is "kind.deed", its kind is the subject's. `before` and `after` are what JSON can say of the subject, none
    of it secret. The write lock makes the order total.
    """
    head, salts = HEAD.one(conn), os.urandom(32)
    change = orjson.dumps({"before": before, "after": after}).decode()
    entry = {
        "seq": head["seq"] + 1,
        "at": max(db.now(), head["at"]),  # a clock that was set back does not change what came first
        "action": action,
        "actor_id": actor_id,
        "subject_id": subject_id,
        "request_id": request_id,
    }
    forgets = action == FORGOTTEN
    entry |= _blankable("address", address, salts[:16], blank=forgets and actor_id == subject_id)
    entry |= _blankable("change", change, salts[16:], blank=forgets)
    entry["hash"] = chained(head["hash"], entry)
    APPEND.run(conn, **entry)
    _advance(conn, entry, trusted=is_genuine(head))
    return int(entry["seq"])


def forget(conn: Connection, person: str) -> None:
    """Blank what the trail says of a person: where they came from, and what changed about account, sessions and keys.

    For who erases an account, in the transaction whose entry is FORGOTTEN: `verify` looks for that.
    """
    for statement in (*BLANK_CHANGES, BLANK_ADDRESSES):
        statement.run(conn, person=person)


def whose(entry: Row) -> str | None:
    """Return whose affair the change of an entry is: it may be blank once that person was erased. None: nobody's."""
    kind = entry["action"].partition(".")[0]
    if kind in OF_SUBJECT:
        return str(entry["subject_id"])
    return entry["actor_id"] if kind in OF_ACTOR else None


def seal(conn: Connection) -> None:
    """Sign the end as it is, with the key that is in use now, and record that it was done."""
    append(conn, "audit.sealed", "trail")
    _advance(conn, HEAD.one(conn), trusted=True)


def chained(previous: bytes, entry: Row) -> bytes:
    """Return the hash of an entry that follows the one with the hash `previous`."""
    hashed = {name: entry[name] for name in HASHED}
    return hashlib.sha256(previous + orjson.dumps(hashed, option=orjson.OPT_SORT_KEYS, default=_tagged)).digest()


def _tagged(data: bytes) -> dict[str, str]:
    """Return bytes as JSON that no text can pass for: SQLite lets either stand in either's column."""
    return {"bytes": data.hex()}


def digest(salt: bytes, text: str | None) -> bytes:
    """Return the digest of a part that can be blanked: without the salt nobody can tell what it was, nor try."""
    return hashlib.sha256(salt + (b"-" if text is None else b"+" + text.encode())).digest()


def is_genuine(head: Row) -> bool:
    """Tell whether this is the end that was written by who has the key, or had the one before it."""
    keys: list[bytes] = current_app.extensions["audit_keys"]
    return any(hmac.compare_digest(_signature(head, key), head["signature"]) for key in keys)


def _blankable(name: str, text: str | None, salt: bytes, *, blank: bool) -> dict[str, Any]:
    kept = {name: None, f"{name}_salt": None} if blank else {name: text, f"{name}_salt": salt}
    return kept | {f"{name}_digest": digest(salt, text)}


def _advance(conn: Connection, entry: Row, *, trusted: bool) -> None:
    """Move the end. One that was tampered with stays unsigned: the next write must not vouch for it."""
    signature = _signature(entry, current_app.extensions["audit_keys"][0]) if trusted else UNSIGNED
    ADVANCE.run(conn, new_seq=entry["seq"], new_at=entry["at"], new_hash=entry["hash"], new_sign=signature)


def _signature(head: Row, key: bytes) -> bytes:
    """Return the keyed BLAKE2b (RFC 7693, 2.9) of an end: a third of the time of an HMAC."""
    text = b"%d:%d:%b" % (head["seq"], head["at"], head["hash"])
    return hashlib.blake2b(text, digest_size=32, key=key).digest()
