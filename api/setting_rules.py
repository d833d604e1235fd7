"""What a setting's value may be: each rule raises for nonsense, with a sentence for the person who starts Walnut."""

import re
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from environs import ValidationError, validate

from api import jwt_secret, rates
from api.errors import SettingsError

# As browsers write it: lower case, no default port, nothing after it.
ORIGIN = re.compile(r"(?!http:.*:80$|https:.*:443$)https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[1-9]\d{0,4})?")


def limit(text: str) -> None:
    """Refuse what is no limit. Raises ValidationError."""
    try:
        rates.parse(text)
    except ValueError as error:
        forms = "'token-bucket CAPACITY refill N/s', 'leaky-bucket CAPACITY leak N/s' or '100 per 15 minutes'"
        raise ValidationError(f"{text!r} {error}. Write {forms}.") from None


def scheme(*schemes: str) -> Callable[[str], None]:
    """Return a rule that refuses addresses of other schemes."""

    def check(url: str) -> None:
        try:
            fits = urlsplit(url).scheme in schemes and urlsplit(url).port != 0
        except ValueError:  # a port that is no number
            fits = False
        if url and not fits:
            raise ValidationError(f"Is no address that starts with {' or '.join(f'{name}://' for name in schemes)}.")

    return check


def readable(read: Callable[[str], object]) -> Callable[[str], None]:
    """Return a rule that refuses what `read` raises ValueError for."""

    def check(text: str) -> None:
        try:
            read(text)
        except ValueError as error:
            raise ValidationError(f"It {error}.") from None

    return check


def origins(origins: Sequence[str]) -> None:
    """Refuse what is no origin (RFC 6454). Raises ValidationError."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin.strip()):
            raise ValidationError(f"{origin!r} is no origin. Write https://app.example.com, separated by commas.")


def encryption_keys(keys: Sequence[str]) -> None:
    """Refuse keys that are weak, or several that stand where one should. Raises SettingsError."""
    for number, key in enumerate(keys, 1):
        which = f"ENCRYPTION_KEY: key {number} of {len(keys)}"
        jwt_secret.checked(key.strip(), which)
        if len(key.split()) > 1:  # a file with a key on each line would be one key, and the older ones forgotten
            raise SettingsError(f"{which} has a space or a line end in it. Separate keys by commas, newest first.")


def database(url: str) -> None:
    """Refuse databases that this version does not serve. Raises ValidationError."""
    if url and not re.fullmatch("sqlite:///[^?:]+", url):
        raise ValidationError("This version serves SQLite only. Write sqlite:////path/to/walnut.db.")


def duration(seconds: int) -> None:
    """Refuse what is no time to wait. Raises ValidationError."""
    validate.Range(1, 10 * 365 * 86400, error="Must be from 1 second to ten years.")(seconds)
