"""Where vendors may be: an address that can be called, or one of the two that this server plays itself."""

from flask import current_app

from api.errors import Invalid
from api.outgoing import check_url
from api.settings import Settings

MOCKS = ("mock:sync", "mock:async")


def check(url: str) -> None:
    """Raise Invalid, and say why, if a vendor with this address would never be called."""
    settings: Settings = current_app.extensions["settings"]
    if url in MOCKS:
        if not settings.mock_vendors:
            raise _invalid("Is a mock vendor, and they are switched off: MOCK_VENDORS=true has them.")
        return
    try:
        check_url(url, not settings.production)
    except ValueError as error:
        raise _invalid(str(error)) from None


def _invalid(reason: str) -> Invalid:
    return Invalid(f"url: {reason}", fields=[("/url", reason)])
