"""Names and addresses: what makes two of them the same, and what none may hold."""

import re
import unicodedata

from marshmallow import ValidationError

# Characters that show nothing though they are no control characters: Default_Ignorable_Code_Point of Unicode's
# DerivedCoreProperties.txt, as far as the categories C and Z leave any.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def folded(name: str) -> str:
    """Return what two names share if a person would take one for the other: NFKC and case folded.

    Unicode Standard 3.13, D147 (toNFKC_Casefold): folding can undo the normal form, so it is made again.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def visible(name: str) -> None:
    """Refuse a name with spaces, control or invisible characters. Raises ValidationError."""
    if INVISIBLE.search(name) or any(unicodedata.category(character)[0] in "CZ" for character in name):
        raise ValidationError("May not hold spaces or invisible characters.")
