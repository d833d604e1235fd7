import threading
import unicodedata

import bcrypt
import pytest
from marshmallow import ValidationError

from api import create_app
from api.auth import names, passwords
from tests.conftest import PASSWORD, Caller, assert_problem, execute, rows, sign_in, sign_up


def account(name="bob", **more):
    return {"username": name, "email": f"{name}@example.com", "password": PASSWORD} | more


def refresh(caller, token):
    return caller("POST", "/auth/refresh", {"refresh_token": token})


# ---- register


def test_an_account_is_made_and_shown_without_its_password(app, anyone):
    answer = anyone("POST", "/auth/register", account())
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(answer.json) == {
        "id", "username", "email", "new_email", "email_confirmed_at", "totp_enabled_at", "role", "active",
        "created_at", "updated_at", "version",
    }  # fmt: skip
    assert (answer.json["username"], answer.json["role"], answer.json["active"]) == ("bob", "user", True)
    assert PASSWORD not in answer.text
    ((kept,),) = rows(app, "SELECT password_hash FROM users")
    assert bcrypt.checkpw(PASSWORD.encode(), kept.encode())


def test_the_first_account_may_ask_for_admin_and_only_the_first(app, anyone):
    assert anyone("POST", "/auth/register", account("root", role="admin")).json["role"] == "admin"
    assert_problem(anyone("POST", "/auth/register", account("eve", role="admin")), 403, "forbidden")
    assert anyone("POST", "/auth/register", account("eve", role="user")).json["role"] == "user"
    assert rows(app, "SELECT username, role FROM users ORDER BY username") == [("eve", "user"), ("root", "admin")]


def test_the_first_account_is_a_users_unless_it_asks(anyone):
    assert anyone("POST", "/auth/register", account()).json["role"] == "user"
    assert_problem(anyone("POST", "/auth/register", account("late", role="admin")), 403, "forbidden")


@pytest.mark.parametrize(
    "variables",
    [
        {"REGISTER_ADMIN": "never"},
        {"APP_ENV": "production", "JWT_SECRET": "0123456789abcdefghijklmnopqrstuvwxyz"},
    ],
)
def test_nobody_may_ask_for_admin_where_the_setting_says_never(make_app, variables):
    app = make_app(**variables)
    assert_problem(Caller(app)("POST", "/auth/register", account(role="admin")), 403, "forbidden")
    assert rows(app, "SELECT count(*) FROM users") == [(0,)]


def test_of_two_first_accounts_at_once_exactly_one_is_admin(app):
    ready, answers = threading.Barrier(4), []

    def register(name):
        ready.wait(5)
        answers.append(Caller(app)("POST", "/auth/register", account(name, role="admin")).status_code)

    threads = [threading.Thread(target=register, args=(f"first{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, 403, 403, 403]
    assert rows(app, "SELECT count(*) FROM users WHERE role = 'admin'") == [(1,)]


def test_an_unknown_role_is_no_role(anyone):
    assert_problem(anyone("POST", "/auth/register", account(role="emperor")), 422, "invalid", "/role")


SAME_NAMES = [
    ("bob", "BOB"),
    ("straße", "STRASSE"),
    ("ﬁona", "fiona"),
    ("Ⅷ", "viii"),
    ("①", "1"),
    ("\uff42\uff4f\uff42", "bob"),
    ("é", "e\u0301"),
    ("\u03b1\u0345", "\u03b1\u03b9"),
    ("ΣΑΣ", "σας"),
    ("\u1e9e", "ss"),
    ("Å", "\u212b"),
]


@pytest.mark.parametrize(("one", "other"), SAME_NAMES)
def test_two_names_that_look_the_same_are_the_same(app, anyone, one, other):
    first = anyone("POST", "/auth/register", account() | {"username": one})
    assert (first.status_code, first.json["username"]) == (201, one)
    taken = anyone("POST", "/auth/register", account("other") | {"username": other})
    assert_problem(taken, 409, "conflict", "/username")
    assert rows(app, "SELECT count(*) FROM users") == [(1,)]


def test_two_addresses_that_look_the_same_are_the_same(anyone):
    anyone("POST", "/auth/register", account("bob"))
    taken = anyone("POST", "/auth/register", account("other") | {"email": "BOB@Example.COM"})
    assert_problem(taken, 409, "conflict", "/email")
    both = anyone("POST", "/auth/register", account("Bob"))
    assert_problem(both, 409, "conflict", "/email", "/username")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 65,
        "two words",
        " bob",
        "bob\n",
        "bob\u00a0",
        "a\u200bb",
        "a\u202eb",
        "a\ufeffb",
        "tab\t",
        "\u2003",
        "a\x7fb",
        "\ue000",
        "a\u00adb",
    ],
)
def test_a_name_that_cannot_be_seen_or_told_is_refused(lasting_app, lasting_admin, name):
    assert_problem(
        Caller(lasting_app)("POST", "/auth/register", account() | {"username": name}), 422, "invalid", "/username"
    )


@pytest.mark.parametrize(
    "unseen",
    [
        *("\u2800", "\ufffc", "\U00013441", "\U00013442", "\U00016fe4", "\U0001d159", "\u2d7f", "\U0001107f"),
        *("\U00011a47", "\U00011a99", "\U0001bc9d", "\u0332", "\u0333"),
    ],
)
def test_nothing_that_shows_nothing_is_in_a_name(unseen):
    """Blanks that Unicode does not count as ignorable, and lines under a letter, as a link has them anyway."""
    for name in (f"admin{unseen}", f"{unseen}admin", f"ad{unseen}min", f"admin@ex{unseen}ample.com"):
        with pytest.raises(ValidationError, match="invisible"):
            names.visible(name)


def test_a_mark_stands_on_a_letter():
    for name in ("\u0301admin", "\u0903x", "admin@\u0301example.com"):
        with pytest.raises(ValidationError, match="mark"):
            names.visible(name)
    for name in ("Ag\u0303e", "\u0928\u092e\u0938\u094d\u0924\u0947", "Zoe\u0308", "\u0e1b\u0e34\u0e48\u0e19", "@"):
        names.visible(name)


@pytest.mark.parametrize("invisible", ["\u034f", "\ufe0f", "\u3164", "\u115f", "\u180b", "\U000e0100", "\uffa0"])
def test_a_name_cannot_be_borrowed_with_a_character_that_does_not_show(app, anyone, invisible):
    """Default_Ignorable_Code_Point: letters and marks that are drawn as nothing."""
    anyone("POST", "/auth/register", account("bob"))
    answer = anyone("POST", "/auth/register", account("other") | {"username": f"bob{invisible}"})
    assert answer.status_code in (409, 422)
    assert [error["pointer"] for error in answer.json["errors"]] == ["/username"]


@pytest.mark.parametrize(
    "email",
    [
        "",
        "bob",
        "bob@",
        "@example.com",
        "bob@example",
        "a b@example.com",
        "b@exa mple.com",
        f"{'x' * 250}@a.de",
        "bob@example.com\n",
    ],
)
def test_an_address_must_be_one(lasting_app, lasting_admin, email):
    assert_problem(
        Caller(lasting_app)("POST", "/auth/register", account() | {"email": email}), 422, "invalid", "/email"
    )


# ---- passwords

BAD_PASSWORDS = {
    "7 characters": "x" * 7,
    "73 bytes": "x" * 73,
    "73 bytes of umlauts": "ä" * 36 + "x",
    "19 emoji": "🥜" * 19,
    "7 emoji, 28 bytes": "🥜" * 7,
    "14 code points that compose to 7": "e\u0301" * 7,
}
GOOD_PASSWORDS = {
    "8 characters": "nutshell",
    "72 bytes": "x" * 72,
    "72 bytes of umlauts": "ä" * 36,
    "18 emoji": "🥜" * 18,
    "NFD of 72 bytes in NFC": "e\u0301" * 36,
    "spaces": "        ",
    "quotes": "'\"; -- \\",
}


@pytest.mark.parametrize("password", BAD_PASSWORDS.values(), ids=BAD_PASSWORDS.keys())
def test_a_password_too_short_or_too_long_is_refused(lasting_app, lasting_admin, password):
    answer = Caller(lasting_app)("POST", "/auth/register", account(password=password))
    assert_problem(answer, 422, "invalid", "/password")
    assert password not in answer.text


@pytest.mark.parametrize("password", GOOD_PASSWORDS.values(), ids=GOOD_PASSWORDS.keys())
def test_every_other_password_is_taken_whole(anyone, password):
    assert anyone("POST", "/auth/register", account(password=password)).status_code == 201
    for tried, status in ((password, 200), (password[:-1], 401), (password[:-1] + "?", 401)):
        answer = anyone("POST", "/auth/login", {"email": "bob@example.com", "password": tried})
        assert answer.status_code == status


def test_a_password_may_be_typed_on_any_keyboard(anyone):
    """The same characters, composed by one system and decomposed by another."""
    one, other = (unicodedata.normalize(form, "pässwörter é") for form in ("NFC", "NFD"))
    assert one != other
    anyone("POST", "/auth/register", account(password=one))
    assert anyone("POST", "/auth/login", {"email": "bob@example.com", "password": other}).status_code == 200


def test_a_password_that_is_too_long_is_no_login_and_no_500(lasting_app, lasting_admin):
    answer = Caller(lasting_app)("POST", "/auth/login", {"email": "root@example.com", "password": PASSWORD + "x" * 80})
    assert_problem(answer, 422, "invalid", "/password")


def test_hashes_cost_what_they_should_outside_of_tests(make_app):
    app = make_app(APP_ENV="development")
    with app.app_context():
        assert passwords.hash_password(PASSWORD).startswith("$2b$12$")


# ---- login


def test_a_login_gives_a_pair_of_tokens(app, user):
    answer = Caller(app)("POST", "/auth/login", {"email": "alice@example.com", "password": PASSWORD})
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(answer.json) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 900)
    assert Caller(app, answer.json["access_token"])("GET", "/users/me").json["username"] == "alice"


def test_no_token_is_kept_where_it_could_be_read(app, user):
    everything = "\n".join(
        str(rows(app, f"SELECT * FROM {table}")) for table in ("sessions", "refresh_tokens", "users")
    )
    assert user.refresh_token not in everything
    assert user.token not in everything
    assert PASSWORD not in everything


def test_the_address_may_be_written_in_any_case(app, user):
    answer = Caller(app)("POST", "/auth/login", {"email": "ALICE@example.COM", "password": PASSWORD})
    assert answer.status_code == 200


def answer_without_its_id(answer):
    return {name: value for name, value in answer.json.items() if name != "request_id"}, [
        (name, value) for name, value in answer.headers if name != "X-Request-ID" and "RateLimit" not in name
    ]


def test_a_wrong_password_an_unknown_address_and_a_closed_account_look_the_same(app, user, anyone):
    sign_up(app, "closed")
    execute(app, "UPDATE users SET active = 0 WHERE username = 'closed'")
    tried = [(name, password) for name in ("alice", "nobody", "closed") for password in ("wrong password", PASSWORD)]
    answers = [
        anyone("POST", "/auth/login", {"email": f"{name}@example.com", "password": password})
        for name, password in tried
        if (name, password) != ("alice", PASSWORD)
    ]
    for answer in answers:
        assert_problem(answer, 401, "unauthenticated")
        assert answer_without_its_id(answer) == answer_without_its_id(answers[0])
    assert rows(
        app, "SELECT count(*) FROM sessions WHERE user_id = (SELECT id FROM users WHERE username='closed')"
    ) == [(1,)]


def test_an_unknown_address_costs_the_same_work(app, user, anyone, monkeypatch):
    done = []
    real = bcrypt.checkpw

    def counted(password, kept):
        done.append((password, kept[:7], len(kept)))
        return real(password, kept)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    for name in ("alice", "nobody"):
        anyone("POST", "/auth/login", {"email": f"{name}@example.com", "password": "wrong password"})
    assert done == [(b"wrong password", b"$2b$04$", 60)] * 2


def test_a_login_that_is_refused_opens_no_session(app, user, anyone):
    before = rows(app, "SELECT count(*) FROM sessions")
    anyone("POST", "/auth/login", {"email": "alice@example.com", "password": "wrong password"})
    assert rows(app, "SELECT count(*) FROM sessions") == before


def test_a_password_changed_between_check_and_sign_in_is_noticed(app, user, anyone, monkeypatch):
    """The hash is compared outside the transaction: what it was compared with must still be there inside."""
    real = passwords.matches

    def slow(*given):
        found = real(*given)
        execute(app, "UPDATE users SET password_hash = 'another' WHERE username = 'alice'")
        return found

    monkeypatch.setattr(passwords, "matches", slow)
    answer = anyone("POST", "/auth/login", {"email": "alice@example.com", "password": PASSWORD})
    assert_problem(answer, 401, "unauthenticated")


# ---- refresh


def test_a_refresh_token_is_traded_for_a_new_pair(app, user, anyone):
    answer = refresh(anyone, user.refresh_token)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["refresh_token"] != user.refresh_token
    assert Caller(app, answer.json["access_token"])("GET", "/users/me").json["username"] == "alice"
    assert refresh(anyone, answer.json["refresh_token"]).status_code == 200


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/refresh-token"])
@pytest.mark.parametrize("name", ["refresh_token", "refreshToken"])
def test_a_refresh_token_is_taken_under_every_name(user, anyone, path, name):
    assert anyone("POST", path, {name: user.refresh_token}).status_code == 200


def test_a_refresh_token_may_be_sent_as_bearer(user, anyone):
    assert anyone("POST", "/auth/refresh", Authorization=f"Bearer {user.refresh_token}").status_code == 200


@pytest.mark.parametrize("token", ["x", "ü" * 50, "a" * 200])
def test_an_unknown_refresh_token_is_refused(anyone, token):
    answer = refresh(anyone, token)
    assert_problem(answer, 401, "unauthenticated")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_without_a_refresh_token_there_is_nothing_to_trade(anyone):
    answer = anyone("POST", "/auth/refresh")
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="walnut"'


def test_an_access_token_is_no_refresh_token_and_the_other_way_round(app, user, anyone):
    assert refresh(anyone, user.token).status_code in (401, 422)
    assert_problem(anyone("POST", "/auth/refresh", Authorization=f"Bearer {user.token}"), 401, "unauthenticated")
    assert_problem(Caller(app, user.refresh_token)("GET", "/users/me"), 401, "unauthenticated")


def test_whoever_asks_again_within_the_grace_gets_the_same_successor(user, anyone, clock):
    first = refresh(anyone, user.refresh_token).json["refresh_token"]
    clock(9)
    assert refresh(anyone, user.refresh_token).json["refresh_token"] == first
    assert refresh(anyone, first).status_code == 200


def test_a_session_lasts_as_long_as_it_is_used_and_no_longer(make_app, clock):
    app = make_app(REFRESH_TOKEN_TTL="100", SESSION_TTL="250")
    caller = sign_up(app, "alice")
    token = caller.refresh_token
    for seconds in (99, 99, 50):
        clock(seconds)
        answer = refresh(caller, token)
        assert answer.status_code == 200
        token = answer.json["refresh_token"]
    clock(3)  # 251 in all, and only 3 since it was used
    assert_problem(refresh(caller, token), 401, "unauthenticated")
    assert_problem(Caller(app, answer.json["access_token"])("GET", "/users/me"), 401, "unauthenticated")


def test_a_session_that_is_not_used_expires(make_app, clock):
    app = make_app(REFRESH_TOKEN_TTL="100")
    caller = sign_up(app, "alice")
    token = refresh(caller, caller.refresh_token).json["refresh_token"]
    clock(101)
    assert_problem(refresh(caller, token), 401, "unauthenticated")


def test_a_deactivated_user_cannot_refresh(app, user, anyone):
    execute(app, "UPDATE users SET active = 0 WHERE username = 'alice'")
    assert_problem(refresh(anyone, user.refresh_token), 401, "unauthenticated")


def test_a_successor_cannot_be_computed_without_the_key(make_app, tmp_path):
    one = make_app(INSTANCE_PATH=str(tmp_path / "one"))
    first = sign_up(one, "alice")
    two = make_app(INSTANCE_PATH=str(tmp_path / "two"), JWT_SECRET="zyxwvutsrqponmlkjihgfedcba9876543210")
    second = sign_up(two, "alice")
    execute(two, "UPDATE refresh_tokens SET hash = ?", rows(one, "SELECT hash FROM refresh_tokens")[0][0])
    assert second.refresh_token != first.refresh_token
    answers = [refresh(Caller(app), first.refresh_token).json["refresh_token"] for app in (one, two)]
    assert answers[0] != answers[1]


# ---- logout


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_logout_ends_this_session_at_once_and_no_other(app, user, method):
    other = sign_in(app, "alice")
    answer = user(method, "/auth/logout")
    assert (answer.status_code, answer.data) == (204, b"")
    assert_problem(user("GET", "/users/me"), 401, "unauthenticated")
    assert_problem(refresh(other, user.refresh_token), 401, "unauthenticated")
    assert other("GET", "/users/me").status_code == 200


def test_a_logout_everywhere_ends_every_session_of_ones_own(app, admin, user):
    other = sign_in(app, "alice")
    assert user("POST", "/auth/logout?all=true").status_code == 204
    for caller in (user, other):
        assert_problem(caller("GET", "/users/me"), 401, "unauthenticated")
        assert_problem(refresh(caller, caller.refresh_token), 401, "unauthenticated")
    assert admin("GET", "/users/me").status_code == 200
    assert sign_in(app, "alice")("GET", "/users/me").status_code == 200


def test_a_logout_that_is_repeated_is_nobodys(user):
    user("POST", "/auth/logout")
    assert_problem(user("POST", "/auth/logout"), 401, "unauthenticated")


def test_how_far_to_log_out_must_be_said_clearly(user):
    assert_problem(user("POST", "/auth/logout?all=perhaps"), 422, "invalid", "/all")
    assert user("GET", "/users/me").status_code == 200


def test_a_logout_reaches_every_process_at_once(make_app):
    """Two apps on one database, as two replicas: what the one ends, the other lets in no more."""
    one = make_app()
    two = create_app(one.extensions["settings"])
    try:
        alice = sign_up(one, "alice")
        elsewhere = Caller(two, alice.token)
        assert elsewhere("GET", "/users/me").status_code == 200
        alice("POST", "/auth/logout")
        assert_problem(elsewhere("GET", "/users/me"), 401, "unauthenticated")
    finally:
        two.extensions["database"].close()
