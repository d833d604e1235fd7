"""Names and addresses: what makes two of them the same, and what none may hold."""

import re
import unicodedata
from pathlib import Path

from marshmallow import ValidationError

from api import mail_addresses

# Characters that show nothing though they are no control characters: Default_Ignorable_Code_Point of Unicode's
# DerivedCoreProperties.txt, as far as the categories C and Z leave any.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
ACE = re.compile(r"\bxn--([a-z0-9-]+)")  # RFC 5890, 2.3.2.1: how a label in another script is written in ASCII


def folded(name: str) -> str:
    """Return what two names share if a person would take one for the other, however they are spelt.

    NFKC and case folded; letters that look like those of ASCII count as those (UTS #39, 4), and a domain in another
    script is the same in either of its forms.
    """
    plain = _caseless(name)
    local, at, domain = plain.rpartition("@")
    if at and "xn--" in domain:
        plain = f"{local}@{_caseless(ACE.sub(_in_its_script, domain))}"
    return plain if plain.isascii() else plain.translate(LOOK_ALIKES)


def visible(name: str) -> None:
    """Refuse a name with spaces, control or invisible characters. Raises ValidationError."""
    if INVISIBLE.search(name) or any(unicodedata.category(character)[0] in "CZ" for character in name):
        raise ValidationError("May not hold spaces or invisible characters.")


def mailable(email: str) -> None:
    """Refuse an address that no mail can be sent to. Raises ValidationError."""
    try:
        mail_addresses.address(email)
    except ValueError as error:
        raise ValidationError(f"Cannot be written to: it {error}.") from None


def _caseless(name: str) -> str:
    """Unicode Standard 3.13, D147 (toNFKC_Casefold): folding can undo the normal form, so it is made again."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _in_its_script(label: re.Match[str]) -> str:
    try:
        return label[1].encode().decode("punycode")
    except UnicodeError:  # it only looks like one
        return label[0]


def _look_alikes() -> dict[int, str]:
    """Read the table of characters that are taken for one of ASCII, or for several."""
    lines = Path(__file__).with_name("look_alikes.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if not line.startswith("#")]
    return {ord(twin): plain for plain, twins in pairs for twin in twins}


LOOK_ALIKES = _look_alikes()
