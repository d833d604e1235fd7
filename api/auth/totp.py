"""The second factor of an account: codes of an authenticator app, each good once, and recovery codes for its loss.

`check_first` comes before a transaction, because it counts and may wait; `check` inside decides, and uses the code up.
docs/decisions/0024-second-factor.md says why it is so.
"""

import base64

from marshmallow import ValidationError
from sqlalchemy import Connection, bindparam, select, update

from api import db
from api.auth import accounts, authenticator, mails, recovery_codes
from api.errors import Forbidden, Refusal, SecondFactorRequired, Unauthenticated
from api.secret_box import SecretBox, secret_box
from api.statements import Row, Statement
from api.tables import users
from api.web import forgive, record, slow_down

FIRST_WAIT = 1  # second: before the sixth code in a row, so that one mail goes out for a series and not one for each
SEND_A_CODE = "Send the six digits that your app shows, or a recovery code, as `code`."
WRONG = "Is not right. Each code works once: wait for the next one. If none is right, set your device's clock."

START = Statement(
    update(users).where(users.c.id == bindparam("user_id")).values(totp_secret=bindparam("sealed")).returning(users)
)
USE = Statement(
    update(users)
    .where(users.c.id == bindparam("user_id"), users.c.totp_step < bindparam("step"))
    .values(totp_step=bindparam("step"))
)
SEALED = Statement(select(users.c.id, users.c.totp_secret).where(users.c.totp_secret.is_not(None)))
RESEAL = Statement(update(users).where(users.c.id == bindparam("user_id")).values(totp_secret=bindparam("sealed")))


def is_code(text: str) -> None:
    """Refuse what is neither six digits nor a recovery code. Raises ValidationError."""
    if not (authenticator.digits(text) or recovery_codes.normal(text)):
        raise ValidationError("Must be the six digits that the app shows, or one of the recovery codes.")


def is_six_digits(text: str) -> None:
    """Refuse what no app shows. Raises ValidationError."""
    if not authenticator.digits(text):
        raise ValidationError("Must be the six digits that the app shows.")


def start(conn: Connection, user: Row, secret: bytes) -> Row:
    """Keep a secret for a user, to be enabled by a code of it, and return the user's row. It replaces one before."""
    return START.one(conn, user_id=user["id"], sealed=_sealed(secret))


def enable(conn: Connection, user: Row, code: str) -> Row:
    """Let a user's second factor be asked for from now on, and return the user's row. Raises Forbidden, Unreadable."""
    if (step := _step(user, code)) is None:
        raise wrong(Forbidden)
    return accounts.change(conn, user, totp_enabled_at=db.now(), totp_step=step, new_email=None)


def remove(conn: Connection, user: Row) -> Row:
    """Take the second factor off an account, with its recovery codes, and return the account's row."""
    recovery_codes.remove(conn, user["id"])
    return accounts.change(conn, user, totp_secret=None, totp_enabled_at=None, totp_step=0)


def check_first(user: Row, code: str | None, refusal: type[Refusal] = Forbidden) -> None:
    """Check a code for a user before the transaction opens, for who has shown that he knows the password.

    Wrong ones slow down all that follow, wherever they come from. Nothing is asked for where there is no second factor.
    Raises `refusal`, SecondFactorRequired, TooManyRequests or Unreadable.
    """
    if user["totp_enabled_at"] is None:
        return
    if code is None:
        raise _missing(refusal)
    try_out(user, code, refusal)


def try_out(user: Row, code: str, refusal: type[Refusal] = Forbidden) -> None:
    """Check a code against a user's secret, as `check_first` does, also if it is not enabled yet."""
    wait = slow_down(user["id"], anywhere=True)
    with db.reading() as conn:
        is_recovery = recovery_codes.normal(code) is not None
        known = recovery_codes.exists(conn, user["id"], code) if is_recovery else _is_fresh(user, code)
    if not known:
        if wait == FIRST_WAIT:
            _warn(user)
        raise wrong(refusal)
    forgive(user["id"], anywhere=True)


def check(conn: Connection, user: Row, code: str | None, refusal: type[Refusal] = Forbidden) -> None:
    """Use a code up: the same one, at the same moment or later, is refused. `user` is the row in this transaction.

    Nothing is asked for where there is no second factor. Raises `refusal`, SecondFactorRequired or Unreadable.
    """
    if user["totp_enabled_at"] is None:
        return
    if code is None:
        raise _missing(refusal)
    if recovery_codes.normal(code):
        if not recovery_codes.use(conn, user, code):
            raise wrong(refusal)
    elif (step := _step(user, code)) is None or not USE.run(conn, user_id=user["id"], step=step):
        raise wrong(refusal)


def wrong(refusal: type[Refusal]) -> Refusal:
    """Return what to raise when a code is not right."""
    return refusal("The code is not right.", fields=[("/code", WRONG)])


def rekey(conn: Connection, box: SecretBox) -> int:
    """Encrypt the secrets of every account anew, under the newest key there is. Return how many. Raises Unreadable."""
    found = SEALED.all(conn)
    for user in found:
        RESEAL.run(conn, user_id=user["id"], sealed=box.reseal(user["totp_secret"]))
    return len(found)


def _missing(refusal: type[Refusal]) -> Refusal:
    text = f"This account has a second factor. {SEND_A_CODE}"
    return SecondFactorRequired(text) if refusal is Unauthenticated else refusal(text, fields=[("/code", SEND_A_CODE)])


def _warn(user: Row) -> None:
    """Tell a user of wrong codes. In a commit of its own: what brought them is refused, and changes nothing else."""
    with db.writing() as conn:
        if (now := accounts.get(conn, user["id"])) is None:
            return
        record(conn, "user.codes_refused", user["id"], actor_id=user["id"], after={"in_a_row": 5})
        mails.warn(
            conn, now, "Wrong codes for your account",
            "Five wrong codes in a row were sent for your account, by somebody who knows its password or is signed in "
            "to it. Each code that follows has to wait longer than the one before.",
        )  # fmt: skip


def _is_fresh(user: Row, code: str) -> bool:
    step = _step(user, code)
    return step is not None and step > user["totp_step"]


def _step(user: Row, code: str) -> int | None:
    secret = base64.b32decode(secret_box().open(user["totp_secret"]))
    return authenticator.newest_step(secret, code, db.now())


def _sealed(secret: bytes) -> str:
    return secret_box().seal(base64.b32encode(secret).decode())
