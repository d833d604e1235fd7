"""Certificates for tests: an authority of our own, and what it signs."""

import datetime
import ipaddress
import itertools
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)
_numbers = itertools.count()


class Authority:
    """Signs certificates for names and addresses. Trust its certificate with SSL_CERT_FILE."""

    def __init__(self) -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {next(_numbers)}")])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def certificate_in(self, folder: str) -> str:
        """Return the path of its own certificate."""
        return _written(folder, self._certificate.public_bytes(serialization.Encoding.PEM))

    def pair_in(self, folder: str, *hosts: str) -> str:
        """Return the path of a new private key and its certificate for these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = (
            self._builder(x509.Name([]), key.public_key())
            .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _written(folder, private + signed.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        return builder.not_valid_before(now - DAY).not_valid_after(now + DAY)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _written(folder: str, content: bytes) -> str:
    path = Path(folder) / f"{next(_numbers)}.pem"
    path.write_bytes(content)
    return str(path)
