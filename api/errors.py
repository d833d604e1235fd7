"""What can go wrong, in the words of the domain. Knows nothing of HTTP."""

from typing import Any


class SettingsError(Exception):
    """A setting makes no sense. The message is one line for the person who starts Walnut."""


class Refusal(Exception):
    """A request that was understood and will not be carried out.

    `detail` is one sentence for a person: what is wrong and what to do next.
    `fields` are pairs of a place in the request ("/title") and what is wrong with it.
    `retry_after` is in seconds, where trying again later may help.
    """

    code = "refused"

    def __init__(
        self, detail: str, *, fields: list[tuple[str, str]] | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields or []
        self.retry_after = retry_after


class Malformed(Refusal):
    """The bytes cannot be read: not JSON, not UTF-8, too deep."""

    code = "malformed"


class Invalid(Refusal):
    """The bytes can be read, and a field is wrong."""

    code = "invalid"


class Unauthenticated(Refusal):
    """Nobody is signed in, or no longer. `reason` is an OAuth error code (RFC 6750); `scheme` says how to prove it."""

    code = "unauthenticated"

    def __init__(self, detail: str, *, reason: str = "", scheme: str = "Bearer", **more: Any) -> None:
        super().__init__(detail, **more)
        self.reason = reason
        self.scheme = scheme


class SecondFactorRequired(Unauthenticated):
    """The password is right, and is not enough: this account has a second factor."""

    code = "second_factor_required"


class KeyReused(Refusal):
    """The Idempotency-Key of another request."""

    code = "idempotency_key_reused"


class Forbidden(Refusal):
    """Somebody is signed in, and may not do this."""

    code = "forbidden"


class SecondFactorNeeded(Forbidden):
    """Somebody is signed in who may do this once his account has a second factor."""

    code = "second_factor_needed"


class EmailNotConfirmed(Forbidden):
    """The password is right, and nobody has shown yet that the address is his."""

    code = "email_not_confirmed"


class NotFound(Refusal):
    """There is no such thing, or not for this caller."""

    code = "not_found"


class Conflict(Refusal):
    """It clashes with what is already there."""

    code = "conflict"


class PreconditionFailed(Refusal):
    """The thing has changed since the caller last saw it."""

    code = "precondition_failed"


class NotAcceptable(Refusal):
    """There is nothing in a form that the caller would take."""

    code = "not_acceptable"


class TimedOut(Refusal):
    """The client took too long to say what it wants."""

    code = "timeout"


class TooLarge(Refusal):
    """More bytes than a request may have."""

    code = "too_large"


class UnsupportedMediaType(Refusal):
    """A body of a kind that is not read here."""

    code = "unsupported_media_type"


class TooManyRequests(Refusal):
    """More requests than `policy`, the name of a limit, lets through."""

    code = "rate_limited"

    def __init__(self, detail: str, *, policy: str = "default", **more: Any) -> None:
        super().__init__(detail, **more)
        self.policy = policy


class Unavailable(Refusal):
    """Not now: something below is busy, full or broken. Nothing was changed."""

    code = "unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1, **more: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **more)
