import dataclasses
import stat
import time

import pytest

from api import settings
from api.errors import SettingsError
from tests.conftest import ended, start_python

GOOD_SECRET = "0123456789abcdefghijklmnopqrstuvwxyz"
MANY = "9" * 30

NONSENSE = [
    ("APP_ENV", "staging"),
    ("PORT", "abc"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "3000.5"),
    ("WORKERS", "0"),
    ("WORKERS", "many"),
    ("DATABASE_URL", "walnut.db"),
    ("DATABASE_URL", "mysql://db/walnut"),
    ("DATABASE_URL", "sqlite://"),
    ("DATABASE_URL", "sqlite:///:memory:"),
    ("DATABASE_URL", "sqlite:///walnut.db?mode=ro"),
    ("DATABASE_URL", "postgresql+psycopg://db/walnut"),
    ("REDIS_URL", "localhost:6379"),
    ("REDIS_URL", "redis://localhost:many"),
    ("JWT_SECRET", "short"),
    ("JWT_SECRET", "a" * 64),
    ("JWT_SECRET", "secret" * 10),
    ("ENCRYPTION_KEY", "short"),
    ("ENCRYPTION_KEY", f"{GOOD_SECRET},"),
    ("ENCRYPTION_KEY", f"{GOOD_SECRET},{'a' * 64}"),
    ("ENCRYPTION_KEY", f"{GOOD_SECRET}\n{GOOD_SECRET}"),
    ("ACCESS_TOKEN_TTL", "0"),
    ("ACCESS_TOKEN_TTL", "15m"),
    ("ACCESS_TOKEN_TTL", MANY),
    ("REFRESH_TOKEN_TTL", "-1"),
    ("REFRESH_TOKEN_TTL", MANY),
    ("REGISTER_ADMIN", "always"),
    ("REQUIRE_CONFIRMED_EMAIL", "perhaps"),
    ("SMTP_URL", "mail.example.com"),
    ("SMTP_URL", "http://mail.example.com"),
    ("SMTP_URL", "smtp://"),
    ("SMTP_URL", "smtp://mail.example.com:many"),
    ("SMTP_URL", "smtp://mail.example.com:0"),
    ("SMTP_URL", "smtp://me@mail.example.com"),
    ("SMTP_URL", "smtp://:secret@mail.example.com"),
    ("SMTP_URL", "smtp://me:p/w@mail.example.com"),
    ("SMTP_URL", "smtp://me:secret@mail.example.com/outbox"),
    ("SMTP_URL", "smtp://me:secret@mail.example.com?tls=no"),
    ("SMTP_URL", "smtp://me:p%C3%A4@mail.example.com"),
    ("MAIL_FROM", "Walnut"),
    ("MAIL_FROM", "Walnut <walnut>"),
    ("MAIL_FROM", "a@example.com, b@example.com"),
    ("MAIL_FROM", "Wal\nnut <walnut@example.com>"),
    ("MAIL_FROM", "=?utf-8?q?a=0D=0AX:?= <walnut@example.com>"),
    ("PUBLIC_URL", "walnut.example.com"),
    ("RATE_LIMIT_DEFAULT", "plenty"),
    ("RATE_LIMIT_DEFAULT", "token-bucket 0 refill 10/s"),
    ("RATE_LIMIT_DEFAULT", "token-bucket 100 refill 0/s"),
    ("RATE_LIMIT_DEFAULT", "token-bucket 100 leak 1/s"),
    ("RATE_LIMIT_AUTH", "0 per 15 minutes"),
    ("RATE_LIMIT_AUTH", "100 per 0 minutes"),
    ("RATE_LIMIT_JOBS", "leaky-bucket 50 leak 5/m"),
    ("RATE_LIMIT_SKIP_IF_REDIS_DOWN", "maybe"),
    ("CACHE_TTL", "-5"),
    ("IDEMPOTENCY_TTL", "0"),
    ("MOCK_VENDORS", "2"),
    ("TRUSTED_PROXIES", "-1"),
    ("TRUSTED_PROXIES", "17"),
    ("CORS_ORIGINS", "*"),
    ("CORS_ORIGINS", "https://good.example.com,app.example.com"),
    ("CORS_ORIGINS", "https://app.example.com/"),
    ("CORS_ORIGINS", "null"),
    ("CORS_ORIGINS", "https://App.example.com"),
    ("CORS_ORIGINS", "https://app.example.com:443"),
    ("CORS_ORIGINS", "http://app.example.com:80"),
    ("CORS_ORIGINS", "https://me@app.example.com"),
    ("CORS_ORIGINS", "https://*.example.com"),
    ("CORS_ORIGINS", "https://app.example.com#x"),
    ("LOG_LEVEL", "loud"),
]


def refused(configure, **variables):
    with pytest.raises(SettingsError) as caught:
        configure(**variables)
    return str(caught.value)


def one_line_about(name, message):
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_nonsense_is_refused_with_one_line_that_names_the_variable(configure, name, value):
    one_line_about(name, refused(configure, **{name: value}))


def test_the_message_does_not_show_a_secret(configure):
    assert "hush" not in refused(configure, JWT_SECRET="hush")
    for url in (
        "smtp://me:hush@",
        "smtp://me:hush@a.de/x",
        "smtp://:hush@a.de",
        "smtp://me:hush@a.de:b",
        "smtp://me:hush/@b",
        "smtp://me:hush\u2100@b",
    ):
        assert "hush" not in refused(configure, SMTP_URL=url)


def test_without_variables_everything_has_the_default_it_documents(configure):
    given = configure(APP_ENV="development", INSTANCE_PATH="")
    for field in dataclasses.fields(given):
        if field.name not in ("instance_path", "database_url", "jwt_secret", "register_admin", "mock_vendors"):
            assert getattr(given, field.name) == field.metadata["default"], field.name
    assert given.instance_path.is_absolute()
    assert given.database.database == f"{given.instance_path}/walnut.db"
    assert (given.register_admin, given.mock_vendors) == ("first", True)


def test_an_empty_value_means_unset(configure):
    names = [field.name.upper() for field in dataclasses.fields(settings.Settings)]
    empty = configure(**dict.fromkeys(names, ""))
    assert (empty.app_env, empty.port, empty.redis_url, empty.cors_origins) == ("development", 3000, "", ())
    assert (empty.rate_limit_skip_if_redis_down, empty.log_level) == (None, "info")


def test_an_empty_file_variable_means_unset(configure):
    assert configure(PORT_FILE="", SMTP_URL_FILE="", JWT_SECRET_FILE="").port == 3000


def test_spaces_round_a_value_do_not_count(configure):
    given = configure(PORT=" 4000 ", CORS_ORIGINS="https://a.example.com, https://b.example.com")
    assert given.port == 4000
    assert list(given.cors_origins) == ["https://a.example.com", "https://b.example.com"]


@pytest.mark.parametrize(
    "limit",
    ["token-bucket 100 refill 10/s", "token-bucket 1 refill 0.5/s", "leaky-bucket 50 leak 5/s", "100 per 15 minutes",
     "5/minute", "1 per hour", "10 per 1 day"],
)  # fmt: skip
def test_every_notation_of_a_limit_is_taken(configure, limit):
    assert configure(RATE_LIMIT_DEFAULT=limit).rate_limit_default == limit


def test_production_is_strict(configure):
    given = configure(APP_ENV="production", JWT_SECRET=GOOD_SECRET)
    assert given.production
    assert (given.register_admin, given.mock_vendors) == ("never", False)


def test_production_needs_a_secret_of_its_own(configure, tmp_path):
    message = refused(configure, APP_ENV="production")
    one_line_about("JWT_SECRET", message)
    assert "JWT_SECRET_FILE" in message
    assert not (tmp_path / "instance" / "jwt_secret").exists()


def test_a_secret_has_32_bytes_not_32_characters(configure):
    assert "fewer than 32 bytes" in refused(configure, JWT_SECRET=GOOD_SECRET[:31])
    assert configure(JWT_SECRET=GOOD_SECRET[:32]).jwt_secret == GOOD_SECRET[:32]
    assert configure(JWT_SECRET="äöüßéèêàâç" + GOOD_SECRET[:12]).jwt_secret.startswith("ä")


def test_a_file_can_hold_a_value(configure, tmp_path):
    (tmp_path / "secret").write_text(f"{GOOD_SECRET}\n")
    assert configure(JWT_SECRET_FILE=str(tmp_path / "secret")).jwt_secret == GOOD_SECRET


def test_a_value_in_a_file_is_checked_too(configure, tmp_path):
    (tmp_path / "secret").write_text("short\n")
    assert refused(configure, JWT_SECRET_FILE=str(tmp_path / "secret")).startswith("JWT_SECRET")


def test_a_file_that_is_not_there_is_named(configure, tmp_path):
    message = refused(configure, JWT_SECRET_FILE=str(tmp_path / "nowhere"))
    assert "JWT_SECRET_FILE" in message
    assert "\n" not in message


def test_a_file_of_random_bytes_is_refused_by_name(configure, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(range(128, 256)))
    one_line_about("JWT_SECRET_FILE", refused(configure, JWT_SECRET_FILE=str(tmp_path / "secret")))


def test_dotenv_is_read_from_the_folder_of_the_start_and_the_environment_wins(configure, tmp_path):
    (tmp_path / ".env").write_text("PORT=4001\nLOG_LEVEL=error\n")
    given = configure(LOG_LEVEL="debug")
    assert (given.port, given.log_level) == (4001, "debug")


def test_an_empty_value_in_dotenv_means_unset(configure, tmp_path):
    (tmp_path / ".env").write_text("CACHE_TTL=\nREDIS_URL=\n")
    assert configure().cache_ttl == 60


def test_dotenv_of_a_folder_above_is_not_read(configure, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("PORT=4001\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert configure().port == 3000


def test_a_relative_instance_path_is_made_absolute(configure, tmp_path):
    assert configure(INSTANCE_PATH="here").instance_path == tmp_path / "here"


@pytest.mark.parametrize("name", ["with space", "100%", "a#b", "öl", "what?"])
def test_an_instance_path_may_have_any_name(make_app, tmp_path, name):
    app = make_app(INSTANCE_PATH=str(tmp_path / name))
    assert app.test_client().get("/health/ready").status_code == 200
    assert (tmp_path / name / "walnut.db").exists()


def test_the_development_secret_is_made_once_and_for_its_owner_only(configure, tmp_path):
    first = configure()
    kept = tmp_path / "instance" / "jwt_secret"
    assert len(first.jwt_secret) >= 64
    assert kept.read_text().strip() == first.jwt_secret == configure().jwt_secret
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [path.name for path in kept.parent.iterdir()] == ["jwt_secret"]


def test_an_instance_path_that_cannot_be_made_is_one_line(configure, tmp_path):
    (tmp_path / "file").write_text("")
    one_line_about("INSTANCE_PATH", refused(configure, INSTANCE_PATH=str(tmp_path / "file" / "instance")))


def test_a_kept_secret_that_was_damaged_is_refused(configure, tmp_path):
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "jwt_secret").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError):
        configure()


RACE = """
import sys, time
from pathlib import Path
from api.jwt_secret import kept
folder, start = Path(sys.argv[1]), float(sys.argv[2])
for number in range(30):
    time.sleep(max(0, start + number / 100 - time.time()))
    print(kept(folder / str(number)))
"""


def test_two_processes_that_make_the_secret_at_once_get_the_same_one(tmp_path):
    start = time.time() + 1
    both = [start_python(RACE, tmp_path, start) for _ in range(2)]
    one, other = [ended(process) for process in both]
    assert one == other
    assert len(set(one.split())) == 30


def test_the_folder_for_logs_is_made_for_its_owner_only_and_does_not_move_with_the_process(configure, tmp_path):
    assert configure(LOG_DIR="logs/deep").log_dir == str(tmp_path / "logs" / "deep")
    assert (tmp_path / "logs" / "deep").stat().st_mode & 0o777 == 0o700


def test_a_folder_for_logs_that_cannot_be_made_stops_the_start(configure, tmp_path):
    (tmp_path / "file").touch()
    one_line_about("LOG_DIR", refused(configure, LOG_DIR=str(tmp_path / "file" / "logs")))
