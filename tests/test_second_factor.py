"""The second factor: codes of an app, each good once, recovery codes, and nothing of it where it could be read."""

import base64
import dataclasses
import hmac
import json
import re
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pytest
import segno
from click.testing import CliRunner
from flask.cli import ScriptInfo

from api import create_app, db
from api.auth import authenticator, passwords
from api.cli import walnut
from api.rates import SECOND
from api.secret_box import SecretBox, secret_box
from api.web import IN_PERSON
from tests.conftest import PASSWORD, Caller, assert_problem, ended, execute, rows, sign_in, sign_up, start_python
from tests.test_limits import set_clock

STEP = 30_000  # milliseconds
ROUTES = [
    ("POST", "/auth/totp"),
    ("PUT", "/auth/totp"),
    ("DELETE", "/auth/totp"),
    ("POST", "/auth/totp/recovery-codes"),
]
RECOVERY_CODE = re.compile(r"([A-Z2-7]{4}-){3}[A-Z2-7]{4}")


def shown(secret, at):
    """Return what an app shows: RFC 6238 once more, written from the RFC. `at` is in milliseconds."""
    digest = hmac.digest(base64.b32decode(secret), struct.pack(">Q", at // STEP), "sha1")
    (number,) = struct.unpack(">I", digest[digest[-1] & 15 :][:4])
    return f"{(number & 0x7FFFFFFF) % 10**6:06}"


class Clock:
    """The clock of all that is stored: it stands still until it is told."""

    def __init__(self):
        self.now = int(time.time() * 1000) // STEP * STEP + STEP // 2

    def __call__(self):
        return self.now

    def pass_by(self, steps=1):
        self.now += steps * STEP


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(db, "now", clock)
    return clock


class Device:
    """An account with a second factor: its session, the app on a phone, and the recovery codes on paper."""

    def __init__(self, app, caller, clock, name="alice"):
        self.app, self.caller, self.clock, self.name = app, caller, clock, name
        begun = caller("POST", "/auth/totp", {"password": PASSWORD})
        assert begun.status_code == 201, begun.text
        self.secret = begun.json["secret"]
        enabled = caller("PUT", "/auth/totp", {"code": self.code()})
        assert enabled.status_code == 200, enabled.text
        self.recovery_codes = enabled.json["recovery_codes"]
        clock.pass_by()  # the code that enabled it is used up

    def code(self, steps=0):
        return shown(self.secret, self.clock.now + steps * STEP)

    def wrong(self):
        """Return six digits that are the code of no step near."""
        near = {self.code(steps) for steps in range(-3, 4)}
        return next(code for code in (f"{number:06}" for number in range(10)) if code not in near)

    def log_in(self, code=None, password=PASSWORD, address="192.0.2.1", app=None):
        body = {"email": f"{self.name}@example.com", "password": password}
        body |= {} if code is None else {"code": code}
        origin = {"REMOTE_ADDR": address}
        return Caller(app or self.app).send("POST", "/auth/login", json=body, environ_overrides=origin)


@pytest.fixture
def alice(app, user, clock):
    return Device(app, user, clock)


def mails(app):
    """Return the mails that were asked for, the oldest first."""
    found = rows(app, "SELECT payload FROM jobs WHERE kind = 'mail' ORDER BY seq")
    with app.app_context():
        return [json.loads(secret_box().open(json.loads(payload)["sealed"])) for (payload,) in found]


def actions(app):
    return [action for (action,) in rows(app, "SELECT action FROM audit_entries ORDER BY seq")]


def kept(app, columns="totp_secret, totp_enabled_at, totp_step", name="alice"):
    ((found),) = rows(app, f"SELECT {columns} FROM users WHERE username = ?", name)
    return found


def at_once(count, work):
    """Return what `work` gives in so many threads that begin together."""
    ready = threading.Barrier(count)

    def one(number):
        ready.wait(10)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


# ---- the codes

# RFC 6238, appendix B, SHA-1: seconds, and the code in 8 digits. Of 6 digits it is the last six (RFC 4226, 5.3).
VECTORS = [
    (59, "94287082"), (1111111109, "07081804"), (1111111111, "14050471"), (1234567890, "89005924"),
    (2000000000, "69279037"), (20000000000, "65353130"),
]  # fmt: skip
SEED = b"12345678901234567890"


@pytest.mark.parametrize(("seconds", "code"), VECTORS)
def test_the_codes_are_those_of_the_rfc(seconds, code):
    assert authenticator.newest_step(SEED, code[2:], seconds * 1000) == seconds // 30
    assert shown(base64.b32encode(SEED), seconds * 1000) == code[2:]
    other = f"{(int(code[2:]) + 1) % 10**6:06}"
    assert authenticator.newest_step(SEED, other, seconds * 1000) is None


def test_a_code_is_good_for_one_step_either_way():
    step = 2000000000 // 30
    for seconds, found in ((-31, None), (-30, step), (0, step), (59, step), (60, None)):
        assert authenticator.newest_step(SEED, "279037", (step * 30 + seconds) * 1000) == found, seconds


def test_of_two_steps_with_the_same_code_the_newer_one_counts():
    """Otherwise the same digits would be good a second time."""
    older, newer = 153567, 153569  # the first such steps of this secret
    (code,) = {shown(base64.b32encode(SEED), step * STEP) for step in (older, newer)}
    assert authenticator.newest_step(SEED, code, (older + 1) * STEP) == newer


@pytest.mark.parametrize("typed", ["123456", "123 456", " 12 34 56 ", "000000"])
def test_digits_are_taken_as_people_write_them(typed):
    assert authenticator.digits(typed) == typed.replace(" ", "")


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "12345",
        "1234567",
        "12345a",
        "-12345",
        "+12345",
        "1e2345",
        "0x1234",
        "123456\n",
        "123\t456",
        "123-456",
        "\u0661\u0662\u0663\u0664\u0665\u0666",
        "\uff11\uff12\uff13\uff14\uff15\uff16",
        "\u0967\u0968\u0969\u096a\u096b\u096c",
        "12345²",
        "123\u00a0456",
        "\u2460\u2461\u2462\u2463\u2464\u2465",
    ],
)
def test_what_is_no_code_is_none(lasting_app, lasting_admin, typed):
    assert authenticator.digits(typed) is None
    body = {"email": "root@example.com", "password": PASSWORD, "code": typed}
    assert_problem(Caller(lasting_app)("POST", "/auth/login", body), 422, "invalid", "/code")


# ---- setting it up


def test_an_app_is_told_a_secret_in_three_ways(app, user):
    begun = user("POST", "/auth/totp", {"password": PASSWORD})
    assert begun.status_code == 201
    assert begun.headers["Cache-Control"] == "no-store"
    assert set(begun.json) == {"secret", "uri", "qr"}
    secret, uri = begun.json["secret"], begun.json["uri"]
    assert len(base64.b32decode(secret)) == 20
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc, unquote(parts.path)) == ("otpauth", "totp", "/Walnut:alice@example.com")
    assert parse_qs(parts.query) == {
        "secret": [secret], "issuer": ["Walnut"], "algorithm": ["SHA1"], "digits": ["6"], "period": ["30"],
    }  # fmt: skip
    assert begun.json["qr"] == segno.make(uri, error="l", micro=False).svg_data_uri(scale=4, dark="#000", light="#fff")
    drawn = ElementTree.fromstring(unquote(begun.json["qr"].partition(",")[2]))
    assert {part.tag.partition("}")[2] for part in drawn.iter()} == {"svg", "g", "path"}
    again = user("POST", "/auth/totp", {"password": PASSWORD})
    assert again.json["secret"] != secret


@pytest.mark.parametrize("local", ["a" * 240, "a/b?c#d&e=f", '"a b"'], ids=["long", "marks", "quoted"])
def test_any_address_fits_into_a_qr_code(local):
    found = authenticator.described(SEED, f"{local}@{'例' * 60}.{'子' * 60}.example")
    assert parse_qs(urlsplit(found["uri"]).query)["secret"] == [found["secret"]]
    assert urlsplit(found["uri"]).path.startswith("/Walnut:")
    assert not urlsplit(found["uri"]).fragment


def test_begun_is_not_enabled(app, user, clock):
    user("POST", "/auth/totp", {"password": PASSWORD})
    assert user("GET", "/users/me").json["totp_enabled_at"] is None
    assert sign_in(app, "alice")("GET", "/users/me").status_code == 200
    assert mails(app) == []


def test_to_begin_takes_the_password(app, user):
    before = kept(app)
    refused = user("POST", "/auth/totp", {"password": "another one"})
    assert_problem(refused, 403, "forbidden", "/password")
    assert_problem(user("POST", "/auth/totp", {}), 422, "invalid", "/password")
    assert_problem(user("POST", "/auth/totp", {"password": "x" * 73}), 422, "invalid", "/password")
    assert kept(app) == before == (None, None, 0)


def test_wrong_passwords_slow_down_as_at_a_sign_in(app, user, monkeypatch):
    set_clock(app, monkeypatch)
    found = [user("POST", "/auth/totp", {"password": "another one"}).status_code for _ in range(6)]
    assert found == [403] * 5 + [429]
    assert_problem(user("POST", "/auth/totp", {"password": PASSWORD}), 429, "rate_limited")


def test_a_right_password_is_forgiven_the_wrong_ones(app, user, monkeypatch):
    set_clock(app, monkeypatch)
    for _ in range(4):
        user("POST", "/auth/totp", {"password": "another one"})
    assert user("POST", "/auth/totp", {"password": PASSWORD}).status_code == 201
    assert user("POST", "/auth/totp", {"password": "another one"}).status_code == 403
    assert user("POST", "/auth/totp", {"password": PASSWORD}).status_code == 201


def test_a_password_changed_between_check_and_begin_is_noticed(app, user, monkeypatch):
    real = passwords.matches

    def slow(*given):
        found = real(*given)
        execute(app, "UPDATE users SET password_hash = 'another' WHERE username = 'alice'")
        return found

    monkeypatch.setattr(passwords, "matches", slow)
    assert_problem(user("POST", "/auth/totp", {"password": PASSWORD}), 403, "forbidden", "/password")
    assert kept(app)[0] is None


def test_a_code_enables_it_and_gives_recovery_codes(app, user, clock):
    other = sign_in(app, "alice")
    version = user("GET", "/users/me").json["version"]
    secret = user("POST", "/auth/totp", {"password": PASSWORD}).json["secret"]
    enabled = user("PUT", "/auth/totp", {"code": shown(secret, clock.now)})
    assert enabled.status_code == 200
    assert enabled.headers["Cache-Control"] == "no-store"
    codes = enabled.json["recovery_codes"]
    assert len(set(codes)) == 10
    assert all(RECOVERY_CODE.fullmatch(code) for code in codes)
    me = user("GET", "/users/me").json
    assert me["totp_enabled_at"]
    assert me["version"] == version + 1
    assert_problem(other("GET", "/users/me"), 401, "unauthenticated")
    assert actions(app)[-3:] == ["user.totp_started", "session.ended", "user.totp_enabled"]
    (mail,) = mails(app)
    assert mail["to"] == "alice@example.com"
    assert "second factor" in mail["subject"]
    assert "If that was not you" in mail["text"]


def test_the_code_that_enabled_it_signs_nobody_in(app, user, clock):
    secret = user("POST", "/auth/totp", {"password": PASSWORD}).json["secret"]
    code = shown(secret, clock.now)
    assert user("PUT", "/auth/totp", {"code": code}).status_code == 200
    body = {"email": "alice@example.com", "password": PASSWORD, "code": code}
    assert_problem(Caller(app)("POST", "/auth/login", body), 401, "unauthenticated", "/code")


def test_what_was_begun_before_is_forgotten(app, user, clock):
    first, second = (user("POST", "/auth/totp", {"password": PASSWORD}).json["secret"] for _ in range(2))
    assert_problem(user("PUT", "/auth/totp", {"code": shown(first, clock.now)}), 403, "forbidden", "/code")
    assert kept(app)[1] is None
    assert user("PUT", "/auth/totp", {"code": shown(second, clock.now)}).status_code == 200


def test_codes_to_enable_it_cannot_be_guessed_at_length(app, user, clock, monkeypatch):
    """A stolen session must not put its own codes on an account that somebody is setting up."""
    set_clock(app, monkeypatch)
    secret = user("POST", "/auth/totp", {"password": PASSWORD}).json["secret"]
    wrong = f"{(int(shown(secret, clock.now)) + 1) % 10**6:06}"
    found = [user("PUT", "/auth/totp", {"code": wrong}).status_code for _ in range(6)]
    assert found == [403] * 5 + [429]


def test_each_step_has_its_time(app, user, clock):
    code = {"code": "123456"}
    off = {"password": PASSWORD} | code
    assert "POST /auth/totp" in assert_problem(user("PUT", "/auth/totp", code), 409, "conflict")["detail"]
    assert_problem(user("DELETE", "/auth/totp", off), 409, "conflict")
    assert_problem(user("POST", "/auth/totp/recovery-codes", code), 409, "conflict")
    device = Device(app, user, clock)
    before = kept(app)
    assert_problem(user("POST", "/auth/totp", {"password": PASSWORD}), 409, "conflict")
    assert_problem(user("PUT", "/auth/totp", {"code": device.code()}), 409, "conflict")
    assert kept(app) == before


def test_two_who_enable_it_at_once_are_one(app, user, clock):
    secret = user("POST", "/auth/totp", {"password": PASSWORD}).json["secret"]
    body = {"code": shown(secret, clock.now)}
    answers = at_once(6, lambda _: Caller(app, user.token)("PUT", "/auth/totp", body))
    # The others come too late: it is enabled, or the code was used up before they looked.
    assert sorted(answer.status_code for answer in answers)[0] == 200
    assert {answer.status_code for answer in answers} <= {200, 403, 409}
    assert [answer.status_code for answer in answers].count(200) == 1
    assert rows(app, "SELECT count(*) FROM recovery_codes") == [(10,)]


# ---- signing in


def test_a_sign_in_takes_a_code(app, alice):
    refused = alice.log_in()
    problem = assert_problem(refused, 401, "second_factor_required")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="walnut"'
    assert "`code`" in problem["detail"]
    assert "recovery code" in problem["detail"]
    wrong = alice.log_in(alice.wrong())
    assert_problem(wrong, 401, "unauthenticated", "/code")
    assert wrong.headers["WWW-Authenticate"] == 'Bearer realm="walnut"'
    code = alice.code()
    answer = alice.log_in(f"{code[:3]} {code[3:]}")
    assert answer.status_code == 200
    assert Caller(app, answer.json["access_token"])("GET", "/users/me").json["username"] == "alice"


def test_null_is_no_code(app, alice):
    body = {"email": "alice@example.com", "password": PASSWORD, "code": None}
    assert_problem(Caller(app)("POST", "/auth/login", body), 401, "second_factor_required")


def test_a_refused_sign_in_opens_no_session(app, alice):
    before = rows(app, "SELECT count(*) FROM sessions")
    alice.log_in()
    alice.log_in(alice.wrong())
    assert rows(app, "SELECT count(*) FROM sessions") == before


def test_a_code_works_once(alice):
    code = alice.code()
    assert alice.log_in(code).status_code == 200
    assert_problem(alice.log_in(code), 401, "unauthenticated", "/code")
    alice.clock.pass_by()
    assert_problem(alice.log_in(code), 401, "unauthenticated", "/code")
    assert alice.log_in(alice.code()).status_code == 200


def test_a_code_of_the_step_before_works_once_and_an_older_one_never(alice):
    alice.clock.pass_by(2)
    assert_problem(alice.log_in(alice.code(-2)), 401, "unauthenticated", "/code")
    assert alice.log_in(alice.code(-1)).status_code == 200
    assert_problem(alice.log_in(alice.code(-1)), 401, "unauthenticated", "/code")
    assert alice.log_in(alice.code()).status_code == 200


def test_a_code_of_the_step_ahead_works_and_leaves_none_before_it(alice):
    assert_problem(alice.log_in(alice.code(2)), 401, "unauthenticated", "/code")
    assert alice.log_in(alice.code(1)).status_code == 200
    for code in (alice.code(), alice.code(1)):
        assert_problem(alice.log_in(code), 401, "unauthenticated", "/code")
    alice.clock.pass_by()
    assert_problem(alice.log_in(alice.code()), 401, "unauthenticated", "/code")
    assert alice.log_in(alice.code(1)).status_code == 200


def test_a_clock_that_is_set_lets_no_code_work_twice(alice):
    code = alice.code()
    assert alice.log_in(code).status_code == 200
    alice.clock.pass_by(-10)
    for again in (code, alice.code(), alice.code(1)):  # older than the last one that was used
        assert_problem(alice.log_in(again), 401, "unauthenticated", "/code")
    assert alice.log_in(alice.recovery_codes[0]).status_code == 200
    alice.clock.pass_by(11)
    assert alice.log_in(alice.code()).status_code == 200
    alice.clock.pass_by(2 * 60 * 24 * 365)
    assert alice.log_in(alice.code()).status_code == 200


def test_of_many_sign_ins_with_one_code_at_once_one_succeeds(app, alice):
    code = alice.code()
    answers = at_once(8, lambda number: alice.log_in(code, address=f"192.0.2.{number}"))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    assert rows(app, "SELECT count(*) FROM sessions WHERE ended_at IS NULL") == [(3,)]  # root's, alice's, and this one


ELSEWHERE = """
import sys, threading, time
from pathlib import Path
from api import create_app, db
moment, go, *codes = sys.argv[1:]
db.now = lambda: int(moment)
app = create_app()
app.test_client().get("/health/live")
print("ready", flush=True)
deadline = time.monotonic() + 20
while not Path(go).exists() and time.monotonic() < deadline:
    time.sleep(0.0005)
def log_in(code):
    body = {"email": "alice@example.com", "password": "correct horse", "code": code}
    answer = app.test_client().post("/api/v1/auth/login", json=body)
    sys.stdout.write(f"{len(code)}:{answer.status_code}\\n")
threads = [threading.Thread(target=log_in, args=[code]) for code in codes for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
app.extensions["database"].close()
"""


def test_of_sign_ins_in_several_processes_one_succeeds(alice, tmp_path):
    """With one code of the app, and with one recovery code."""
    go = tmp_path / "go"
    processes = [start_python(ELSEWHERE, alice.clock.now, go, alice.code(), alice.recovery_codes[0]) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=5)
    go.touch()
    found = " ".join(ended(process) for process in processes).split()
    assert sorted(found) == ["19:200", *["19:401"] * 3, "6:200", *["6:401"] * 3]


def test_a_code_used_between_check_and_sign_in_is_noticed(app, alice, monkeypatch):
    """Looked at before the transaction, used up inside it."""
    code = alice.code()
    real = authenticator.newest_step
    calls = []

    def slow(*given):
        found = real(*given)
        calls.append(found)
        if len(calls) == 1:
            execute(app, "UPDATE users SET totp_step = ? WHERE username = 'alice'", found)
        return found

    monkeypatch.setattr(authenticator, "newest_step", slow)
    assert_problem(alice.log_in(code), 401, "unauthenticated", "/code")
    assert len(calls) == 2


def test_a_second_factor_enabled_between_check_and_sign_in_is_noticed(app, user, clock, monkeypatch):
    real = passwords.matches

    def slow(*given):
        found = real(*given)
        monkeypatch.setattr(passwords, "matches", real)
        Device(app, user, clock)
        return found

    monkeypatch.setattr(passwords, "matches", slow)
    body = {"email": "alice@example.com", "password": PASSWORD}
    assert_problem(Caller(app)("POST", "/auth/login", body), 401, "second_factor_required")


def without_its_id(answer):
    return {name: value for name, value in answer.json.items() if name != "request_id"}


def test_before_the_password_is_right_nobody_learns_of_a_second_factor(app, alice, anyone):
    sign_up(app, "plain")
    answers = [
        anyone("POST", "/auth/login", {"email": f"{name}@example.com", "password": "wrong password"} | code)
        for name in ("alice", "plain", "nobody")
        for code in ({}, {"code": alice.code()})
    ]
    for answer in answers:
        assert_problem(answer, 401, "unauthenticated")
        assert without_its_id(answer) == without_its_id(answers[0])
    assert alice.log_in(alice.code()).status_code == 200  # and none of them used it up


def test_a_closed_account_says_nothing_of_its_second_factor(app, alice):
    execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'")
    for code in (None, alice.code(), alice.wrong()):
        assert "code" not in assert_problem(alice.log_in(code), 401, "unauthenticated")["detail"]


def test_an_account_without_a_second_factor_ignores_a_code(app, user):
    body = {"email": "alice@example.com", "password": PASSWORD, "code": "123456"}
    assert Caller(app)("POST", "/auth/login", body).status_code == 200


def test_another_password_does_not_switch_it_off(app, alice):
    with app.app_context():
        new = passwords.hash_password("another password")
    execute(app, "UPDATE users SET password_hash = ? WHERE username = 'alice'", new)
    assert_problem(alice.log_in(password="another password"), 401, "second_factor_required")
    assert alice.log_in(alice.code(), password="another password").status_code == 200


# ---- recovery codes


def test_a_recovery_code_works_once_and_its_owner_is_told(app, alice):
    first, second = alice.recovery_codes[:2]
    before = len(mails(app))
    assert alice.log_in(first).status_code == 200
    assert actions(app)[-2:] == ["user.recovery_code_used", "session.opened"]
    assert_problem(alice.log_in(first), 401, "unauthenticated", "/code")
    assert alice.log_in(second).status_code == 200
    used = mails(app)[before:]
    assert [mail["subject"] for mail in used] == ["A recovery code was used"] * 2
    assert "9 of 10 are left" in used[0]["text"]
    assert "8 of 10 are left" in used[1]["text"]
    ((change,), _) = rows(app, "SELECT change FROM audit_entries WHERE action = 'user.recovery_code_used'")
    assert json.loads(change)["after"] == {"left": 9}


WAYS = {
    "lower case": str.lower,
    "no hyphens": lambda code: code.replace("-", ""),
    "spaces": lambda code: code.replace("-", " "),
    "space around": lambda code: f" {code} ",
}


@pytest.mark.parametrize("typed", WAYS.values(), ids=WAYS)
def test_a_recovery_code_may_be_typed_in_any_way(alice, typed):
    assert alice.log_in(typed(alice.recovery_codes[3])).status_code == 200


@pytest.mark.parametrize("typed", ["ABCD-EFGH-IJKL-MNOP", "aaaa aaaa aaaa aaaa"])
def test_what_is_no_recovery_code_of_ones_own_is_refused(alice, typed):
    assert_problem(alice.log_in(typed), 401, "unauthenticated", "/code")


NO_CODES = (
    *("ABCD-EFGH-IJKL-MNO", "ABCD-EFGH-IJKL-MNOPQ", "ABCD-EFGH-IJKL-MN0P", "ABCDEFGHIJKLMNO\u017f", "x" * 65),
    "ABCD\u2013EFGH\u2013IJKL\u2013MNOP",
)


@pytest.mark.parametrize("typed", NO_CODES)
def test_what_can_be_no_recovery_code_is_said_to_be_none(lasting_app, lasting_admin, typed):
    body = {"email": "root@example.com", "password": PASSWORD, "code": typed}
    assert_problem(Caller(lasting_app)("POST", "/auth/login", body), 422, "invalid", "/code")


def test_a_recovery_code_is_ones_own(app, admin, alice):
    root = Device(app, admin, alice.clock, "root")
    assert_problem(alice.log_in(root.recovery_codes[0]), 401, "unauthenticated", "/code")
    assert root.log_in(root.recovery_codes[0]).status_code == 200


def test_of_many_sign_ins_with_one_recovery_code_at_once_one_succeeds(app, alice):
    code = alice.recovery_codes[0]
    answers = at_once(5, lambda number: alice.log_in(code, address=f"192.0.2.{number}"))  # a sixth may be too many
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 4
    assert rows(app, "SELECT count(*) FROM recovery_codes") == [(9,)]


def test_new_recovery_codes_end_the_old_ones(app, user, alice):
    code = alice.code()
    made = user("POST", "/auth/totp/recovery-codes", {"code": code})
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    new = made.json["recovery_codes"]
    assert len(set(new) | set(alice.recovery_codes)) == 20
    assert actions(app)[-1] == "user.recovery_codes_replaced"
    assert "recovery codes" in mails(app)[-1]["subject"]
    for old in alice.recovery_codes[:2]:
        assert_problem(alice.log_in(old), 401, "unauthenticated", "/code")
    assert alice.log_in(new[0]).status_code == 200
    assert_problem(user("POST", "/auth/totp/recovery-codes", {"code": code}), 403, "forbidden", "/code")


def test_new_recovery_codes_take_the_device_and_no_old_one(user, alice):
    body = {"code": alice.recovery_codes[0]}
    assert_problem(user("POST", "/auth/totp/recovery-codes", body), 422, "invalid", "/code")
    assert_problem(user("POST", "/auth/totp/recovery-codes", {"code": alice.wrong()}), 403, "forbidden", "/code")


# ---- switching it off


@pytest.mark.parametrize("kind", ["digits", "recovery code"])
def test_it_is_switched_off_with_password_and_code(app, user, alice, kind):
    code = alice.code() if kind == "digits" else alice.recovery_codes[0]
    answer = user("DELETE", "/auth/totp", {"password": PASSWORD, "code": code})
    assert (answer.status_code, answer.data) == (204, b"")
    assert kept(app) == (None, None, 0)
    assert rows(app, "SELECT count(*) FROM recovery_codes") == [(0,)]
    assert actions(app)[-1] == "user.totp_removed"
    assert "no second factor any more" in mails(app)[-1]["subject"]
    assert user("GET", "/users/me").json["totp_enabled_at"] is None
    assert alice.log_in().status_code == 200


def test_it_stays_without_either(app, user, alice):
    before = kept(app)
    for body, pointer in (
        ({"password": PASSWORD, "code": alice.wrong()}, "/code"),
        ({"password": PASSWORD, "code": "ABCD-EFGH-IJKL-MNOP"}, "/code"),
        ({"password": "another one", "code": alice.code()}, "/password"),
    ):
        assert_problem(user("DELETE", "/auth/totp", body), 403, "forbidden", pointer)
    for body, pointer in (({"password": PASSWORD}, "/code"), ({"code": alice.code()}, "/password")):
        assert_problem(user("DELETE", "/auth/totp", body), 422, "invalid", pointer)
    assert kept(app) == before


def test_it_can_be_set_up_again_in_the_same_step(app, user, alice):
    """With another secret: the step of the last code says nothing of its codes."""
    assert user("DELETE", "/auth/totp", {"password": PASSWORD, "code": alice.code()}).status_code == 204
    again = Device(app, user, alice.clock)
    assert_problem(alice.log_in(alice.code()), 401, "unauthenticated", "/code")
    assert_problem(alice.log_in(alice.recovery_codes[0]), 401, "unauthenticated", "/code")
    assert again.log_in(again.code()).status_code == 200


def test_an_admin_keeps_it_where_the_setting_says_so(make_app, clock):
    app = make_app(REQUIRE_ADMIN_TOTP="true")
    clients = {}
    for name, role in (("root", "admin"), ("alice", "user")):
        clients[name] = Device(app, sign_up(app, name, role=role), clock, name)
    root, alice = clients["root"], clients["alice"]
    refused = root.caller("DELETE", "/auth/totp", {"password": PASSWORD, "code": root.code()})
    assert "remove-totp" in assert_problem(refused, 409, "conflict")["detail"]
    assert kept(app, name="root")[1]
    assert root.log_in(root.code()).status_code == 200  # which was not used up
    assert alice.caller("DELETE", "/auth/totp", {"password": PASSWORD, "code": alice.code()}).status_code == 204


# ---- guessing


def test_wrong_codes_slow_down_whoever_sends_them(app, alice, monkeypatch):
    set_clock(app, monkeypatch)
    found = [alice.log_in(alice.wrong()).status_code for _ in range(6)]
    assert found == [401] * 5 + [429]
    assert_problem(alice.log_in(alice.code()), 429, "rate_limited")


def test_they_slow_down_from_everywhere_once_the_password_is_known(app, alice, monkeypatch):
    counts = set_clock(app, monkeypatch)
    alice.caller("GET", "/users/me")
    waits, tried = [], 0
    for number in range(24):
        answer = alice.log_in(alice.wrong(), address=f"198.51.{number}.1")
        if answer.status_code == 429:
            assert answer.json["violated-policies"] == ["second-factor"]
            assert "password" in answer.json["detail"]
            waits.append(int(answer.headers["Retry-After"]))
            counts.now += waits[-1] * SECOND
        else:
            tried += 1
            assert answer.status_code == 401
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert tried < 16
    # A stranger who does not know the password keeps nobody out, and is told nothing of it.
    assert alice.log_in(alice.wrong(), password="wrong password", address="203.0.113.1").status_code == 401


def test_a_guesser_waits_an_hour_at_last(app, alice, monkeypatch):
    counts = set_clock(app, monkeypatch)
    waits = []
    for number in range(40):
        answer = alice.log_in(alice.wrong(), address=f"198.51.{number}.1")
        if answer.status_code == 429:
            waits.append(int(answer.headers["Retry-After"]))
            counts.now += waits[-1] * SECOND
    assert waits[-3:] == [3600] * 3


def test_the_password_alone_forgives_nothing(app, alice, monkeypatch):
    set_clock(app, monkeypatch)
    for _ in range(3):
        alice.log_in(alice.wrong())
        alice.log_in()
    assert alice.log_in(alice.wrong()).status_code == 429
    found = [alice.log_in(alice.wrong(), address=f"198.51.{number}.1").status_code for number in range(3)]
    assert found == [401, 401, 429]


def test_a_right_code_forgives_the_wrong_ones(app, alice, monkeypatch):
    set_clock(app, monkeypatch)
    for right in (alice.code(), alice.recovery_codes[0]):
        for number in range(4):
            assert alice.log_in(alice.wrong(), address=f"198.51.{number}.1").status_code == 401
        assert alice.log_in(right).status_code == 200
    assert alice.log_in(alice.wrong()).status_code == 401


def test_a_code_that_was_used_forgives_nothing(app, alice, monkeypatch):
    set_clock(app, monkeypatch)
    code = alice.code()
    assert alice.log_in(code).status_code == 200
    found = [alice.log_in(code, address=f"198.51.{number}.1").status_code for number in range(6)]
    assert found == [401] * 5 + [429]


def test_another_password_begins_no_new_count(app, alice, monkeypatch):
    """Or whoever can set one, by a session or the mailbox, would guess five more each time."""
    set_clock(app, monkeypatch)
    for number in range(6):
        alice.log_in(alice.wrong(), address=f"198.51.{number}.1")
    assert alice.log_in(alice.code(), address="203.0.113.1").status_code == 429
    with app.app_context():
        new = passwords.hash_password("another password")
    execute(app, "UPDATE users SET password_hash = ? WHERE username = 'alice'", new)
    assert alice.log_in(alice.code(), "another password", address="203.0.113.1").status_code == 429


def test_who_guesses_with_many_threads_gets_no_more_guesses(app, alice, monkeypatch):
    set_clock(app, monkeypatch)
    answers = at_once(12, lambda number: alice.log_in(alice.wrong(), address=f"198.51.{number}.1"))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


def test_the_other_routes_count_with_them(app, user, alice, monkeypatch):
    set_clock(app, monkeypatch)
    for number in range(3):
        alice.log_in(alice.wrong(), address=f"198.51.{number}.1")
    wrong = {"code": alice.wrong()}
    assert user("DELETE", "/auth/totp", wrong | {"password": PASSWORD}).status_code == 403
    assert user("POST", "/auth/totp/recovery-codes", wrong).status_code == 403
    assert_problem(user("POST", "/auth/totp/recovery-codes", wrong), 429, "rate_limited")
    assert alice.log_in(alice.code()).status_code == 429


def test_its_owner_is_told_of_wrong_codes_once_for_a_series(app, alice, monkeypatch):
    counts = set_clock(app, monkeypatch)
    before = len(mails(app))
    for number in range(4):
        alice.log_in(alice.wrong(), address=f"198.51.{number}.1")
    assert len(mails(app)) == before
    for number in range(12):
        counts.now += 3600 * SECOND
        alice.log_in(alice.wrong(), address=f"198.51.{number}.2")
    (mail,) = mails(app)[before:]
    assert (mail["to"], mail["subject"]) == ("alice@example.com", "Wrong codes for your account")
    assert actions(app).count("user.codes_refused") == 1
    counts.now += 3600 * SECOND
    assert alice.log_in(alice.code()).status_code == 200
    for number in range(5):
        alice.log_in(alice.wrong(), address=f"198.51.{number}.3")
    assert len(mails(app)) == before + 2


# ---- where it is kept


def traces(secret, codes):
    """Return what would betray a secret or a recovery code, as bytes."""
    texts = [secret, secret.lower(), *codes, *(code.replace("-", "") for code in codes)]
    return [text.encode() for text in texts] + [base64.b32decode(secret), base64.b64encode(base64.b32decode(secret))]


def test_the_database_files_hold_neither_secret_nor_codes(app, user, alice):
    alice.log_in(alice.code())
    alice.log_in(alice.recovery_codes[0])
    new = user("POST", "/auth/totp/recovery-codes", {"code": alice.code(1)}).json["recovery_codes"]
    path = Path(app.extensions["settings"].database.database)
    assert rows(app, "SELECT count(*) FROM recovery_codes") == [(10,)]
    files = [file for file in path.parent.iterdir() if file.is_file() and file.name.startswith(path.name)]
    live = b"".join(file.read_bytes() for file in files)  # the server is done: nobody's lock is lost by it
    assert b"alice@example.com" in live  # so this looks where data is
    assert not [trace for trace in traces(alice.secret, [*alice.recovery_codes, *new]) if trace in live]


def test_what_is_kept_of_a_secret_opens_with_the_key_alone(app, alice):
    (sealed, _, _) = kept(app)
    with app.app_context():
        assert secret_box().open(sealed) == alice.secret


@pytest.fixture
def run(app):
    def invoke(*words):
        return CliRunner().invoke(walnut, words, obj=ScriptInfo(create_app=lambda: app))

    return invoke


@pytest.mark.parametrize("group", ["secrets", "vendors"])
def test_secrets_move_to_a_new_key_or_stay(app, alice, run, group):
    chosen = dataclasses.replace(app.extensions["settings"], encryption_key=["a key of thirty-two bytes or more"])
    app.extensions["secret_box"] = SecretBox(chosen)
    before = kept(app)[0], rows(app, "SELECT secrets FROM vendors ORDER BY name")
    execute(app, "UPDATE users SET totp_secret = 'lost' WHERE username = 'alice'")
    failed = run(group, "rekey")
    assert (failed.exit_code, failed.output.count("\n")) == (1, 1)
    assert rows(app, "SELECT secrets FROM vendors ORDER BY name") == before[1]
    execute(app, "UPDATE users SET totp_secret = ? WHERE username = 'alice'", before[0])
    done = run(group, "rekey")
    assert done.output == "The secrets of 2 vendors and 1 second factors are encrypted under the newest key now.\n"
    app.extensions["secret_box"] = SecretBox(dataclasses.replace(chosen, jwt_secret="another " * 8))
    assert alice.log_in(alice.code()).status_code == 200


def test_without_the_key_a_sign_in_says_what_to_mend_and_recovery_codes_work(app, user, alice):
    foreign = dataclasses.replace(app.extensions["settings"], jwt_secret="another " * 8)
    app.extensions["secret_box"] = SecretBox(foreign)
    answer = alice.log_in(alice.code())
    problem = assert_problem(answer, 503, "unavailable")
    assert "ENCRYPTION_KEY" in problem["detail"]
    assert "walnut secrets rekey" in problem["detail"]
    assert alice.secret not in answer.text
    off = {"password": PASSWORD, "code": alice.code()}
    assert_problem(user("DELETE", "/auth/totp", off), 503, "unavailable")
    code = alice.recovery_codes[0]
    assert_problem(alice.log_in(code[:-1] + ("3" if code.endswith("2") else "2")), 401, "unauthenticated", "/code")
    assert alice.log_in(code).status_code == 200


def test_nothing_secret_is_in_log_audit_answers_kept_or_counts(app, user, clock, caplog):
    caplog.set_level("DEBUG")
    user.send("POST", "/auth/totp", {"Idempotency-Key": "one"}, json={"password": PASSWORD})
    device = Device(app, user, clock)
    codes = [*device.recovery_codes, device.code(), device.wrong()]
    device.log_in(device.code())
    device.log_in(device.recovery_codes[0])
    device.log_in(codes[-1])
    (counts,) = [str(list(storage._counts)) for storage in app.extensions["limits"]._strategy.storage._host]
    device.clock.pass_by()
    user("DELETE", "/auth/totp", {"password": PASSWORD, "code": device.code()})
    audit = json.dumps(rows(app, "SELECT action, subject_id, change FROM audit_entries"))
    said = [value for record in caplog.records for value in record.__dict__.values() if isinstance(value, str)]
    logged = "\n".join([*said, *(record.getMessage() for record in caplog.records)])
    assert "user.totp_enabled" in audit
    assert "/auth/totp" in logged
    assert "second-factor" in counts
    for text in (audit, logged, counts, "\n".join(mail["text"] for mail in mails(app))):
        assert not [trace for trace in traces(device.secret, codes[:10]) if trace.decode("latin-1") in text]
        assert not [code for code in codes[10:] if re.search(rf"(?<!\d){code}(?!\d)", text)]
        assert PASSWORD not in text
    assert rows(app, "SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_recovery_codes_go_with_their_account(app, alice):
    execute(app, "DELETE FROM users WHERE username = 'alice'")
    assert rows(app, "SELECT count(*) FROM recovery_codes") == [(0,)]


# ---- who may


def test_it_is_ones_own_business_in_person(lasting_app, lasting_admin):
    found = {
        (method, rule.rule.removeprefix("/api/v1")): lasting_app.view_functions[rule.endpoint].contract
        for rule in lasting_app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/v1/auth/totp")
    }
    assert set(found) == set(ROUTES)
    assert {contract.allow for contract in found.values()} == {IN_PERSON}
    for method, path in ROUTES:
        assert_problem(Caller(lasting_app)(method, path, {}), 401, "unauthenticated")


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("field", ["id", "user_id", "role", "secret", "totp_enabled_at", "totp_step", "recovery_codes"])
def test_no_other_field_is_taken(lasting_admin, method, path, field):
    body = {"password": PASSWORD, "code": "123456", field: "x"}
    assert f"/{field}" in [error["pointer"] for error in lasting_admin(method, path, body).json["errors"]]


def test_a_code_is_text(lasting_app, lasting_admin):
    for code in (123456, ["123456"], {"a": 1}, True):
        body = {"email": "root@example.com", "password": PASSWORD, "code": code}
        assert_problem(Caller(lasting_app)("POST", "/auth/login", body), 422, "invalid", "/code")
        assert_problem(lasting_admin("PUT", "/auth/totp", {"code": code}), 422, "invalid", "/code")


# ---- for who has lost everything


@pytest.mark.parametrize("who", ["email", "id"])
def test_an_operator_takes_it_off(app, user, alice, run, who):
    found = run("user", "remove-totp", "ALICE@example.com" if who == "email" else user.id)
    assert found.exit_code == 0, found.output
    assert found.output.startswith("alice signs in without a second factor now")
    assert kept(app) == (None, None, 0)
    assert rows(app, "SELECT count(*) FROM recovery_codes") == [(0,)]
    assert actions(app)[-1] == "user.totp_removed"
    assert "Whoever runs this server" in mails(app)[-1]["text"]
    assert alice.log_in().status_code == 200


@pytest.mark.parametrize(
    ("who", "fault"), [("nobody@example.com", "There is no account"), ("root@example.com", "root has no second factor")]
)
def test_what_cannot_be_taken_off_is_one_line(app, user, run, who, fault):
    found = run("user", "remove-totp", who)
    assert (found.exit_code, found.output.count("\n")) == (1, 1)
    assert found.output.startswith(f"Error: {fault}")


def test_two_servers_on_one_database_know_of_each_others_codes(app, alice):
    other = create_app(app.extensions["settings"])
    try:
        code = alice.code()
        assert alice.log_in(code, app=other).status_code == 200
        assert_problem(alice.log_in(code), 401, "unauthenticated", "/code")
    finally:
        other.extensions["database"].close()
