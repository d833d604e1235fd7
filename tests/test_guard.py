import base64
import json
import time

import jwt
import pytest

from api.errors import Unauthenticated
from api.web import access_tokens, guard
from tests.conftest import Caller, assert_problem, execute, sign_in, sign_up

MISSING = 'Bearer realm="walnut"'
INVALID = 'Bearer realm="walnut", error="invalid_token"'

CLAIMS = ("iss", "aud", "sub", "sid", "jti", "iat", "exp")


@pytest.fixture
def secret(app):
    return app.extensions["settings"].jwt_secret


@pytest.fixture
def claims(admin):
    return jwt.decode(admin.token, options={"verify_signature": False})


def refused(app, token, challenge=INVALID, scheme="Bearer"):
    answer = Caller(app)("GET", "/users/me", Authorization=f"{scheme} {token}".strip())
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith(challenge)
    assert ("error=" in answer.headers["WWW-Authenticate"]) == (challenge is INVALID)
    return answer


def signed(claims, key, algorithm="HS256", **headers):
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": access_tokens._key(key).name} | headers)


def without_signature(claims, algorithm):
    parts = ({"alg": algorithm, "typ": "JWT"}, claims)
    first, second = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{first}.{second}."


def test_a_good_token_is_let_in(app, admin, claims, secret):
    assert admin("GET", "/users/me").status_code == 200
    assert Caller(app, signed(claims, secret))("GET", "/users/me").json["username"] == "root"
    assert set(CLAIMS) <= set(claims)
    assert claims["exp"] - claims["iat"] == 900


def test_without_a_token_nobody_is_let_in(app, anyone):
    answer = anyone("GET", "/users/me")
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == MISSING


@pytest.mark.parametrize("scheme", ["Basic", "Token", "", "Bear er"])
def test_another_scheme_is_no_token(app, admin, scheme):
    refused(app, admin.token, MISSING, scheme)


def test_a_scheme_without_a_token_is_none(app):
    refused(app, "", MISSING)
    refused(app, "  ", MISSING)


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_scheme_may_be_written_in_any_case(app, admin, scheme):
    assert Caller(app)("GET", "/users/me", Authorization=f"{scheme} {admin.token}").status_code == 200


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "x.y.z",
        "...",
        "a" * 5000,
        "e30.e30.e30",
        "\xff\xfe",
        "null",
        "eyJhbGciOiJIUzI1NiJ9..",
        "a b",
        "🥜".encode().decode("latin-1"),
    ],
)
def test_a_malformed_token_is_refused(app, token):
    refused(app, token)


def test_a_token_is_in_the_header_and_nowhere_else(app, admin):
    client = app.test_client()
    client.set_cookie("access_token_cookie", admin.token)
    for query in (f"?jwt={admin.token}", f"?access_token={admin.token}", ""):
        assert client.get(f"/api/v1/users/me{query}").status_code == 401


def test_a_changed_token_is_refused(app, admin):
    head, body, signature = admin.token.split(".")
    for changed in (
        f"{head}.{body}.{signature[:-2]}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body[:-1]}.{signature}",
        f"{head}.{body}.{signature[::-1]}",
    ):
        refused(app, changed)


def test_an_expired_token_is_refused_and_says_so(app, claims, secret):
    answer = refused(app, signed(claims | {"exp": int(time.time()) - 1}, secret))
    assert "expired" in answer.json["detail"]


def test_a_remembered_token_expires_too(app, claims, secret, monkeypatch):
    """A token's signature is checked once; its time is checked each time."""
    caller = Caller(app, signed(claims | {"exp": int(time.time()) + 100}, secret))
    assert caller("GET", "/users/me").status_code == 200
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 101)
    assert "expired" in assert_problem(caller("GET", "/users/me"), 401, "unauthenticated")["detail"]


def test_a_token_of_another_key_is_refused(app, claims):
    refused(app, signed(claims, "another key that is long enough to be one"))


def test_a_remembered_token_is_nothing_under_another_key(make_app):
    """Two apps in one process, the same claims: what one has verified, the other has not."""
    app = make_app()
    admin = sign_up(app, "root", role="admin")
    assert admin("GET", "/users/me").status_code == 200
    app.extensions["token_keys"] = (access_tokens._key("another key that is long enough to be one"),)
    assert admin("GET", "/users/me").status_code == 401


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256"])
def test_a_token_without_a_signature_is_refused(app, claims, algorithm):
    refused(app, without_signature(claims, algorithm))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_only_one_algorithm_is_taken(app, claims, secret, algorithm):
    refused(app, signed(claims, secret, algorithm))


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_is_required(app, claims, secret, claim):
    del claims[claim]
    refused(app, signed(claims, secret))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("iss", "somebody"),
        ("aud", "somewhere"),
        ("aud", []),
        ("type", "refresh"),
        ("type", None),
        ("sub", "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"),
        ("sub", 7),
        ("sub", ""),
        ("sid", "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"),
        ("sid", {"x": 1}),
        ("exp", "never"),
        ("exp", None),
        ("nbf", 99999999999),
    ],
)
def test_every_claim_must_be_right(app, claims, secret, claim, value):
    header = {"kid": access_tokens._key(secret).name}
    token = jwt.api_jws.encode(json.dumps(claims | {claim: value}).encode(), secret, "HS256", header, sort_headers=True)
    refused(app, token)


def test_a_session_is_its_users_own(app, admin, user, claims, secret):
    """With the key one could still not borrow another one's session."""
    refused(app, signed(claims | {"sub": user.id}, secret))


def test_a_token_of_an_ended_session_is_refused_at_once(app, user):
    assert user("GET", "/users/me").status_code == 200
    execute(app, "UPDATE sessions SET ended_at = 1 WHERE user_id = ?", user.id)
    answer = user("GET", "/users/me")
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith(INVALID)


def test_a_token_outlives_no_session(app, user):
    execute(app, "UPDATE sessions SET expires_at = 1 WHERE user_id = ?", user.id)
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")


def test_a_deactivated_user_is_refused_at_once(app, user):
    execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'")
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")
    execute(app, "UPDATE users SET active = 1 WHERE username = 'alice'")
    assert user("GET", "/users/me").status_code == 200


def test_a_deleted_user_is_refused_at_once(app, user):
    execute(app, "DELETE FROM users WHERE username = 'alice'")
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")


def test_the_role_is_read_on_each_request(app, admin, user):
    assert_problem(user("POST", "/tasks", {"title": "x"}), 403, "forbidden")
    execute(app, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
    assert user("POST", "/tasks", {"title": "x"}).status_code == 201
    execute(app, "UPDATE users SET role = 'user' WHERE username = 'alice'")
    assert_problem(user("POST", "/tasks", {"title": "x"}), 403, "forbidden")


def test_a_role_that_is_unknown_may_nothing(app, user):
    execute(app, "UPDATE users SET role = 'emperor' WHERE username = 'alice'")
    for method, path in (("GET", "/tasks"), ("POST", "/tasks"), ("GET", "/users/me")):
        assert_problem(user(method, path), 403, "forbidden")


def test_a_missing_permission_is_named(user):
    problem = assert_problem(user("POST", "/tasks", {"title": "x"}), 403, "forbidden")
    assert "tasks:write" in problem["detail"]


def test_who_may_not_learns_nothing_more(user, admin):
    """Permission comes first: neither a wrong body nor an unknown id is told to who may not."""
    made = admin("POST", "/tasks", {"title": "x"}).json["id"]
    for path in (f"/tasks/{made}", "/tasks/019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e"):
        for method in ("PUT", "PATCH", "DELETE"):
            assert_problem(user(method, path, {"nonsense": 1}), 403, "forbidden")


def test_a_user_may_read_and_an_admin_may_everything():
    assert guard.PERMISSIONS["user"] >= {"tasks:read", "jobs:submit", guard.SIGNED_IN}
    assert not guard.PERMISSIONS["user"] & {"tasks:write", "users:manage"}
    assert guard.PERMISSIONS["admin"] == set().union(*guard.PERMISSIONS.values())
    assert guard.PUBLIC not in guard.PERMISSIONS["admin"]


def person(role="admin", scopes=None, totp_enabled_at=None):
    return {"role": role, "scopes": scopes, "totp_enabled_at": totp_enabled_at}


def test_rights_are_those_of_the_role_and_of_the_key_and_of_who_is_fit():
    """The smallest of all three."""
    admins, users, own = guard.PERMISSIONS["admin"], guard.PERMISSIONS["user"], guard.OWN
    rights = {
        "nobody": guard.rights(person("emperor"), strict=False),
        "user": guard.rights(person("user"), strict=True),
        "admin": guard.rights(person(), strict=False),
        "unfit": guard.rights(person(), strict=True),
        "fit": guard.rights(person(totp_enabled_at=1), strict=True),
        "key": guard.rights(person("user", ["tasks:read", "tasks:write"]), strict=False),
        "key of nobody": guard.rights(person("emperor", ["tasks:read"]), strict=False),
        "key for nothing": guard.rights(person("admin", []), strict=False),
        "key for all": guard.rights(person("admin", list(admins)), strict=False),
        "key of the unfit": guard.rights(person("admin", ["tasks:read"]), strict=True),
    }
    assert rights == {
        "nobody": set(),
        "user": users,
        "admin": admins,
        "unfit": own,
        "fit": admins,
        "key": {guard.SIGNED_IN, "tasks:read"},
        "key of nobody": set(),
        "key for nothing": {guard.SIGNED_IN},
        "key for all": admins - {guard.IN_PERSON},
        "key of the unfit": {guard.SIGNED_IN},
    }


def test_every_route_but_the_public_ones_wants_a_token(app, anyone):
    """Deny unless a route allows: walked over the whole map."""
    public, refused = set(), 0
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if contract is None or not rule.rule.startswith("/api/v1"):
            continue
        if contract.allow == guard.PUBLIC:
            public.add(rule.rule.removeprefix("/api/v1"))
            continue
        path = rule.rule.removeprefix("/api/v1")
        for argument in rule.arguments:
            path = path.replace(f"<uuid:{argument}>", "019a9f3e-5b1c-7c3a-9d0e-0f6b2a1c4d5e")
            path = path.replace(f"<{argument}>", "x")
        for method in rule.methods - {"OPTIONS"}:
            assert anyone(method, path).status_code == 401, (method, path)
            refused += 1
    assert refused >= 10
    assert public >= {"/auth/register", "/auth/login", "/auth/refresh", "/health"}


def test_the_token_of_the_header(app):
    with app.test_request_context(headers={"Authorization": "Bearer  abc "}):
        assert access_tokens.bearer() == "abc"
    with app.test_request_context(), pytest.raises(Unauthenticated):
        access_tokens.bearer()


def test_nobody_acts_where_nobody_is_signed_in(app):
    with app.test_request_context():
        assert guard.actor() is None


def test_an_access_token_is_good_for_as_long_as_the_setting_says(make_app):
    app = make_app(ACCESS_TOKEN_TTL="120")
    sign_up(app, "root", role="admin")
    token = sign_in(app, "root").token
    found = jwt.decode(token, options={"verify_signature": False})
    assert found["exp"] - found["iat"] == 120
