"""Access tokens: everything that is not exactly one of ours is refused; and the key can be changed."""

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import flask_jwt_extended.tokens
import jwt
import pytest

from api import audit_trail, create_app, db
from api.audit.verify import verify
from api.auth import links
from api.secret_box import secret_box
from api.web import access_tokens
from tests.conftest import SECRET, Caller, assert_problem, rows, sign_in, sign_up

ONE = SECRET["JWT_SECRET"]  # under which the audit trail of a new database begins
TWO = "another key: 0123456789 abcdefghijklmnopqrstuvwxyz"


def encoded(part):
    data = part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":"), sort_keys=True).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def forged(header, claims, key, digest="sha256"):
    """Return a token of any shape, with a signature that is right."""
    said = f"{encoded(header)}.{encoded(claims)}"
    return f"{said}.{encoded(hmac.digest(key.encode(), said.encode(), digest))}"


def parts(token):
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


class Forger:
    """Somebody who even knows the key: what he makes must be refused for its form alone."""

    def __init__(self, app, admin):
        self.app = app
        self.token = admin.token
        self.header, self.claims = parts(admin.token)
        self.key = app.extensions["settings"].jwt_secret

    def token_with(self, **changes):
        return forged(self.header, self.claims | changes, self.key)

    def header_with(self, **changes):
        return forged(self.header | changes, self.claims, self.key)

    def is_let_in(self, token):
        answer = Caller(self.app, token)("GET", "/users/me")
        if answer.status_code != 200:
            assert_problem(answer, 401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="walnut", error="invalid_token"')
        return answer.status_code == 200


@pytest.fixture
def forger(lasting_app, lasting_admin):
    forger = Forger(lasting_app, lasting_admin)
    assert forged(forger.header, forger.claims, forger.key).split(".")[0] == forger.token.split(".")[0]
    assert forger.is_let_in(forger.token_with())  # so that what is refused below is refused for its fault
    return forger


@pytest.fixture
def start(make_app, configure):
    """Return a function that starts the server with some keys; each time on the same database."""
    started = []

    def again(**keys):
        given = {"JWT_SECRET_FORMER": ""} | keys
        started.append(create_app(configure(**given)) if started else make_app(**given))
        return started[-1]

    yield again
    for app in started[1:]:  # make_app ends the first
        app.extensions["database"].close()


def test_a_token_says_exactly_this(forger):
    assert set(forger.claims) == {"iss", "aud", "sub", "sid", "jti", "iat", "exp", "type", "fresh"}
    assert set(forger.header) == {"alg", "typ", "kid"}
    assert (forger.header["alg"], forger.header["typ"]) == ("HS256", "JWT")
    assert forger.claims["exp"] - forger.claims["iat"] == 900


# ---- forgeries: the header

HEADERS = {
    "no algorithm": {"alg": "none"},
    "NONE": {"alg": "NONE"},
    "empty algorithm": {"alg": ""},
    "algorithm null": {"alg": None},
    "algorithm list": {"alg": ["HS256"]},
    "HS384 by name": {"alg": "HS384"},
    "HS512 by name": {"alg": "HS512"},
    "RS256, the secret as public key": {"alg": "RS256"},
    "ES256": {"alg": "ES256"},
    "lower case": {"alg": "hs256"},
    "crit": {"crit": ["exp"]},
    "crit that is unknown": {"crit": ["urn:x"], "urn:x": True},
    "crit that is empty": {"crit": []},
    "unencoded payload": {"b64": False, "crit": ["b64"]},
    "b64 true": {"b64": True},
    "own key": {"jwk": {"kty": "oct", "k": "AAAA"}},
    "key elsewhere": {"jku": "https://evil.example/keys"},
    "certificate elsewhere": {"x5u": "https://evil.example/cert"},
    "certificate": {"x5c": ["AAAA"]},
    "thumbprint": {"x5t": "AAAA"},
    "content type": {"cty": "JWT"},
    "compressed": {"zip": "DEF"},
    "at+jwt": {"typ": "at+jwt"},
    "lower case type": {"typ": "jwt"},
    "no type": {"typ": None},
    "kid empty": {"kid": ""},
    "kid null": {"kid": None},
    "kid list": {"kid": []},
    "kid object": {"kid": {"x": 1}},
    "kid number": {"kid": 0},
    "kid of a file": {"kid": "../../../../dev/null"},
    "kid of SQL": {"kid": "' OR 1=1 --"},
    "kid of no key": {"kid": "0123456789abcdef"},
    "kid in capitals": {"kid": "FROM THE TEST"},
    "a claim in the header": {"sub": "x"},
}


@pytest.mark.parametrize("changes", HEADERS.values(), ids=HEADERS.keys())
def test_another_header_is_refused(forger, changes):
    if changes.get("kid") == "FROM THE TEST":
        changes = {"kid": forger.header["kid"].upper()}
    assert not forger.is_let_in(forger.header_with(**changes))


@pytest.mark.parametrize("name", ["alg", "typ", "kid"])
def test_a_header_without_a_part_is_refused(forger, name):
    header = {key: value for key, value in forger.header.items() if key != name}
    assert not forger.is_let_in(forged(header, forger.claims, forger.key))


@pytest.mark.parametrize("digest", ["sha384", "sha512", "sha1", "md5"])
def test_another_digest_is_refused_whatever_the_header_says(forger, digest):
    for algorithm in ("HS256", "HS384", "HS512"):
        token = forged(forger.header | {"alg": algorithm}, forger.claims, forger.key, digest)
        assert not forger.is_let_in(token)


def test_the_signature_of_a_public_key_is_refused(forger):
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415

    keys = {"RS256": rsa.generate_private_key(65537, 2048), "PS256": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1())}  # fmt: skip
    for algorithm, key in keys.items():
        assert not forger.is_let_in(jwt.encode(forger.claims, key, algorithm, {"kid": forger.header["kid"]}))


@pytest.mark.parametrize("header", [b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 5000, b'{"a":' * 3000, b"1e999"])
def test_a_header_that_is_no_object_is_refused(forger, header):
    assert not forger.is_let_in(forged(header, forger.claims, forger.key))


# ---- forgeries: the claims


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "sid", "jti", "iat", "exp", "type", "fresh"])
def test_a_claim_that_is_missing_is_missed(forger, name):
    claims = {key: value for key, value in forger.claims.items() if key != name}
    assert not forger.is_let_in(forged(forger.header, claims, forger.key))


@pytest.mark.parametrize("name", ["role", "admin", "scope", "nbf", "csrf", "user_claims", "x", "", "client_id", "amr"])
def test_a_claim_too_many_is_refused(forger, name):
    assert not forger.is_let_in(forger.token_with(**{name: int(time.time()) - 10}))


WRONG = ("", "x", None, 0, -1, 1.5, True, False, [], ["walnut"], {}, {"x": 1}, "\ud800", "\x00", 2**70, "9" * 400)


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "sid", "jti", "iat", "exp", "type", "fresh"])
def test_a_claim_of_another_kind_is_refused(forger, name):
    for value in WRONG:
        if name == "fresh" and value is False:
            continue
        assert not forger.is_let_in(forger.token_with(**{name: value})), value
    right = forger.claims[name]
    for value in ([right], {"x": right}, f" {right}", f"{right}\n", str(right).upper() + "X"):
        assert not forger.is_let_in(forger.token_with(**{name: value})), value
    if isinstance(right, int) and name != "fresh":
        assert not forger.is_let_in(forger.token_with(**{name: float(right)}))
        assert not forger.is_let_in(forger.token_with(**{name: str(right)}))


@pytest.mark.parametrize("claims", [b"[]", b"null", b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"a":' * 3000, b"1e999",
                                    b'{"exp":1e999}', b'{"exp":NaN}', b'{"iat":-1e999}'])  # fmt: skip
def test_claims_that_are_no_object_are_refused(forger, claims):
    assert not forger.is_let_in(forged(forger.header, claims, forger.key))
    own, _, signature = forger.token.split(".")
    assert not forger.is_let_in(f"{own}.{encoded(claims)}.{signature}")  # nor does an unsigned one do any harm


def test_times_that_cannot_be_are_refused(forger):
    now = int(time.time())
    for changes in (
        {"iat": now + 3600, "exp": now + 3700},
        {"iat": now + 60},
        {"exp": now + 3600},  # longer than any of ours
        {"exp": 2**53},
        {"exp": 99999999999999999999},
        {"iat": 0},
        {"iat": -(2**70)},
        {"iat": now - 1000, "exp": now - 100},
        {"exp": now - 1},
        {"exp": now},
    ):
        assert not forger.is_let_in(forger.token_with(**changes)), changes


def test_a_replica_whose_clock_is_a_little_ahead_is_believed(forger):
    now = int(time.time())
    assert forger.is_let_in(forger.token_with(iat=now + 3, exp=now + 900))


def test_what_expired_a_second_ago_has_expired_though_clocks_may_differ(forger, monkeypatch):
    now = int(time.time())
    token = forger.token_with(exp=now + 2)
    assert forger.is_let_in(token)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3)
    assert not forger.is_let_in(token)
    assert not forger.is_let_in(forger.token_with(exp=now + 2, jti="019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"))


def test_a_lifetime_that_was_made_shorter_counts_for_those_that_were_issued(start):
    alice = sign_up(start(ACCESS_TOKEN_TTL="900"), "alice")
    assert Caller(start(ACCESS_TOKEN_TTL="901"), alice.token)("GET", "/users/me").status_code == 200
    assert_problem(Caller(start(ACCESS_TOKEN_TTL="60"), alice.token)("GET", "/users/me"), 401, "unauthenticated")


# ---- forgeries: how it is written


def test_a_token_can_be_written_in_one_way_only(forger):
    head, body, signature = forger.token.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = last[last.index(signature[-1]) ^ 1]  # differs in a bit that belongs to no byte
    assert base64.urlsafe_b64decode(f"{signature[:-1]}{other}=") == base64.urlsafe_b64decode(f"{signature}=")
    for token in (
        f"{head}.{body}.{signature[:-1]}{other}",
        f"{head}.{body}.{signature}=",
        f"{head}.{body}.{signature}==",
        f"{head}=.{body}.{signature}",
        f"{head}.{body}==.{signature}",
        f"{head}.{body}.!{signature}",
        f"{head}.{body}.{signature}\xa0",
        f"{head}.{body}.{signature}..",
        f"{head}.{body}.{signature}.{signature}",
        f".{head}.{body}.{signature}",
        f"{head}..{body}.{signature}",
        f"{head}.{body}",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:20]}",
        f"{signature}.{body}.{head}",
    ):
        assert not forger.is_let_in(token), token


def test_four_signed_parts_are_no_token(forger):
    said = f"{encoded(forger.header)}.{encoded(forger.claims)}.e30"
    signature = encoded(hmac.digest(forger.key.encode(), said.encode(), "sha256"))
    assert not forger.is_let_in(f"{said}.{signature}")


def test_an_encrypted_token_is_none_of_ours(forger):
    assert not forger.is_let_in(".".join([encoded({"alg": "dir", "enc": "A256GCM"}), "", "AAAA", "AAAA", "AAAA"]))


def test_one_byte_that_differs_is_noticed_wherever_it_is(forger):
    for place in range(0, len(forger.token), 7):
        changed = "A" if forger.token[place] != "A" else "B"
        assert not forger.is_let_in(f"{forger.token[:place]}{changed}{forger.token[place + 1 :]}")


# ---- forgeries: what else opens doors here


def test_no_other_token_is_an_access_token(app, admin):
    forger = Forger(app, admin)
    with app.test_request_context(), db.writing() as conn:
        user = conn.exec_driver_sql("SELECT * FROM users").mappings().one()
        mailed = [links.make(conn, dict(user), purpose).partition("#")[2] for purpose in links.LIFETIME]
    for token in (*mailed, admin.refresh_token, hashlib.sha256(admin.refresh_token.encode()).hexdigest()):
        assert not forger.is_let_in(token)
    successor = hmac.digest(forger.key.encode(), b"refresh-token-successor:" + forger.token.encode(), "sha256")
    assert not forger.is_let_in(f"{forger.token.rpartition('.')[0]}.{encoded(successor)}")


def test_another_key_is_refused_whatever_it_calls_itself(forger):
    for key in (TWO, "", "secret", forger.key[:-1], forger.key.upper()):
        for name in (forger.header["kid"], access_tokens._key(key).name):
            assert not forger.is_let_in(forged(forger.header | {"kid": name}, forger.claims, key))


def test_the_name_of_a_key_tells_nothing_of_it(forger):
    name = forger.header["kid"]
    assert len(name) == 16
    assert name not in {hashlib.new(kind, forger.key.encode()).hexdigest()[:16] for kind in ("sha256", "sha1", "md5")}
    assert access_tokens._key(forger.key + " ").name != name


# ---- the key changes


def test_what_the_former_key_signed_is_good_until_it_is_taken_away(start):
    before = start(JWT_SECRET=ONE)
    alice = sign_up(before, "alice")
    during = start(JWT_SECRET=TWO, JWT_SECRET_FORMER=ONE)
    assert Caller(during, alice.token)("GET", "/users/me").status_code == 200
    new = sign_in(during, "alice")
    assert parts(new.token)[0]["kid"] == access_tokens._key(TWO).name != parts(alice.token)[0]["kid"]
    after = start(JWT_SECRET=TWO)
    assert Caller(after, new.token)("GET", "/users/me").status_code == 200
    assert_problem(Caller(after, alice.token)("GET", "/users/me"), 401, "unauthenticated")
    assert_problem(Caller(before, new.token)("GET", "/users/me"), 401, "unauthenticated")


def test_replicas_change_keys_one_after_another_and_nobody_notices(start):
    """The new key is made known to all before any of them signs with it."""
    steps = [{"JWT_SECRET": ONE, "JWT_SECRET_FORMER": former} for former in ("", TWO)]
    steps += [{"JWT_SECRET": TWO, "JWT_SECRET_FORMER": former} for former in (ONE, "")]
    apps = [start(**step) for step in steps]
    sign_up(apps[0], "alice")
    for old, new in pairwise(apps):
        for issuer, other in ((old, new), (new, old)):
            alice = sign_in(issuer, "alice")
            assert Caller(other, alice.token)("GET", "/users/me").status_code == 200
            answer = Caller(other)("POST", "/auth/refresh", {"refresh_token": alice.refresh_token})
            assert answer.status_code == 200
            again = Caller(issuer)("POST", "/auth/refresh", {"refresh_token": alice.refresh_token})
            assert again.json["refresh_token"] == answer.json["refresh_token"]
            with other.test_request_context():
                assert verify()["tampered"] is None


def test_a_key_under_the_name_of_the_other_is_refused(start):
    app = start(JWT_SECRET=TWO, JWT_SECRET_FORMER=ONE)
    header, claims = parts(sign_up(app, "alice").token)
    one, two = (access_tokens._key(key).name for key in (ONE, TWO))
    for name, key in ((one, TWO), (two, ONE)):
        answer = Caller(app, forged(header | {"kid": name}, claims, key))("GET", "/users/me")
        assert_problem(answer, 401, "unauthenticated")
    for name, key in ((one, ONE), (two, TWO)):
        assert Caller(app, forged(header | {"kid": name}, claims, key))("GET", "/users/me").status_code == 200


def test_an_answer_that_was_stored_before_the_key_changed_is_replayed(start):
    alice = sign_up(start(JWT_SECRET=ONE), "alice", role="admin")
    ask = ("POST", "/tasks", {"title": "once"})
    first = alice(*ask, Idempotency_Key="k")
    after = Caller(start(JWT_SECRET=TWO, JWT_SECRET_FORMER=ONE), alice.token)
    again = after(*ask, Idempotency_Key="k")
    assert (again.data, again.headers["Idempotency-Replayed"]) == (first.data, "true")
    other = after("POST", "/tasks", {"title": "twice"}, Idempotency_Key="k")
    assert_problem(other, 422, "idempotency_key_reused")


def test_the_trail_goes_on_under_the_new_key(start):
    sign_up(start(JWT_SECRET=ONE), "alice")
    app = start(JWT_SECRET=TWO, JWT_SECRET_FORMER=ONE)

    def tampered(app):
        with app.test_request_context():
            return verify()["tampered"]

    assert tampered(app) is None
    assert tampered(start(JWT_SECRET=TWO))["reason"] == audit_trail.UNKNOWN_END  # nothing was written meanwhile
    sign_in(app, "alice")
    assert tampered(start(JWT_SECRET=TWO)) is None
    ((signature,),) = rows(app, "SELECT signature FROM audit_head")
    assert len(signature) == 32


def test_what_was_sealed_under_the_former_key_is_opened(start):
    with start(JWT_SECRET=ONE).app_context():
        sealed = secret_box().seal("whsec_x")
    with start(JWT_SECRET=TWO, JWT_SECRET_FORMER=ONE).app_context():
        assert secret_box().open(sealed) == "whsec_x"
        again = secret_box().reseal(sealed)
    with start(JWT_SECRET=TWO).app_context():
        assert secret_box().open(again) == "whsec_x"


# ---- the clock


@pytest.mark.parametrize("jump", [3600, -3600])
def test_a_clock_that_jumps_an_hour_costs_a_refresh_and_no_more(app, user, clock, monkeypatch, jump):
    """Forward, the token has expired; backward, it comes from the future. The session goes on either way."""
    real = time.time

    class Shifted(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(real() + jump, tz)

    clock(jump)
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    for module in (flask_jwt_extended.tokens, jwt.api_jwt):
        monkeypatch.setattr(module, "datetime", Shifted)
    access_tokens._verified.cache_clear()
    assert abs(Shifted.now(UTC) - datetime.now(UTC)) > timedelta(minutes=59)
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")
    answer = Caller(app)("POST", "/auth/refresh", {"refresh_token": user.refresh_token})
    assert answer.status_code == 200
    assert Caller(app, answer.json["access_token"])("GET", "/users/me").status_code == 200
