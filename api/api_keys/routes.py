"""API keys over HTTP. By a session only: a key that could make keys would outlive its own end."""

import secrets
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from api.api_keys import queries
from api.api_keys.schemas import ApiKeyIn, ApiKeyOut, ApiKeyQuery, AuditedOut, NewApiKeyOut
from api.auth import mails, reauthentication
from api.errors import Invalid, NotFound
from api.statements import Row
from api.web import API_KEY_PREFIX, IN_PERSON, Resource, caller, for_audit, may, rfc3339

api_keys = Resource("api_keys", __name__)
SMALL = 16 << 10  # bytes: all scopes there are, and a name


@api_keys.get("/auth/api-keys", query=ApiKeyQuery(), returns=ApiKeyOut(), many=True, allow=IN_PERSON)
def index(conn: Connection, query: dict[str, Any]) -> Any:
    """List your API keys, the newest first unless `sort` says otherwise."""
    return queries.find(conn, caller()["id"], **query)


def prove(body: dict[str, Any]) -> dict[str, Any]:
    """Check the password, and the code, before the transaction opens: a key lasts longer than a stolen session."""
    return {"proven": reauthentication.prove(body.pop("password"), body["code"])}


@api_keys.post("/auth/api-keys", body=ApiKeyIn(), max_body=SMALL, returns=NewApiKeyOut(), status=201,
               allow=IN_PERSON, prepare=prove, audit="api_key.created", audited=AuditedOut(),
               problems=(409,))  # fmt: skip
def create(conn: Connection, body: dict[str, Any], proven: Row) -> Any:
    """Make an API key, for what you may. Asks for your password. The answer has the key, which is never shown again."""
    owner = reauthentication.still_proven(conn, proven, body.pop("code"))
    body["scopes"] = allowed(caller(), body["scopes"])
    key = API_KEY_PREFIX + secrets.token_urlsafe(32)
    made = queries.create(conn, owner["id"], key, body)
    tell(conn, owner, made)
    return made | {"key": key}


@api_keys.delete("/auth/api-keys/<uuid:key_id>", status=204, allow=IN_PERSON,
                 audit="api_key.removed", audited=AuditedOut())  # fmt: skip
def remove(conn: Connection, key_id: UUID) -> Any:
    """Revoke an API key of yours, at once."""
    removed = queries.remove(conn, caller()["id"], str(key_id))
    if removed is None:
        raise NotFound(f"You have no API key {key_id}.")
    for_audit(before=removed)


def allowed(person: Row, scopes: list[str]) -> list[str]:
    """Return scopes in order, each once. Raises Invalid, naming those that their owner may not himself."""
    wrong = [(number, scope) for number, scope in enumerate(scopes) if not may(person, scope)]
    if wrong:
        fault = f"With the role {person['role']} you may not do it yourself, or not yet. Leave it out."
        names = ", ".join(sorted({scope for _, scope in wrong}))
        detail = f"No key of yours can be made for {names}: with the role {person['role']} you may not do it yourself."
        raise Invalid(detail, fields=[(f"/scopes/{number}", fault) for number, _ in wrong])
    return sorted(set(scopes))


def tell(conn: Connection, owner: Row, made: Row) -> None:
    """Write to the owner of a new key. Not with its name: whoever chose that may have chosen the mailbox too."""
    until = f"until {rfc3339(made['expires_at'])}" if made["expires_at"] else "until it is removed"
    mails.warn(
        conn,
        owner,
        "A new API key for your account",
        f"An API key was made for your account, which begins with {made['hint']}. "
        f"It may do this, {until}: {', '.join(made['scopes'])}.",
        f"To remove it: Account on the dashboard, or DELETE /api/v1/auth/api-keys/{made['id']}.",
    )
