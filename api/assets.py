"""Finds the files that travel with the code: beside it in a checkout, inside the package in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def asset(name: str) -> Path:
    """Return the absolute path of `static` or `gunicorn.conf.py`, wherever Walnut was installed."""
    inside = _PACKAGE / name
    return inside if inside.exists() else _PACKAGE.parent / name
