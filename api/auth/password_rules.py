"""What makes a password a bad one: NIST SP 800-63B-4, 3.1.1.2, and OWASP ASVS 5, 6.2. Only when one is chosen, never
when somebody signs in. There are no rules of composition: length is what counts, and that nobody guesses it first.
"""

from collections.abc import Iterable
from pathlib import Path

from marshmallow import ValidationError

from api.auth.names import folded
from api.auth.passwords import MAX_CHARACTERS, not_too_long, not_too_short
from api.errors import Invalid
from api.statements import Row

SERVICE = "walnut"  # the first word that comes to mind
SHORTEST_NAME = 3  # characters: two of them stand in any password
TOO_LITTLE = 4  # characters that are left without the names: john1234 is guessed as soon as john


def _commonest() -> frozenset[str]:
    """Read the commonest passwords. The file says where they are from."""
    lines = Path(__file__).with_name("common_passwords.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(folded(line) for line in lines if not line.startswith("# "))


COMMONEST = _commonest()


def not_common(password: str) -> None:
    """Refuse what everybody tries first. Raises ValidationError."""
    if len(password) <= MAX_CHARACTERS and folded(password) in COMMONEST:
        raise ValidationError("Is one of the commonest passwords, which are tried first. Choose another one.")


RULES = (not_too_short, not_too_long, not_common)  # for the field of a schema; who knows the account's names, asks more


def refuse_names(password: str, names: Iterable[str], pointer: str = "/password") -> None:
    """Refuse a password that is little more than a name of its account, or ours. `pointer` is its place in the request.

    For one that has passed RULES. Raises Invalid.
    """
    whole = rest = folded(password)
    for name in sorted({folded(name) for name in (*names, SERVICE)}, key=len, reverse=True):
        if len(name) >= SHORTEST_NAME:
            rest = rest.replace(name, "")
    if rest != whole and len(rest) <= TOO_LITTLE:
        text = "Is little more than a name of this account or server. Choose another one."
        raise Invalid(f"{pointer.lstrip('/')}: {text}", fields=[(pointer, text)])


def names_of(account: Row) -> list[str]:
    """Return the names that the password of an account must not be made of. It has username and email."""
    email = str(account["email"])
    return [str(account["username"]), email, email.rpartition("@")[0]]
