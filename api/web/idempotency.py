"""A request that is repeated with its Idempotency-Key is carried out once, and answered each time as it was then.

Inside the transaction: the write lock lets twins pass one by one, on whichever replica they arrive, and the second
finds what the first has stored. Key, change, audit entry and answer are in one commit: a crash leaves all or nothing.
draft-ietf-httpapi-idempotency-key-header; docs/decisions/0012-idempotency.md says what is stored and what is not.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from flask import Response, current_app, g, request
from sqlalchemy import Connection, bindparam, delete, insert, select

from api import db, failpoints, metrics
from api.errors import Invalid, KeyReused, Malformed, Refusal, UnsupportedMediaType
from api.observe import note
from api.statements import Row, Statement, expired
from api.tables import idempotency_keys
from api.web import guard, headers, inputs, problems
from api.web.contract import Contract
from api.web.guard import actor

HEADER = "HTTP_IDEMPOTENCY_KEY"  # as the WSGI environment calls it
BARE = re.compile(r"[!#-+\--~][!-+\--~]{0,254}")  # visible ASCII, no quoted string, no list: two headers are one
QUOTED = re.compile(r'"((?:[!#-\[\]-~]|\\["\\]){1,255})"')  # RFC 9651, 3.3.3, without spaces
BATCH = 500
OF_THE_REQUEST = (Malformed, Invalid, UnsupportedMediaType)

FIND = Statement(
    select(idempotency_keys).where(
        idempotency_keys.c.user_id == bindparam("user"), idempotency_keys.c.key == bindparam("key_hash")
    )
)
STORE = Statement(insert(idempotency_keys))
REMOVE = Statement(delete(idempotency_keys).where(idempotency_keys.c.seq == bindparam("number")))
SWEEP = expired(idempotency_keys.c.seq, idempotency_keys.c.expires_at)


class Key(NamedTuple):
    """Whose key it is, the hash of the key in its scope, and the hash of the request it came with."""

    user_id: str
    digest: bytes
    fingerprints: list[bytes]


def wrap(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Answer from what is stored under the request's key; otherwise carry the request out and store its answer."""
    if not contract.idempotent:
        return view

    @wraps(view)
    def once(conn: Connection, **kwargs: Any) -> Any:
        if (key := g.pop("idempotency_key", None)) is None:
            return view(conn, **kwargs)
        return _once(conn, key, lambda: view(conn, **kwargs))

    return once


def wrap_inputs(view: Callable[..., Any], contract: Contract) -> Callable[..., Any]:
    """Do the step `inputs`, and take the key in; what that step refuses is an answer to be kept like others.

    It refuses before there is a transaction, for what the request is and for nothing else: so it gets one for itself.
    """
    through, read = inputs.wrap(view, contract), inputs.wrap(_given, contract)

    @wraps(view)
    def keyed(**kwargs: Any) -> Any:
        if HEADER not in request.environ:
            return through(**kwargs)
        key = _key(request.environ[HEADER], contract.max_body)
        try:
            kwargs = read(**kwargs)
        except OF_THE_REQUEST as refusal:
            return _refused(key, refusal, contract.allow)
        g.idempotency_key = key
        response = view(**kwargs)
        failpoints.reach("answer.before")
        return response

    return keyed


def sweep(conn: Connection) -> int:
    """Delete some of the keys that have expired, and return how many: to be called again until there are none."""
    return SWEEP.run(conn, before=db.now(), batch=BATCH)


def parsed(header: str) -> str:
    """Return the key that a header names, quoted as the draft has it or bare as most clients send it.

    Raises Malformed for what is no key.
    """
    header = header.strip(" \t")
    quoted = QUOTED.fullmatch(header)
    if not (quoted or BARE.fullmatch(header)):
        raise Malformed(
            "Idempotency-Key must be one key, of 1 to 255 visible ASCII characters. A new UUID is a good key."
        )
    return re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header


def _given(**arguments: Any) -> dict[str, Any]:
    return arguments


def _key(header: str, most: int) -> Key:
    """Return the key of this request. Reads the body, so that nothing waits for it inside the transaction."""
    user_id = actor()
    if user_id is None:
        raise LookupError("an idempotent route needs somebody who is signed in")
    scope = (request.method, request.path.rstrip("/"))  # a slash at the end makes no other address
    asked = (request.environ.get("QUERY_STRING", ""), request.headers.get("Content-Type", ""))
    return Key(
        user_id,
        _hash(*(part.encode() for part in (*scope, parsed(header)))),
        _keyed(_hash(*(part.encode() for part in (*scope, *asked)), inputs.body(most))),
    )


def _keyed(digest: bytes) -> list[bytes]:
    """Return a digest that nobody can try values against who has the database only: a body may hold a password.

    Under JWT_SECRET, and then under the one before it.
    """
    secrets = current_app.extensions["settings"].jwt_secrets
    return [hmac.digest(secret.encode(), b"walnut: request " + digest, "sha256") for secret in secrets]


def _hash(*parts: bytes) -> bytes:
    """Return one hash of several parts: each with its length before it, so that none can pass for two."""
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()


def _once(conn: Connection, key: Key, answer: Callable[[], Response]) -> Response:
    found = FIND.first(conn, user=key.user_id, key_hash=key.digest)
    if found and found["expires_at"] > db.now():
        return _replay(found, key)
    if found:
        REMOVE.run(conn, number=found["seq"])
    failpoints.reach("key.unknown")
    response = answer()
    _store(conn, key, response)
    failpoints.reach("key.stored")
    return response


def _refused(key: Key, refusal: Refusal, permission: str) -> Response:
    with db.writing() as conn:
        guard.check_again(conn, permission)
        return _once(conn, key, lambda: problems.refused(refusal))


def _replay(found: Row, key: Key) -> Response:
    """Return the stored answer. Raises KeyReused if it is the answer to something else."""
    if found["fingerprint"] not in key.fingerprints:
        _tell("mismatch")
        raise KeyReused(
            "This Idempotency-Key came with another request before, perhaps one that was refused. Make a new one."
        )
    _tell("replayed")
    headers.add(("Idempotency-Replayed", "true"))
    return Response(found["body"], found["status"], [(name, value) for name, value in found["headers"]])


def _tell(result: str) -> None:
    """Tell the log and the metrics what became of the key."""
    note(idempotency=result)
    metrics.IDEMPOTENCY.labels(result).inc()


def _store(conn: Connection, key: Key, response: Response) -> None:
    _tell("stored")
    lifetime = current_app.extensions["settings"].idempotency_ttl * 1000
    STORE.run(
        conn,
        user_id=key.user_id,
        key=key.digest,
        fingerprint=key.fingerprints[0],
        status=response.status_code,
        headers=list(response.headers),
        body=response.get_data(),
        expires_at=db.now() + lifetime,
    )
