"""Where a call goes, read from a URL. Stricter than RFC 3986: what two programs might read differently is refused.

One reader for the check and for the call, so that nothing is checked as one host and called as another.
"""

import re
from ipaddress import ip_address
from typing import NamedTuple

from api.outgoing.addresses import allowed

MAX_URL = 2048  # bytes
PORTS = {"http": 80, "https": 443}
UNSAFE = re.compile(r"[^!-~]")  # space, control, not ASCII
PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)([^#\\]*)(.*)")
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:\[\]]*)(?::([0-9]*))?")
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a name that ends so is an IPv4 address to inet_aton and to browsers
PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(\?[A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]-]*)?")


class Target(NamedTuple):
    """What a URL says, in lower case where case does not matter."""

    scheme: str
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with the query: what stands in the request line
    literal: bool  # whether the host is an address


def check_url(url: str, private: bool) -> None:
    """Raise ValueError, with a sentence for who registers a server, if `post` would never call this URL.

    `private` is as in `post`. What a name resolves to may change, and is looked at when it is called.
    """
    target = read(url)
    local = target.host == "localhost" or target.host.endswith(".localhost")  # RFC 6761
    if not private and (local or (target.literal and not allowed(target.host, private=False))):
        raise ValueError(f"{target.host} is no address of the public Internet. Others are called in development only.")
    if target.literal and not allowed(target.host, private=private):
        raise ValueError(f"{target.host} is an address that is never called. Name a server of the vendor's own.")


def read(url: str) -> Target:
    """Return what a URL says. Raises ValueError with a sentence for people."""
    if len(url) > MAX_URL:
        raise ValueError(f"The URL is longer than {MAX_URL} characters.")
    if found := UNSAFE.search(url):
        raise ValueError(f"The URL contains {found[0]!a}. Percent-encode it, or write a host's name as xn--...")
    parts = PARTS.fullmatch(url)
    if parts is None or parts[1].lower() not in PORTS:
        raise ValueError("The URL must begin with https:// or http://.")
    scheme, authority, path, rest = parts.groups()
    if rest:
        raise ValueError("The URL must not have a fragment (#...) or a backslash.")
    if not PATH.fullmatch(path):
        raise ValueError("The path or query of the URL has a character that must be percent-encoded.")
    host, port, literal = _authority(authority, PORTS[scheme.lower()])
    return Target(scheme.lower(), host, port, path if path.startswith("/") else f"/{path}", literal)


def _authority(text: str, default: int) -> tuple[str, int, bool]:
    """Return the host and the port that are written between the slashes, and whether the host is an address."""
    if "@" in text:
        raise ValueError("The URL must not have a user or a password in it (before the @).")
    found = AUTHORITY.fullmatch(text)
    if found is None or not found[1]:
        raise ValueError("The URL has no host that can be called.")
    port = default if found[2] is None else int(found[2][:6] or 0)
    if not 0 < port < 65536:
        raise ValueError("The port of the URL must be a number from 1 to 65535.")
    host = found[1].lower()
    return host.strip("[]"), port, _is_address(host)


def _is_address(host: str) -> bool:
    """Tell addresses from names. Raises ValueError for what is neither, or an address to some programs only."""
    labels = host.split(".")
    bracketed = host.startswith("[")
    if not bracketed and not NUMBER.fullmatch(labels[-1]):
        if len(host) > 253 or not all(LABEL.fullmatch(label) for label in labels):
            raise ValueError("The URL's host is no valid name: letters, digits and hyphens between single dots.")
        return False
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        address = None
    if address is None or (address.version == 6) != bracketed:
        raise ValueError("The URL's host is no valid address. Write 192.0.2.1 or [2001:db8::1].")
    return True
