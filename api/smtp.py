"""Hands a mail to an SMTP server (RFC 5321): smtp://user:password@host:587 or smtps://host:465.

With smtp:// the connection is encrypted whenever the server offers that (STARTTLS), and a password goes over no other
one. Certificates are verified, by the system's authorities or those in SSL_CERT_FILE; only what listens on this very
machine may show one that it signed itself, or take a password without: nobody is in between.
"""

import ipaddress
import re
import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

CONNECT_SECONDS = 10.0  # for each address of the server, and for its greeting
ANSWER_SECONDS = 30.0  # for each answer; the whole has the time of its job
QUIT_SECONDS = 1.0  # the mail is the server's by then
EXAMPLE = "smtp://user:password@mail.example.com:587 or smtps://mail.example.com"
PORTS = {"smtp": 587, "smtps": 465}  # RFC 6409, RFC 8314
LEAVING = 421  # what it may say at any time
ENHANCED = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}(?!\S)")  # RFC 3463


@dataclass(frozen=True)
class Server:
    """Where mail goes."""

    host: str
    port: int
    tls: bool  # from the first byte on
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Rejected(Exception):
    """The server does not take this mail, now or later. The message names no address of a person."""


class Deferred(Exception):
    """The mail may go through later. `to_blame`: nothing goes through at the moment, it is not this mail."""

    def __init__(self, reason: str, *, to_blame: bool = True) -> None:
        super().__init__(reason)
        self.to_blame = to_blame


def parse(url: str) -> Server:
    """Return the server that a URL names. User and password are percent-encoded. Raises ValueError, without them."""
    try:
        parts = urlsplit(url)
        port = PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:  # its message may hold the password
        raise ValueError(f"is no address like {EXAMPLE}") from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme not in PORTS or not parts.hostname or not port:
        raise ValueError(f"is no address like {EXAMPLE}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("has something after the host. Percent-encode / ? and # in the password: %2F %3F %23")
    if bool(user) != bool(password):
        raise ValueError("names a user without a password, or a password without a user")
    if not re.fullmatch("[ -~]*", user + password):
        raise ValueError("has a user or a password with other characters than ASCII's, which SMTP cannot say")
    return Server(parts.hostname, port, parts.scheme == "smtps", user, password)


def hand_over(server: Server, sender: str, recipient: str, mail: bytes) -> None:
    """Give a mail to the server, which has it when this returns. Raises Rejected or Deferred.

    The addresses are those of the envelope; one that is not ASCII goes only to a server that knows RFC 6531.
    """
    try:
        client = _connected(server)
        try:
            _send(client, server, sender, recipient, mail)
        finally:
            client.close()
    except (smtplib.SMTPException, OSError) as error:
        raise _judged(server, error) from None


def _connected(server: Server) -> smtplib.SMTP:
    """Return a connection that is as safe as it has to be, signed in."""
    kind: Any = smtplib.SMTP_SSL if server.tls else smtplib.SMTP
    more = {"context": ssl.create_default_context()} if server.tls else {}
    # Its own name would be asked of the DNS each time.
    client: smtplib.SMTP = kind(server.host, server.port, "[127.0.0.1]", timeout=CONNECT_SECONDS, **more)
    try:
        _allow(client, ANSWER_SECONDS)
        client.ehlo_or_helo_if_needed()
        _encrypt(client, server)
        if server.user:
            client.login(server.user, server.password)
    except BaseException:
        client.close()
        raise
    return client


def _encrypt(client: smtplib.SMTP, server: Server) -> None:
    local = _is_this_machine(client)
    if server.tls:
        return
    if client.has_extn("starttls"):
        client.starttls(context=_unverified() if local else ssl.create_default_context())
        client.ehlo()
    elif server.user and not local:
        raise Deferred(f"{server} offers no encryption (STARTTLS), so it does not get the password.")


def _is_this_machine(client: smtplib.SMTP) -> bool:
    """Tell whether the other end is on this very machine."""
    connection: Any = client.sock
    return ipaddress.ip_address(connection.getpeername()[0].partition("%")[0]).is_loopback


def _allow(client: smtplib.SMTP, seconds: float) -> None:
    if client.sock:
        client.sock.settimeout(seconds)


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _send(client: smtplib.SMTP, server: Server, sender: str, recipient: str, mail: bytes) -> None:
    options = []
    if not (sender + recipient).isascii():
        if not client.has_extn("smtputf8"):
            raise Rejected(f"{server} takes no addresses with other characters than ASCII's (it lacks SMTPUTF8).")
        options = ["SMTPUTF8", "BODY=8BITMIME"]
    client.sendmail(sender, [recipient], mail, options)
    with suppress(smtplib.SMTPException, OSError):
        _allow(client, QUIT_SECONDS)
        client.quit()


def _judged(server: Server, error: Exception) -> Rejected | Deferred:
    """Say what an error means. The server's own words are left out: they often hold the address."""
    match error:
        case smtplib.SMTPRecipientsRefused(recipients=refused):
            (answer,) = refused.values()
            return _refused(server, "the recipient", *answer)
        case smtplib.SMTPDataError() | smtplib.SMTPSenderRefused(smtp_code=552):  # too large, as announced
            return _refused(server, "the mail", error.smtp_code, error.smtp_error)
        case smtplib.SMTPSenderRefused(smtp_code=code, smtp_error=text):
            return Deferred(f"{server} refused the sender, MAIL_FROM ({_code(code, text)}).")
        case smtplib.SMTPAuthenticationError(smtp_code=code, smtp_error=text):
            return Deferred(f"{server} refused the user or the password of SMTP_URL ({_code(code, text)}).")
        case smtplib.SMTPNotSupportedError():
            return Deferred(f"{server} takes no password on this connection, and SMTP_URL has one.")
        case smtplib.SMTPResponseException(smtp_code=code, smtp_error=text):
            return Deferred(f"{server} takes no mail at the moment ({_code(code, text)}).")
        case smtplib.SMTPServerDisconnected():
            return Deferred(f"{server} ended the connection, or gave no answer in time.")
        case ssl.SSLCertVerificationError(verify_message=reason):
            return Deferred(f"The certificate of {server} cannot be verified ({reason}).")
        case ssl.SSLError(reason=reason):
            return Deferred(f"{server} speaks no TLS that is safe ({reason}).")
        case OSError():
            return Deferred(f"{server} cannot be reached ({error.strerror or error}).")
    return Deferred(f"{server} does not speak as SMTP servers do ({type(error).__name__}).")


def _refused(server: Server, what: str, code: int, text: bytes | str) -> Rejected | Deferred:
    if code >= 500:
        return Rejected(f"{server} refused {what} ({_code(code, text)}).")
    return Deferred(f"{server} refused {what} for now ({_code(code, text)}).", to_blame=code == LEAVING)


def _code(code: int, text: bytes | str) -> str:
    """Return the numbers of an answer, like 550 5.1.1."""
    found = ENHANCED.match(text if isinstance(text, bytes) else text.encode())
    return f"{code} {found[0].decode()}" if found else str(code)
