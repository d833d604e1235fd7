import unicodedata

import pytest

from api.auth.names import folded
from tests.conftest import Caller, assert_problem, execute, sign_in, sign_up


@pytest.mark.parametrize("path", ["/users/me", "/users/profile"])
def test_one_sees_ones_own_account(user, path):
    found = user("GET", path)
    assert found.status_code == 200
    assert (found.json["username"], found.json["email"], found.json["role"]) == ("alice", "alice@example.com", "user")
    assert "password" not in found.text


def test_an_account_is_shown_as_it_is_now(app, user):
    execute(app, "UPDATE users SET email = 'new@example.com', version = 2 WHERE username = 'alice'")
    assert user("GET", "/users/me").json["email"] == "new@example.com"


def test_ones_own_account_is_not_sent_again_if_it_did_not_change(app, user):
    tag = user("GET", "/users/me").headers["ETag"]
    again = user("GET", "/users/me", If_None_Match=tag)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
    execute(app, "UPDATE users SET role = 'admin', version = 2 WHERE username = 'alice'")
    assert user("GET", "/users/me", If_None_Match=tag).json["role"] == "admin"


def test_whoever_signs_in_next_on_the_same_browser_is_not_shown_the_last_ones_account(app, admin):
    """/users/me is another thing for everybody, so its ETag must be too: 304 would mean "what you have is still so"."""
    tag = admin("GET", "/users/me").headers["ETag"]
    found = sign_up(app, "alice")("GET", "/users/me", If_None_Match=tag)
    assert found.status_code == 200
    assert found.json["username"] == "alice"


def test_answers_to_one_user_are_kept_by_no_shared_cache(user):
    for path in ("/users/me", "/tasks"):
        assert "private" in user("GET", path).headers["Cache-Control"] or user("GET", path).cache_control.no_store


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ABC", "abc"),
        ("Straße", "strasse"),
        ("\u03d2\u0301", "\u03cd"),
        ("①②", "12"),
        ("x", "x"),
        ("\u0130", "i\u0307"),
        ("\u1e96", "h\u0331"),
        ("\u0390", "\u03b9\u0308\u0301"),
    ],
)
def test_folding(name, same):
    assert folded(name) == folded(same)


def test_what_is_folded_is_in_its_normal_form():
    """Folding takes some letters apart (U+0390, U+1E96 ...), so that the normal form must be made again."""
    for code in (0x1F0, 0x390, 0x3B0, 0x1E96, 0x1F50, 0x1FB7):
        assert unicodedata.is_normalized("NFKC", folded(chr(code)))


@pytest.mark.parametrize(
    "character", [chr(code) for code in (0x37A, 0x390, 0x1FB3, 0xFB05, 0x1E9E, 0x345, 0x149, 0x3F4)]
)
def test_folding_twice_changes_nothing(character):
    assert folded(folded(f"a{character}b")) == folded(f"a{character}b")


def test_names_keep_the_spelling_they_were_given(app):
    caller = sign_up(app, "Zoë")
    assert caller("GET", "/users/me").json["username"] == "Zoë"
    assert_problem(Caller(app)("GET", "/users/me"), 401, "unauthenticated")
    assert sign_in(app, "ZOË").token
