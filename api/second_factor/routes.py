"""The second factor over HTTP: by its owner alone, who is signed in with a session."""

from typing import Any

from flask import current_app
from sqlalchemy import Connection

from api import db
from api.auth import authenticator, doors, mails, reauthentication, recovery_codes, totp
from api.errors import Conflict
from api.second_factor.schemas import FactorOut, RecoveryCodesOut, TotpCodeIn, TotpIn, TotpOut, TotpRemovalIn
from api.statements import Row
from api.web import IN_PERSON, Resource, caller, for_audit

second_factor = Resource("second_factor", __name__)
SMALL = 16 << 10  # bytes: nothing here is longer than a password
IN_USE = "Your account has a second factor already. To set it up with another device, switch it off first."
NOT_IN_USE = "Your account has no second factor. POST /auth/totp begins to set one up."
NOT_BEGUN = "There is nothing to enable. POST /auth/totp begins to set a second factor up."
MUST = (
    "An admin must have a second factor here (REQUIRE_ADMIN_TOTP). If you have lost your device or have another one, "
    "ask whoever runs this server for `walnut user remove-totp`, and set it up again."
)


def password_first(body: dict[str, Any]) -> dict[str, Any]:
    """Check the password before the transaction opens, and prepare what takes time."""
    user = reauthentication.prove_password(body.pop("password"))
    secret = authenticator.new_secret()
    return {"checked": user, "secret": secret, "described": authenticator.described(secret, user["email"])}


def first_code_first(body: dict[str, Any]) -> dict[str, Any]:
    """Check the code that is to begin before the transaction opens. Of one that has begun nothing is told."""
    user = own_account()
    if user["totp_enabled_at"]:
        raise Conflict(IN_USE)
    if user["totp_secret"]:
        totp.try_out(user, body["code"])
    return {}


def code_first(body: dict[str, Any]) -> dict[str, Any]:
    """Check a code before the transaction opens."""
    totp.check_first(own_account(), body["code"])
    return {}


def password_and_code_first(body: dict[str, Any]) -> dict[str, Any]:
    """Check both before the transaction opens."""
    return {"checked": reauthentication.prove(body.pop("password"), body["code"])}


@second_factor.post("/auth/totp", body=TotpIn(), max_body=SMALL, returns=TotpOut(), status=201,
                    allow=IN_PERSON, prepare=password_first, audit="user.totp_started", audited=FactorOut(),
                    problems=(409,))  # fmt: skip
def begin(
    conn: Connection,
    body: dict[str, Any],  # noqa: ARG001 (checked before)
    checked: Row,
    secret: bytes,
    described: dict[str, str],
) -> Any:
    """Begin to set up a second factor. It is asked for once a code of it was sent; to begin again replaces it."""
    user = reauthentication.still_password(conn, checked)
    if user["totp_enabled_at"]:
        raise Conflict(IN_USE)
    for_audit(before=user, after=totp.start(conn, user, secret))
    return described


@second_factor.put("/auth/totp", body=TotpCodeIn(), max_body=SMALL, returns=RecoveryCodesOut(), allow=IN_PERSON,
                   prepare=first_code_first, audit="user.totp_enabled", audited=FactorOut(),
                   problems=(409,))  # fmt: skip
def enable(conn: Connection, body: dict[str, Any]) -> Any:
    """Have the second factor asked for from now on. Ends your other sessions. Shows the recovery codes, once."""
    user = reauthentication.own(conn)
    if user["totp_enabled_at"] or not user["totp_secret"]:
        raise Conflict(IN_USE if user["totp_enabled_at"] else NOT_BEGUN)
    for_audit(before=user, after=totp.enable(conn, user, body["code"]))
    doors.close(conn, user, keep=caller()["session_id"], keys=False)
    mails.warn(
        conn, user, "Your account has a second factor now",
        "From now on a sign-in asks for a code of your app. If that is not your app, only whoever runs this server can "
        "take it off: write there.",
    )  # fmt: skip
    return {"recovery_codes": recovery_codes.replace(conn, user["id"])}


@second_factor.delete("/auth/totp", body=TotpRemovalIn(), max_body=SMALL, status=204, allow=IN_PERSON,
                      prepare=password_and_code_first, audit="user.totp_removed", audited=FactorOut(),
                      problems=(409,))  # fmt: skip
def remove(conn: Connection, body: dict[str, Any], checked: Row) -> Any:
    """Switch the second factor off. Its secret and the recovery codes are gone."""
    user = in_use(reauthentication.still_password(conn, checked))
    if user["role"] == "admin" and current_app.extensions["settings"].require_admin_totp:
        raise Conflict(MUST)
    totp.check(conn, user, body["code"])
    for_audit(before=user, after=totp.remove(conn, user))
    mails.warn(conn, user, "Your account has no second factor any more", "From now on a sign-in asks for no code.")


@second_factor.post("/auth/totp/recovery-codes", body=TotpCodeIn(), max_body=SMALL, returns=RecoveryCodesOut(),
                    status=201, allow=IN_PERSON, prepare=code_first, audit="user.recovery_codes_replaced",
                    audited=FactorOut(), problems=(409,))  # fmt: skip
def replace_recovery_codes(conn: Connection, body: dict[str, Any]) -> Any:
    """Make new recovery codes, and show them once. The old ones are good no longer."""
    user = in_use(reauthentication.own(conn))
    totp.check(conn, user, body["code"])
    for_audit(after=user)
    mails.warn(conn, user, "You have new recovery codes", "The recovery codes from before are good no longer.")
    return {"recovery_codes": recovery_codes.replace(conn, user["id"])}


def own_account() -> Row:
    """Return the caller's row, before the transaction opens."""
    with db.reading() as conn:
        return reauthentication.own(conn)


def in_use(user: Row) -> Row:
    """Return the row of an account that has a second factor. Raises Conflict."""
    if user["totp_enabled_at"] is None:
        raise Conflict(NOT_IN_USE)
    return user
