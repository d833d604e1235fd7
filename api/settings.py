"""Every setting: its name, type, default and one line of help. Nonsense stops the start with one clear line.

Values come from the environment, then from a file `.env` in the folder Walnut was started from. `NAME_FILE` names a
file that holds the value of `NAME`, for secrets. README.md's table says the same; a test compares the two.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from environs import EnvError, EnvValidationError, FileAwareEnv, validate
from sqlalchemy import URL, make_url

from api import jwt_secret, mail_addresses, smtp
from api import setting_rules as rules
from api.errors import SettingsError

SECRET_FILE = "jwt_secret"  # noqa: S105 (a name in INSTANCE_PATH)


def _setting(default: Any, explanation: str, *checks: Callable[[Any], Any], kind: str = "str") -> Any:
    return dataclasses.field(
        metadata={"default": default, "help": explanation, "rules": checks, "kind": kind},
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one process, checked. Times are in seconds."""

    app_env: str = _setting(
        "development", "development, production or testing", validate.OneOf(("development", "production", "testing"))
    )
    host: str = _setting("127.0.0.1", "address to listen on", validate.Length(min=1))
    port: int = _setting(3000, "port to listen on", validate.Range(1, 65535), kind="int")
    workers: int = _setting(min(os.cpu_count() or 1, 4), "Gunicorn worker processes", validate.Range(1, 64), kind="int")
    instance_path: Path = _setting(Path("instance"), "folder for all state", kind="path")
    database_url: str = _setting("", "SQLite file; unset: walnut.db in INSTANCE_PATH", rules.database)
    redis_url: str = _setting("", "shared cache and limits for replicas", rules.scheme("redis", "rediss", "unix"))
    jwt_secret: str = _setting("", "key that signs access tokens, 32 bytes or more")
    jwt_secret_former: str = _setting("", "the JWT_SECRET before this one: what it signed is still good")
    encryption_key: Sequence[str] = _setting(
        (),
        "keys that encrypt stored secrets, newest first; unset: one from JWT_SECRET",
        rules.encryption_keys,
        kind="list",
    )
    access_token_ttl: int = _setting(900, "seconds an access token is good for", rules.duration, kind="int")
    refresh_token_ttl: int = _setting(2592000, "seconds a sign-in lasts without being used", rules.duration, kind="int")
    refresh_token_grace: int = _setting(
        10, "seconds a spent refresh token still gives its successor; 0: never", validate.Range(0, 300), kind="int"
    )
    session_ttl: int = _setting(7776000, "seconds a sign-in lasts at most", rules.duration, kind="int")
    register_admin: str = _setting(
        "", "first: the first account may ask for role admin; never", validate.OneOf(("first", "never"))
    )
    require_confirmed_email: bool = _setting(False, "refuse login until the address is confirmed", kind="bool")
    require_admin_totp: bool = _setting(
        False, "an admin without a second factor may look after his own account and nothing else", kind="bool"
    )
    smtp_url: str = _setting("", "where mail goes; unset: INSTANCE_PATH/outbox", rules.readable(smtp.parse))
    mail_from: str = _setting("", "sender of mail", rules.readable(mail_addresses.mailbox))
    public_url: str = _setting("", "how people reach this server, for links in mail", rules.scheme("http", "https"))
    rate_limit_default: str = _setting(
        "token-bucket 100 refill 10/s", "per user, or per address when anonymous", rules.limit
    )
    rate_limit_auth: str = _setting("100 per 15 minutes", "sign-in routes, per address", rules.limit)
    rate_limit_jobs: str = _setting("leaky-bucket 50 leak 5/s", "POST /jobs, per user", rules.limit)
    rate_limit_skip_if_redis_down: bool | None = _setting(
        None, "true: allow; false: deny; unset: count on this host", kind="bool"
    )
    cache_ttl: int = _setting(60, "seconds a cached answer may live", rules.duration, kind="int")
    idempotency_ttl: int = _setting(86400, "seconds an Idempotency-Key is remembered", rules.duration, kind="int")
    worker_concurrency: int = _setting(
        50, "jobs that one worker carries out at once", validate.Range(1, 1000), kind="int"
    )
    job_retention: int = _setting(2592000, "seconds a job is kept after it has ended", rules.duration, kind="int")
    mock_vendors: bool | None = _setting(None, "serve two vendors to try the gateway with", kind="bool")
    trusted_proxies: int = _setting(0, "hops whose X-Forwarded-For counts", validate.Range(0, 16), kind="int")
    cors_origins: Sequence[str] = _setting((), "origins that may call from a browser", rules.origins, kind="list")
    log_level: str = _setting(
        "info", "debug, info, warning or error", validate.OneOf(("debug", "info", "warning", "error"))
    )
    log_dir: str = _setting("", "also write log files by date into this folder")

    @property
    def database(self) -> URL:
        """The database's address. A path may hold any character, which a text cannot always say."""
        if self.database_url:
            return make_url(self.database_url)
        return URL.create("sqlite", database=str(self.instance_path / "walnut.db"))

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """The keys that are good, the one that signs first."""
        return tuple(filter(None, (self.jwt_secret, self.jwt_secret_former)))

    @property
    def local_address(self) -> str:
        """How a program on this machine reaches the server: host:port."""
        return address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)  # noqa: S104

    @property
    def production(self) -> bool:
        """Whether this is the real thing, with nothing generated and nothing lenient."""
        return self.app_env == "production"


def address(host: str, port: int) -> str:
    """Return host:port as Gunicorn and URLs write it, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load(*, new: bool = True) -> Settings:
    """Read and check every setting. Raises SettingsError with one line that names the variable and the mend.

    Unless `new`, nothing is made: who only looks at a server in the wrong folder leaves nothing there.
    """
    env = FileAwareEnv(eager=False, strip_whitespace=True)
    env.read_env(Path.cwd() / ".env", recurse=False)
    try:
        values = {field.name: _read(env, field) for field in dataclasses.fields(Settings)}
        env.seal()
    except EnvValidationError as error:
        name, messages = next(iter(dict(error.error_messages).items()))  # type: ignore[arg-type]
        raise SettingsError(f"{name}: {messages[0]}") from None
    except (EnvError, ValueError) as error:
        raise SettingsError(str(error)) from None
    if not new:
        _refuse_without_instance(Settings(**values))
    return _completed(Settings(**values))


def _read(env: FileAwareEnv, field: "dataclasses.Field[Any]") -> Any:
    about = field.metadata
    name = field.name.upper()
    try:
        if not env.str(name, "").strip():
            return about["default"]  # `NAME=` in a compose file means: not set
    except ValueError as error:
        file = os.environ.get(f"{name}_FILE")
        raise SettingsError(f"{name}_FILE: cannot read text from {file} ({error.__cause__ or error}).") from None
    value = getattr(env, about["kind"])(name, about["default"], validate=list(about["rules"]))
    return [item.strip() for item in value] if isinstance(value, list) else value


def _refuse_without_instance(settings: Settings) -> None:
    folder = settings.instance_path.absolute()
    if not folder.is_dir():
        raise SettingsError(f"INSTANCE_PATH: there is no folder {folder}. `walnut serve` makes a new one.")
    if not settings.jwt_secret and not settings.production and not (folder / SECRET_FILE).exists():
        raise SettingsError(f"INSTANCE_PATH: {folder} has no server's state. `walnut serve` makes a new one.")


def _completed(settings: Settings) -> Settings:
    """Fill in what depends on other settings, and refuse what does not go together."""
    folder = _folder("INSTANCE_PATH", settings.instance_path)
    given: dict[str, Any] = {"instance_path": folder}
    if settings.log_dir:
        given["log_dir"] = str(_folder("LOG_DIR", Path(settings.log_dir)))
    if not settings.register_admin:
        given["register_admin"] = "never" if settings.production else "first"
    if settings.mock_vendors is None:
        given["mock_vendors"] = not settings.production
    given["jwt_secret"] = (
        jwt_secret.checked(settings.jwt_secret) if settings.jwt_secret else _development_secret(settings, folder)
    )
    if settings.jwt_secret_former:
        jwt_secret.checked(settings.jwt_secret_former, "JWT_SECRET_FORMER:")
    if settings.jwt_secret_former == given["jwt_secret"]:
        raise SettingsError("JWT_SECRET_FORMER: is JWT_SECRET itself. Give JWT_SECRET a new key, or leave this out.")
    return dataclasses.replace(settings, **given)


def _folder(name: str, given: Path) -> Path:
    """Make the folder that a setting names. Raises SettingsError if it cannot be written to."""
    path = given.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = "" if os.access(path, os.W_OK | os.X_OK) else "it is read-only"
    except OSError as error:
        reason = error.strerror or "unknown reason"
    if reason:
        raise SettingsError(f"{name}: cannot write to {path} ({reason}). Name a folder that this user may write to.")
    return path


def _development_secret(settings: Settings, folder: Path) -> str:
    if settings.production:
        raise SettingsError(
            "JWT_SECRET: is required in production. Make one with `openssl rand -base64 48`. "
            "JWT_SECRET_FILE may name a file that holds it."
        )
    return jwt_secret.kept(folder / SECRET_FILE)
