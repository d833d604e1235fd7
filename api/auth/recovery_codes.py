"""Recovery codes: what lets somebody in who has lost the device that makes the codes. Each works once.

80 random bits, written as people can copy them: ABCD-EFGH-IJKL-MNOP. Kept as hashes; with so many bits a plain SHA-256
is enough (NIST SP 800-63B, 5.1.2.2).
"""

import base64
import hashlib
import re
import secrets
from textwrap import wrap

from sqlalchemy import Connection, bindparam, delete, func, insert, select
from sqlalchemy import exists as there_is

from api.auth import mails
from api.statements import Row, Statement
from api.tables import recovery_codes
from api.web import record

HOW_MANY = 10
BYTES = 10  # 16 letters and digits of base32
CODE = re.compile(r"[A-Za-z2-7]{16}")

ITS_OWN = (recovery_codes.c.user_id == bindparam("user"), recovery_codes.c.hash == bindparam("code_hash"))
EXISTS = Statement(select(there_is().where(*ITS_OWN)))
USE = Statement(delete(recovery_codes).where(*ITS_OWN))
LEFT = Statement(select(func.count()).where(recovery_codes.c.user_id == bindparam("user")))
REMOVE = Statement(delete(recovery_codes).where(recovery_codes.c.user_id == bindparam("user")))
KEEP = Statement(insert(recovery_codes))


def replace(conn: Connection, user_id: str) -> list[str]:
    """Return new codes for a user, which are shown this once. Those before are good no longer."""
    remove(conn, user_id)
    codes = [base64.b32encode(secrets.token_bytes(BYTES)).decode() for _ in range(HOW_MANY)]
    KEEP.run_many(conn, [{"user_id": user_id, "hash": _hash(code)} for code in codes])
    return ["-".join(wrap(code, 4)) for code in codes]


def remove(conn: Connection, user_id: str) -> None:
    """Let a user have no recovery codes."""
    REMOVE.run(conn, user=user_id)


def exists(conn: Connection, user_id: str, code: str) -> bool:
    """Tell whether this is one of a user's codes, and was not used yet."""
    plain = normal(code)
    return plain is not None and bool(EXISTS.value(conn, user=user_id, code_hash=_hash(plain)))


def use(conn: Connection, user: Row, code: str) -> bool:
    """Use a code up, with its audit entry and a mail, and tell whether it was one of the user's."""
    plain = normal(code)
    if plain is None or not USE.run(conn, user=user["id"], code_hash=_hash(plain)):
        return False
    left = int(LEFT.value(conn, user=user["id"]))
    record(conn, "user.recovery_code_used", user["id"], actor_id=user["id"], after={"left": left})
    mails.warn(
        conn, user, "A recovery code was used",
        f"Somebody used one of the recovery codes of your account. {left} of {HOW_MANY} are left.",
        "If you have lost your device, switch the second factor off and set it up again with another one.",
    )  # fmt: skip
    return True


def normal(code: str) -> str | None:
    """Return a code as it is hashed, however it was typed: upper or lower case, with or without hyphens and spaces."""
    plain = code.replace("-", "").replace(" ", "")
    return plain.upper() if CODE.fullmatch(plain) else None


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
