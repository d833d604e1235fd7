"""Sessions: their refresh tokens, who stole one, where one is signed in, and the cookie for browsers."""

import logging
import threading
from http.cookies import SimpleCookie

import orjson
import pytest

from api import create_app, db
from api.auth import cookies, devices, tokens
from api.secret_box import secret_box
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up

HOUR = 3600


def refresh(caller, token, **headers):
    return caller("POST", "/auth/refresh", {"refresh_token": token}, **headers)


def is_out(app, *held):
    """Tell whether neither of these access tokens is good."""
    return all(Caller(app, token)("GET", "/users/me").status_code == 401 for token in held)


def mails(app):
    """Return (to, subject, text) of every mail that is committed, oldest first."""
    found = []
    with app.app_context():
        for (payload,) in rows(app, "SELECT payload FROM jobs WHERE kind = 'mail' ORDER BY seq"):
            mail = orjson.loads(secret_box().open(orjson.loads(payload)["sealed"]))
            found.append((mail["to"], mail["subject"], mail["text"]))
    return found


def warnings(app):
    return [mail for mail in mails(app) if "session" in mail[1].lower()]


def ends(app):
    """Return (reason, actor) of every audited end of a session."""
    found = rows(app, "SELECT change, actor_id FROM audit_entries WHERE action = 'session.ended' ORDER BY seq")
    return [(orjson.loads(change)["after"].get("reason"), actor) for change, actor in found]


def alive(app):
    return rows(app, "SELECT count(*) FROM sessions WHERE ended_at IS NULL AND user_id = (SELECT id FROM users "
                "WHERE username = 'alice')")[0][0]  # fmt: skip


# ---- rotation


def test_twenty_parallel_refreshes_of_one_token_give_one_successor_and_the_family_lives(app, user):
    answers, ready = [], threading.Barrier(20)

    def one():
        ready.wait(10)
        answers.append(refresh(Caller(app), user.refresh_token))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 20
    (successor,) = {answer.json["refresh_token"] for answer in answers}
    assert rows(app, "SELECT count(*), count(spent_at) FROM refresh_tokens JOIN sessions ON session_id = id "
                "WHERE user_id = ?", user.id) == [(2, 1)]  # fmt: skip
    assert alive(app) == 1
    assert refresh(Caller(app), successor).status_code == 200
    assert ends(app) == []


def test_each_refresh_says_when_and_from_where_and_moves_the_idle_end_on(app, user, clock):
    before = user("GET", "/auth/sessions").json["items"][0]
    clock(60)
    headers = {"User-Agent": "Firefox on a telephone"}
    client = Caller(app)
    answer = client.send("POST", "/auth/refresh", headers, json={"refresh_token": user.refresh_token},
                         environ_overrides={"REMOTE_ADDR": "192.0.2.7"})  # fmt: skip
    assert answer.status_code == 200
    after = user("GET", "/auth/sessions").json["items"][0]
    assert (after["device"], after["address"]) == ("Firefox on a telephone", "192.0.2.7")
    assert (before["id"], before["created_at"]) == (after["id"], after["created_at"])
    assert before["last_seen_at"] < after["last_seen_at"]
    assert before["expires_at"] < after["expires_at"]


@pytest.mark.parametrize("seconds", [10, 10.001, HOUR])
def test_a_spent_token_after_the_grace_ends_the_family(app, user, anyone, clock, seconds):
    successor = refresh(anyone, user.refresh_token).json
    clock(seconds)
    stolen = refresh(anyone, user.refresh_token)
    assert_problem(stolen, 401, "unauthenticated")
    assert 'error="invalid_token"' in stolen.headers["WWW-Authenticate"]
    # The session is over, and that is committed although the answer was a refusal.
    assert alive(app) == 0
    assert is_out(app, user.token, successor["access_token"])
    assert_problem(refresh(anyone, successor["refresh_token"]), 401, "unauthenticated")
    assert ends(app) == [(tokens.TWICE, rows(app, "SELECT id FROM users WHERE username = 'alice'")[0][0])]


def test_its_owner_is_warned_once(app, user, anyone, clock):
    refresh(anyone, user.refresh_token)
    clock(11)
    for _ in range(3):
        refresh(anyone, user.refresh_token)
    ((to, subject, text),) = warnings(app)
    assert to == "alice@example.com"
    assert "ended" in subject
    assert "If that was not you" in text
    assert user.refresh_token not in text
    assert len(ends(app)) == 1


def test_the_end_its_entry_and_the_mail_are_one_commit(app, user, anyone, clock):
    refresh(anyone, user.refresh_token)
    clock(11)
    execute(app, "CREATE TRIGGER stop BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert refresh(anyone, user.refresh_token).status_code == 500
    assert (alive(app), ends(app)) == (1, [])
    execute(app, "DROP TRIGGER stop")
    assert refresh(anyone, user.refresh_token).status_code == 401
    assert (alive(app), len(ends(app)), len(warnings(app))) == (0, 1, 1)


def test_an_address_that_takes_no_mail_saves_no_thief(app, user, anyone, clock):
    execute(app, "UPDATE users SET email = 'a=?b@example.com' WHERE username = 'alice'")
    refresh(anyone, user.refresh_token)
    clock(11)
    assert_problem(refresh(anyone, user.refresh_token), 401, "unauthenticated")
    assert (alive(app), len(ends(app))) == (0, 1)


def test_a_stolen_token_used_by_two_puts_both_out(app, user, clock):
    """The thief is first; then the owner comes with the same token, and both go on as if nothing were."""
    thief, owner = (Caller(app) for _ in range(2))
    stolen = refresh(thief, user.refresh_token).json
    clock(300)
    assert_problem(refresh(owner, user.refresh_token), 401, "unauthenticated")
    assert_problem(refresh(thief, stolen["refresh_token"]), 401, "unauthenticated")
    assert is_out(app, user.token, stolen["access_token"])
    assert len(warnings(app)) == 1


def test_two_who_share_a_token_within_the_grace_are_found_out_at_the_next_refresh(app, user, anyone, clock):
    one, other = (refresh(anyone, user.refresh_token).json for _ in range(2))
    assert one["refresh_token"] == other["refresh_token"]
    clock(300)
    assert refresh(anyone, one["refresh_token"]).status_code == 200
    clock(300)
    assert_problem(refresh(anyone, other["refresh_token"]), 401, "unauthenticated")
    assert alive(app) == 0


def test_reuse_within_the_grace_ends_the_session_once_the_successor_is_spent(app, user, anyone):
    successor = refresh(anyone, user.refresh_token).json["refresh_token"]
    assert refresh(anyone, successor).status_code == 200
    assert_problem(refresh(anyone, user.refresh_token), 401, "unauthenticated")
    assert is_out(app, user.token)


def test_reuse_ends_only_its_own_session(app, user, anyone, clock):
    other = sign_in(app, "alice")
    refresh(anyone, user.refresh_token)
    clock(11)
    refresh(anyone, user.refresh_token)
    assert other("GET", "/users/me").status_code == 200
    assert refresh(anyone, other.refresh_token).status_code == 200


def test_without_a_grace_a_token_is_good_once(make_app):
    app = make_app(REFRESH_TOKEN_GRACE="0")
    alice = sign_up(app, "alice")
    successor = refresh(alice, alice.refresh_token).json["refresh_token"]
    assert_problem(refresh(Caller(app), alice.refresh_token), 401, "unauthenticated")
    assert_problem(refresh(Caller(app), successor), 401, "unauthenticated")
    assert ends(app)[0][0] == tokens.TWICE


def test_without_a_grace_a_clock_that_was_set_back_gives_none(make_app, clock):
    app = make_app(REFRESH_TOKEN_GRACE="0")
    alice = sign_up(app, "alice")
    refresh(alice, alice.refresh_token)
    clock(-5)
    assert_problem(refresh(Caller(app), alice.refresh_token), 401, "unauthenticated")


def test_the_grace_is_a_setting(make_app, clock):
    app = make_app(REFRESH_TOKEN_GRACE="60")
    alice = sign_up(app, "alice")
    first = refresh(alice, alice.refresh_token).json["refresh_token"]
    clock(59)
    assert refresh(alice, alice.refresh_token).json["refresh_token"] == first
    clock(2)
    assert refresh(alice, alice.refresh_token).status_code == 401


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_an_hour_signs_nobody_out(app, user, anyone, clock, jump):
    token = refresh(anyone, user.refresh_token).json["refresh_token"]
    clock(jump)
    for _ in range(3):
        answer = refresh(anyone, token)
        assert answer.status_code == 200
        token = answer.json["refresh_token"]
    clock(-jump)
    assert refresh(anyone, token).status_code == 200
    assert alive(app) == 1


# ---- what a client says of itself

HOSTILE = {
    "\x1b[31mred\x07": "[31mred",
    "two\ttabs": "two tabs",
    "x" * 5000: "x" * devices.CHARACTERS,
    "": None,
    " \t ": None,
    "\x7f\x80": "�",
    "Ünïcode".encode().decode("latin1"): "Ünïcode",
    "\u202eevil".encode().decode("latin1"): "evil",
    "\u2028line".encode().decode("latin1"): "line",
    "\xff\xfe": "��",
    "🥜".encode().decode("latin1") * 300: "🥜" * devices.CHARACTERS,
    "'; DROP TABLE users; --": "'; DROP TABLE users; --",
}


@pytest.mark.parametrize(("said", "kept"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_a_device_is_one_line_that_can_be_seen(lasting_app, said, kept):
    with lasting_app.test_request_context(environ_overrides={"HTTP_USER_AGENT": said}):
        assert devices.device() == kept


def test_who_says_nothing_of_himself_signs_in_all_the_same(app, user):
    client = app.test_client()
    body = {"email": "alice@example.com", "password": PASSWORD}
    answer = client.post("/api/v1/auth/login", json=body, environ_overrides={"HTTP_USER_AGENT": "\x00\x1b"})
    assert answer.status_code == 200
    found = Caller(app, answer.json["access_token"])("GET", "/auth/sessions").json["items"]
    assert next(one for one in found if one["current"])["device"] is None


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        ("unknown", None),
        ("<script>", None),
        ("1" * 5000, None),
        ("unix:", None),
    ],
)
def test_an_address_is_one_or_none(lasting_app, said, kept):
    with lasting_app.test_request_context(environ_overrides={"REMOTE_ADDR": said}):
        assert devices.address() == kept


# ---- where am I signed in


def test_one_sees_ones_open_sessions_and_which_is_this_one(app, user, admin, clock):
    clock(1)
    other = sign_in(app, "alice")
    clock(1)
    gone = sign_in(app, "alice")
    gone("POST", "/auth/logout")
    answer = user("GET", "/auth/sessions")
    assert answer.status_code == 200
    found = answer.json["items"]
    assert set(found[0]) == {"id", "device", "address", "created_at", "last_seen_at", "expires_at", "current"}
    assert [one["current"] for one in found] == [False, True]
    assert [one["current"] for one in other("GET", "/auth/sessions?sort=created_at").json["items"]] == [False, True]
    assert (found[0]["address"], answer.json["total"]) == ("127.0.0.1", 2)
    assert admin("GET", "/auth/sessions").json["total"] == 1


def test_a_session_that_expired_is_not_listed(make_app, clock):
    app = make_app(REFRESH_TOKEN_TTL="100")
    sign_up(app, "alice")
    clock(101)
    assert sign_in(app, "alice")("GET", "/auth/sessions").json["total"] == 1


def test_a_list_of_sessions_goes_on_though_time_does(app, user, clock):
    for _ in range(4):
        clock(1)
        sign_in(app, "alice")
    seen, path = [], "/api/v2/auth/sessions?limit=2"
    while path:
        answer = user.client.get(path, headers={"Authorization": f"Bearer {user.token}"})
        assert answer.status_code == 200, answer.text
        seen += [one["id"] for one in answer.json["items"]]
        clock(1)
        cursor = answer.json["next_cursor"]
        path = f"/api/v2/auth/sessions?limit=2&cursor={cursor}" if cursor else None
    assert len(seen) == len(set(seen)) == 5


def test_an_order_that_is_none_is_refused(user):
    assert_problem(user("GET", "/auth/sessions?sort=address"), 422, "invalid", "/sort")


def test_one_ends_a_session_of_ones_own_at_once(app, user):
    other = sign_in(app, "alice")
    ids = {one["current"]: one["id"] for one in user("GET", "/auth/sessions").json["items"]}
    assert user("DELETE", f"/auth/sessions/{ids[False]}").status_code == 204
    assert is_out(app, other.token)
    assert_problem(refresh(other, other.refresh_token), 401, "unauthenticated")
    assert_problem(user("DELETE", f"/auth/sessions/{ids[False]}"), 404, "not_found")
    assert user("DELETE", f"/auth/sessions/{ids[True]}").status_code == 204
    assert is_out(app, user.token)
    assert ends(app) == [(None, rows(app, "SELECT id FROM users WHERE username = 'alice'")[0][0])] * 2


def test_nobody_ends_anothers_session_not_even_an_admin(app, admin, user):
    for one, another in ((user, admin), (admin, user)):
        session = another("GET", "/auth/sessions").json["items"][0]["id"]
        assert_problem(one("DELETE", f"/auth/sessions/{session}"), 404, "not_found")
        assert another("GET", "/users/me").status_code == 200
    assert ends(app) == []


def test_the_trail_says_nothing_of_where_a_person_is(app, user):
    client = Caller(app)
    body = {"email": "alice@example.com", "password": PASSWORD}
    token = client("POST", "/auth/login", body, User_Agent="A telling device").json["access_token"]
    Caller(app, token)("POST", "/auth/logout?all=true")
    changes = "\n".join(change for (change,) in rows(app, "SELECT change FROM audit_entries"))
    assert "ended_at" in changes
    assert "telling" not in changes
    assert "127.0.0.1" not in changes


def test_ending_all_but_one_has_an_entry_for_each_also_from_the_command_line(app, user):
    keep = sign_in(app, "alice")
    current = next(one for one in keep("GET", "/auth/sessions").json["items"] if one["current"])["id"]
    sign_in(app, "alice")
    who = user.id
    with app.app_context(), db.writing() as conn:
        assert len(tokens.end_other_sessions(conn, who, keep=current)) == 2
    assert keep("GET", "/users/me").status_code == 200
    assert is_out(app, user.token)
    assert ends(app) == [(None, None)] * 2
    with app.app_context(), db.writing() as conn:
        assert len(tokens.end_other_sessions(conn, who)) == 1
        assert tokens.end_other_sessions(conn, who) == []
    assert is_out(app, keep.token)


# ---- the cookie


class Browser:
    """A client that has signed in with `cookie`, and keeps the cookie in its own hands."""

    def __init__(self, app, prefix="/api/v1", **headers):
        self.client, self.prefix = app.test_client(use_cookies=False), prefix
        body = {"email": "alice@example.com", "password": PASSWORD, "cookie": True}
        self.login = self.client.post(f"{prefix}/auth/login", json=body, headers=headers)
        self.cookie = self.set_by(self.login)

    def set_by(self, answer):
        """Return the one cookie that an answer sets, or None."""
        given = answer.headers.getlist("Set-Cookie")
        if not given:
            return None
        assert len(given) == 1
        return SimpleCookie(given[0])[cookies.NAME]

    def refresh(self, cookie=None, prefix=None, **headers):
        shown = {"Cookie": f"{cookies.NAME}={cookie or self.cookie.value}"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"{prefix or self.prefix}/auth/refresh", headers=shown | named)


@pytest.mark.parametrize(
    ("prefix", "path"),
    [("/api/v1", "/api/v1/auth/refresh"), ("/api/v2", "/api/v2/auth/refresh"), ("/api", "/api/auth/refresh")],
)
def test_a_login_may_ask_for_a_cookie_that_only_the_refresh_route_gets(app, user, prefix, path):
    browser = Browser(app, prefix)
    assert browser.login.status_code == 200
    assert browser.login.json["refresh_token"] is None
    assert set(browser.login.json) == {"access_token", "token_type", "expires_in", "refresh_token"}
    cookie = browser.cookie
    assert (cookie["path"], cookie["samesite"], cookie["max-age"]) == (path, "Strict", "2592000")
    assert cookie["httponly"]
    assert cookie["secure"]
    assert cookie["domain"] == ""
    answer = browser.refresh()
    assert answer.status_code == 200
    assert answer.json["refresh_token"] is None
    assert Caller(app, answer.json["access_token"])("GET", "/users/me").json["username"] == "alice"
    successor = browser.set_by(answer)
    assert successor.value != cookie.value
    assert (successor["path"], successor["samesite"]) == (path, "Strict")
    assert successor["httponly"]
    assert successor["secure"]


def test_a_cookie_lasts_no_longer_than_its_session(make_app, clock):
    app = make_app(REFRESH_TOKEN_TTL="100", SESSION_TTL="150")
    sign_up(app, "alice")
    browser = Browser(app)
    assert browser.cookie["max-age"] == "100"
    clock(80)
    assert 68 <= int(browser.set_by(browser.refresh())["max-age"]) <= 70


def test_who_does_not_ask_gets_no_cookie(app, user, anyone):
    for body in ({"cookie": False}, {}):
        answer = anyone("POST", "/auth/login", {"email": "alice@example.com", "password": PASSWORD} | body)
        assert answer.json["refresh_token"]
        assert "Set-Cookie" not in answer.headers
        assert "Set-Cookie" not in refresh(anyone, answer.json["refresh_token"]).headers


@pytest.mark.parametrize("value", ["yes", 1, None, "true"])
def test_whether_there_is_a_cookie_must_be_said_clearly(anyone, value):
    body = {"email": "alice@example.com", "password": PASSWORD, "cookie": value}
    assert_problem(anyone("POST", "/auth/login", body), 422, "invalid", "/cookie")


def test_a_login_that_is_refused_sets_no_cookie(app, user):
    body = {"email": "alice@example.com", "password": "wrong password", "cookie": True}
    assert "Set-Cookie" not in app.test_client().post("/api/v1/auth/login", json=body).headers


def test_a_login_that_is_not_committed_sets_no_cookie(app, user):
    execute(app, "CREATE TRIGGER stop BEFORE INSERT ON audit_entries BEGIN SELECT RAISE(ABORT, 'no'); END")
    browser = Browser(app)
    assert (browser.login.status_code, browser.cookie) == (500, None)


FOREIGN = [
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "none"},
    {"Sec_Fetch_Site": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://localhost@evil.example"},
    {"Origin": "http://[::1"},
    {"Sec_Fetch_Site": "same-origin", "Origin": "https://evil.example"},
    {"Sec_Fetch_Site": "cross-site", "Origin": "http://localhost"},
]


def test_a_cookie_that_another_site_sent_counts_for_nothing(app, user):
    browser = Browser(app)
    for headers in FOREIGN:
        answer = browser.refresh(**headers)
        assert_problem(answer, 403, "forbidden")
        assert "Set-Cookie" not in answer.headers
    assert browser.refresh().status_code == 200
    assert rows(app, "SELECT count(*) FROM refresh_tokens WHERE spent_at IS NOT NULL") == [(1,)]  # by this one


def test_a_cookie_that_our_own_page_sent_is_taken(app, user):
    browser = Browser(app)
    for headers in (
        {"Sec_Fetch_Site": "same-origin"},
        {"Origin": "http://localhost"},
        {"Origin": "https://LOCALHOST"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost"},
        {"Host": "walnut.example:8443", "Origin": "https://walnut.example:8443"},
    ):
        assert browser.refresh(**headers).status_code == 200, headers


def test_csrf_is_about_the_cookie_only(app, user, anyone):
    assert refresh(anyone, user.refresh_token, Sec_Fetch_Site="cross-site").status_code == 200


def test_the_body_comes_before_bearer_and_bearer_before_the_cookie(app, user):
    browser, body, bearer = Browser(app), sign_in(app, "alice"), sign_in(app, "alice")

    def traded(json=None, **headers):
        shown = {"Cookie": f"{cookies.NAME}={browser.cookie.value}"} | headers
        answer = browser.client.post("/api/v1/auth/refresh", json=json, headers=shown)
        assert answer.status_code == 200
        assert "Set-Cookie" not in answer.headers
        return answer.json["refresh_token"]

    authorization = {"Authorization": f"Bearer {bearer.refresh_token}"}
    with app.app_context():
        secret = app.extensions["settings"].jwt_secret
        one, other = (tokens._successor(caller.refresh_token, secret) for caller in (body, bearer))
    assert traded({"refresh_token": body.refresh_token}, **authorization) == one
    assert traded(**authorization) == other
    assert rows(app, "SELECT spent_at FROM refresh_tokens WHERE hash = ?", tokens._hash(browser.cookie.value)) == [
        (None,)
    ]


def gone(cookie, path="/api/v1/auth/refresh"):
    return (cookie.value, cookie["max-age"], cookie["path"], cookie["samesite"]) == ("", "0", path, "Strict")


def test_a_logout_clears_the_cookie(app, user):
    browser = Browser(app, "/api")
    headers = {"Authorization": f"Bearer {browser.login.json['access_token']}"}
    assert gone(browser.set_by(browser.client.post("/api/auth/logout", headers=headers)), "/api/auth/refresh")
    refused = browser.client.post("/api/auth/logout", headers=headers)
    assert refused.status_code == 401
    assert browser.set_by(refused) is None


def test_a_cookie_that_is_not_good_any_more_is_cleared(app, user, clock):
    browser = Browser(app)
    assert browser.refresh().status_code == 200
    clock(11)
    for _ in range(2):  # as a theft, and then as the token of a session that is over
        answer = browser.refresh()
        assert_problem(answer, 401, "unauthenticated")
        assert gone(browser.set_by(answer))
    assert browser.set_by(browser.refresh("x.y.z")) is not None


def test_a_failure_without_a_cookie_clears_none(app, anyone):
    for answer in (refresh(anyone, "x"), anyone("POST", "/auth/refresh")):
        assert answer.status_code == 401
        assert "Set-Cookie" not in answer.headers


def test_no_other_route_takes_the_cookie(app, user):
    """Neither as a sign-in, nor is a refresh token in it read anywhere else."""
    browser = Browser(app)
    shown = {"Cookie": f"{cookies.NAME}={browser.cookie.value}"}
    asked = 0
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if not contract or contract.allow == "public":
            continue
        path = rule.rule
        for name in rule.arguments:
            path = path.replace(f"<uuid:{name}>", db.new_id()).replace(f"<{name}>", "x")
        for method in rule.methods - {"OPTIONS", "HEAD"}:
            assert browser.client.open(path, method=method, headers=shown).status_code == 401, path
            asked += 1
    assert asked > 30
    taking = {rule.rule for rule in app.url_map.iter_rules()
              if getattr(getattr(app.view_functions[rule.endpoint], "contract", None), "cookie", None)}  # fmt: skip
    assert {path.partition("/auth/")[2] for path in taking} == {"refresh", "refresh-token"}
    assert browser.refresh().status_code == 200


def test_the_document_knows_the_cookie(app):
    document = app.test_client().get("/api-docs/openapi.json").json
    parameters = document["paths"]["/api/v1/auth/refresh"]["post"]["parameters"]
    assert [(one["in"], one["name"]) for one in parameters] == [("cookie", cookies.NAME)]
    assert cookies.NAME in document["components"]["schemas"]["LoginIn"]["properties"]["cookie"]["description"]


def test_no_token_is_in_the_log(app, user, caplog):
    caplog.set_level(logging.DEBUG)
    browser = Browser(app)
    successor = browser.set_by(browser.refresh()).value
    browser.refresh(successor, Origin="https://evil.example")
    refresh(Caller(app), successor)
    lines = "\n".join(str(vars(record)) for record in caplog.records)
    assert "/auth/refresh" in lines
    for secret in (browser.cookie.value, successor, browser.login.json["access_token"]):
        assert secret not in lines


# ---- the key changes


ONE, TWO, THREE = (f"key number {number}: 0123456789 abcdefghijklmnopqrstuvwxyz" for number in "123")


@pytest.fixture
def start(make_app, configure):
    """Return a function that starts the server with some keys; each time on the same database."""
    started = []

    def again(**keys):
        started.append(create_app(configure(**keys)) if started else make_app(**keys))
        return started[-1]

    yield again
    for app in started[1:]:  # make_app ends the first
        app.extensions["database"].close()


def test_a_token_spent_just_before_the_key_changed_gives_its_same_successor(start):
    before = start(JWT_SECRET=ONE)
    alice = sign_up(before, "alice")
    first = refresh(alice, alice.refresh_token).json["refresh_token"]
    after = start(JWT_SECRET=TWO, JWT_SECRET_FORMER=ONE)
    assert refresh(Caller(after), alice.refresh_token).json["refresh_token"] == first
    second = refresh(Caller(after), first).json["refresh_token"]
    # and a replica that has not been restarted yet, but knows the new key, goes on with it
    behind = start(JWT_SECRET=ONE, JWT_SECRET_FORMER=TWO)
    assert refresh(Caller(behind), first).json["refresh_token"] == second
    assert ends(after) == []


def test_a_session_outlives_every_key(start):
    alice = sign_up(start(JWT_SECRET=ONE), "alice")
    token = alice.refresh_token
    for keys in ({"JWT_SECRET": TWO, "JWT_SECRET_FORMER": ONE}, {"JWT_SECRET": TWO, "JWT_SECRET_FORMER": ""},
                 {"JWT_SECRET": THREE, "JWT_SECRET_FORMER": TWO}):  # fmt: skip
        answer = refresh(Caller(start(**keys)), token)
        assert answer.status_code == 200
        token = answer.json["refresh_token"]
