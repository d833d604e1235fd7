"""Why a call brought no answer, for people and for who decides whether to call again."""

import ssl
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import Literal

from urllib3.exceptions import HeaderParsingError, HTTPError, InvalidChunkLength, ProtocolError, ReadTimeoutError
from urllib3.exceptions import SSLError as WrappedTlsError
from urllib3.util.ssl_match_hostname import CertificateError

Reason = Literal["timeout", "connection", "tls", "address", "too_large", "malformed"]
CAUSES = (OSError, HTTPException, HTTPError, ValueError)  # what a server's bytes, or their absence, can raise


class CallFailed(Exception):
    """There is no answer, or none that can be used. Whether the server has acted on the call is not known.

    The message is a sentence for anybody: it names no address. `detail` is for the log.
    `reason` is "timeout" (the time was up), "connection" (not reached, or cut off), "tls" (no trusted certificate for
    the name), "address" (a URL or an address that is not called: nothing was sent), "too_large" or "malformed" (no
    HTTP, or none that was asked for).
    """

    def __init__(self, reason: Reason, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.detail = detail


def timed_out(seconds: float) -> CallFailed:
    """Return what to raise when a call's whole time is up."""
    return CallFailed("timeout", f"The server did not answer within {seconds:g} s.")


def failure(error: Exception) -> CallFailed:
    """Return what an error below means."""
    cause = error.args[-1] if isinstance(error, ProtocolError) and error.args else error
    detail = f"{type(cause).__name__}: {cause}"[:500]
    if isinstance(cause, ssl.SSLCertVerificationError | CertificateError):
        why = getattr(cause, "verify_message", "").partition(",")[0] or "it is for another name"
        return CallFailed("tls", f"The server's certificate is not accepted: {why}.", detail)
    if isinstance(cause, ssl.SSLError | WrappedTlsError):
        return CallFailed("tls", "No secure connection could be made: is it really HTTPS there?", detail)
    if isinstance(cause, TimeoutError | ReadTimeoutError):
        return CallFailed("timeout", "The server did not answer in time.", detail)
    if isinstance(cause, RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return CallFailed("connection", "The server closed the connection before it answered.", detail)
    if isinstance(cause, InvalidChunkLength | HeaderParsingError | ValueError) or _is_garbage(cause):
        return CallFailed("malformed", "What the server answered is not HTTP as it should be.", detail)
    if isinstance(cause, OSError):
        why = cause.strerror or "no connection"
        return CallFailed("connection", f"The server could not be reached: {why}.", detail)
    return CallFailed("connection", "The server's answer was cut off.", detail)


def _is_garbage(cause: object) -> bool:
    return isinstance(cause, HTTPException) and not isinstance(cause, IncompleteRead)
