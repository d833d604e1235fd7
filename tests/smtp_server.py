"""A real SMTP server (aiosmtpd) for tests, which takes what it is given and answers as it is told."""

import asyncio
import datetime
import ipaddress
import ssl
import threading
import warnings
from collections.abc import Coroutine
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OK = "250 OK"


class SmtpServer:
    """A server on a free port of loopback. `answers` are what it says to MAIL, RCPT or DATA, one after the other.

    `tls` makes it speak TLS from the first byte on; more options are those of aiosmtpd's SMTP.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, password: bool = False, **options: Any) -> None:
        self.answers: dict[str, list[str]] = {}
        self.taken: list[Envelope] = []
        self.sessions: list[Session] = []
        self.hang = 0.0  # seconds before it answers DATA
        self.begun = 0  # mails
        self.port = 0
        self._tls = tls
        self._options: dict[str, Any] = {"enable_SMTPUTF8": False, "hostname": "test"} | options
        if password:
            self._options |= {"authenticator": self._signed_in, "auth_required": True}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_raised: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self) -> None:
        def speaker() -> SMTP:
            with warnings.catch_warnings(action="ignore"):  # it warns of passwords in the clear
                return SMTP(self, loop=self._loop, **self._options)

        self._server = await self._loop.create_server(speaker, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _signed_in(
        self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, login: LoginPassword
    ) -> AuthResult:
        return AuthResult(success=(login.login, login.password) == (b"walnut", b"p@ss/w:rd"), handled=False)

    def _says(self, command: str) -> str:
        left = self.answers.get(command, [])
        return left.pop(0) if left else OK

    async def handle_MAIL(
        self, _s: Any, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.begun += 1
        if (answer := self._says("MAIL")) == OK:
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return answer

    async def handle_RCPT(
        self, _s: Any, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if (answer := self._says("RCPT")) == OK:
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: Any, session: Session, envelope: Envelope) -> str:
        if self.hang:
            self.taken.append(envelope)
            await asyncio.sleep(self.hang)
            return "451 4.3.0 Too late"
        if (answer := self._says("DATA")) == OK:
            self.taken.append(envelope)
            self.sessions.append(session)
        return answer

    def mails(self) -> list[EmailMessage]:
        """Return what was taken, parsed."""
        return [message_from_bytes(envelope.content, policy=default) for envelope in self.taken]  # type: ignore


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return what a server shows that signed itself, for localhost and 127.0.0.1, and the file to trust it by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "certificate.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted
