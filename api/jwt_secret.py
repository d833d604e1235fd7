"""The key that signs tokens: checked when it is given, otherwise, outside production, made once and kept in a file."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from api.errors import SettingsError

BYTES = 32  # RFC 7518, 3.2: an HS256 key is at least as long as its hash


def checked(secret: str, which: str = "JWT_SECRET:") -> str:
    """Return a secret that is long enough and no word. Raises SettingsError, about `which`."""
    if len(secret.encode()) < BYTES:
        raise SettingsError(f"{which} has fewer than {BYTES} bytes. Make one with `openssl rand -base64 48`.")
    if len(set(secret)) < 10:
        raise SettingsError(f"{which} is too easy to guess. Make one with `openssl rand -base64 48`.")
    return secret


def kept(path: Path) -> str:
    """Return the secret kept in `path` (mode 0600), made the first time. Raises SettingsError if it cannot be read."""
    try:
        if not path.exists():
            _make_once(path)
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"JWT_SECRET: others may read or write {path}. Delete it, or `chmod 600` it.")
        return checked(path.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"JWT_SECRET: cannot read {path} ({error}). Mend that file, or delete it.") from None


def _make_once(path: Path) -> None:
    """Two replicas may start at once: a link appears whole, and only for the first."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # mode 0600, and a name nobody can foresee
        draft.write(secrets.token_urlsafe(48) + "\n")
        draft.flush()
        with suppress(FileExistsError):
            os.link(draft.name, path)
