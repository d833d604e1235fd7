"""Names and addresses: what makes two of them the same, and what none may hold."""

import re
import unicodedata
from pathlib import Path

from marshmallow import ValidationError

from api import mail_addresses

# Characters that show nothing though they are no control characters: Default_Ignorable_Code_Point of Unicode's
# DerivedCoreProperties.txt, as far as the categories C and Z leave any.
IGNORABLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
# Those that are not ignorable and show nothing either, found by name among all others: blanks (Braille, hieroglyphs,
# a note without a head, the place of an object), a filler, and what only joins or chooses the letters of a script.
BLANK = "\u2800\ufffc\U00013441\U00013442\U00016fe4\U0001d159\u2d7f\U0001107f\U00011a47\U00011a99\U0001bc9d"
# Lines under a letter: in a link, or where a spelling is doubted, there is one anyway.
UNDERLINES = "\u0332\u0333"
INVISIBLE = re.compile(f"[{IGNORABLE}{BLANK}{UNDERLINES}]")
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
    """Refuse a name with spaces, control or invisible characters. Raises ValidationError.

    A mark may not come first, in either part of an address: it would sit on what happens to stand before the name.
    After a letter it is seen, and languages write so what has no character of its own: Guaraní a g with a tilde.
    """
    if INVISIBLE.search(name) or any(unicodedata.category(character)[0] in "CZ" for character in name):
        raise ValidationError("May not hold spaces or invisible characters.")
    if any(unicodedata.category(part[0])[0] == "M" for part in name.split("@") if part):
        raise ValidationError("May not begin with a mark that belongs on a letter.")


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
