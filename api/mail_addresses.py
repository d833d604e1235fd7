"""What may stand in the head of a mail: addresses with or without a name, and texts of one line.

Python's own parser decodes what looks like an encoded word (RFC 2047), also when a line break comes out of it, and 3.11
writes that break into the mail as the end of a header (CVE-2024-6923). So nothing that looks like one gets there.
"""

import re
import unicodedata
from typing import NamedTuple

LONGEST = 254  # characters of an address (RFC 5321, section 4.5.3.1.3)
ENCODED = "=?"  # how an encoded word begins
_ATOM = r"[\w!#$%&'*+/=?^`{|}~.-]+"  # RFC 5321 and, for all other scripts, RFC 6531; dots are looked at below
_QUOTED = r'"(?:[^"\\]|\\.)*"'
ADDRESS = re.compile(rf"(?P<local>{_ATOM}|{_QUOTED})@(?P<domain>[\w.-]+|\[[0-9A-Za-z:.-]+\])")
NAMED = re.compile(r'(?P<name>"(?:[^"\\]|\\.)*"|[^"<>]*)\s*<(?P<address>[^<>]*)>')


class Mailbox(NamedTuple):
    """An address, and whose it is."""

    address: str
    name: str = ""

    def __str__(self) -> str:
        escaped = re.sub(r'(["\\])', r"\\\1", self.name)
        return f'"{escaped}" <{self.address}>' if self.name else self.address


def address(text: str) -> str:
    """Return the text if it is one mail address. Raises ValueError with what is wrong with it."""
    line(text)
    found = ADDRESS.fullmatch(text)
    parts = (
        [*found["domain"].split("."), *([] if found["local"][0] == '"' else found["local"].split("."))] if found else []
    )
    if not found or not all(parts) or len(text) > LONGEST:
        raise ValueError("is no mail address like john@example.com")
    return text


def mailbox(text: str) -> Mailbox:
    """Return the address and the name of `Name <address>`, or of an address alone. Raises ValueError, as `address`."""
    found = NAMED.fullmatch(text.strip())
    if not found:
        return Mailbox(address(text.strip()))
    name = found["name"].strip()
    if name[:1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return Mailbox(address(found["address"].strip()), line(name))


def line(text: str) -> str:
    """Return the text if it can be a line of a mail's head. Raises ValueError with what is wrong with it."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("must not have line breaks or control characters in it")
    if ENCODED in text:
        raise ValueError(f"must not have {ENCODED} in it")
    return text
