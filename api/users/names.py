"""Names and addresses: what makes two of them the same, and what none may hold."""

import unicodedata

from marshmallow import ValidationError


def folded(name: str) -> str:
    """Return what two names share if a person would take one for the other: NFKC and case folded.

    Unicode Standard 3.13, D147 (toNFKC_Casefold): folding can undo the normal form, so it is made again.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def visible(name: str) -> None:
    """Refuse a name with spaces, control or invisible characters. Raises ValidationError."""
    if any(unicodedata.category(character)[0] in "CZ" for character in name):
        raise ValidationError("May not hold spaces or invisible characters.")
