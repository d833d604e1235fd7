"""Asks who is signed in once more for what only the owner knows, before what a stolen session must not be enough for.

That is the password, and a code where the account has a second factor. `prove` comes before the transaction, because it
takes a hash and may wait; `still_proven` inside looks whether the password is still the one that was shown, and uses
the code up.
"""

from sqlalchemy import Connection

from api import db
from api.auth import accounts, passwords, totp
from api.auth.names import folded
from api.errors import Forbidden, Unauthenticated
from api.statements import Row
from api.web import caller, forgive, slow_down


def prove(password: str, code: str | None, pointer: str = "/password") -> Row:
    """Return the caller's row if this is his password, and his code. As slow to guess as at a sign-in.

    Raises Forbidden, about `pointer` or /code, or TooManyRequests.
    """
    user = prove_password(password, pointer)
    totp.check_first(user, code)
    return user


def prove_password(password: str, pointer: str = "/password") -> Row:
    """Do the same where a second factor is only about to be set up."""
    with db.reading() as conn:
        user = own(conn)
    account = folded(user["email"])
    slow_down(account)
    if not passwords.matches(password, user["password_hash"]):
        raise wrong_password(pointer)
    forgive(account)
    return user


def still_proven(conn: Connection, proven: Row, code: str | None, pointer: str = "/password") -> Row:
    """Return the caller's row as it is now, and use the code up. Raises Forbidden if either is good no longer."""
    user = still_password(conn, proven, pointer)
    totp.check(conn, user, code)
    return user


def still_password(conn: Connection, proven: Row, pointer: str = "/password") -> Row:
    """Return the caller's row as it is now. Raises Forbidden if the proven password is not its own any more."""
    user = own(conn)
    if user["password_hash"] != proven["password_hash"]:
        raise wrong_password(pointer)
    return user


def own(conn: Connection) -> Row:
    """Return the caller's row. Raises Unauthenticated if he is gone since he was let in."""
    if (user := accounts.get(conn, caller()["id"])) is None:
        raise Unauthenticated("This account is gone.", reason="invalid_token")
    return user


def wrong_password(pointer: str) -> Forbidden:
    """Return what to raise when somebody who is signed in does not know the password."""
    return Forbidden("The password is not right.", fields=[(pointer, "Is not the password of your account.")])
