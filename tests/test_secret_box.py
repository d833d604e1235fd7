import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import Unavailable
from api.secret_box import SecretBox, Unreadable, secret_box
from api.settings import Settings

FIRST, SECOND, THIRD = ("0123456789abcdefghijklmnopqrstuvwxyz" + end for end in "123")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FOREIGN = (  # under a key that nobody has here
    "gAAAAABrAEMl3IR58eBjrwxbl1pB4POTcTd5HOchzWlYLk8QvfNNbxloV692jJI5CaWVoxorIqmMBse52_6Wid69ky5pJp1ytQ=="
)
DEFAULTS = {field.name: field.metadata["default"] for field in dataclasses.fields(Settings)}


def box(*keys, jwt_secret=FIRST):
    return SecretBox(Settings(**DEFAULTS | {"jwt_secret": jwt_secret, "encryption_key": keys}))


@given(st.text(st.characters(codec="utf-8")))
def test_what_is_sealed_can_be_opened(text):
    assert box().open(box().seal(text)) == text


def test_a_seal_shows_nothing_and_is_never_the_same():
    seals = {box(SECOND).seal(SECRET) for _ in range(5)}
    assert len(seals) == 5
    assert all(SECRET not in sealed and sealed.isascii() and len(sealed) < 200 for sealed in seals)


@pytest.mark.parametrize("place", [0, 1, 20, 60, 100, -1])
def test_a_changed_seal_is_refused(place):
    sealed = box().seal(SECRET)
    changed = bytearray(sealed.encode())
    changed[place] = ord("A") if changed[place] != ord("A") else ord("B")
    with pytest.raises(Unreadable):
        box().open(changed.decode())


@pytest.mark.parametrize("text", ["", "gAAAA", SECRET, "ä" * 100, FOREIGN])
def test_what_was_never_sealed_here_is_refused(text):
    for attempt in (box().open, box().reseal):
        with pytest.raises(Unreadable):
            attempt(text)


def test_a_key_is_for_its_use_alone():
    """The same text as JWT_SECRET and as ENCRYPTION_KEY gives two keys: no label is forgotten."""
    sealed = box(SECOND, jwt_secret=FIRST).seal(SECRET)
    with pytest.raises(Unreadable):
        box(jwt_secret=SECOND).open(sealed)


def test_one_can_move_from_the_derived_key_to_one_of_its_own_and_then_change_jwt_secret():
    before = box(jwt_secret=FIRST).seal(SECRET)
    moving = box(SECOND, jwt_secret=FIRST)
    assert moving.open(before) == SECRET
    after = moving.reseal(before)
    assert box(SECOND, jwt_secret=THIRD).open(after) == SECRET
    with pytest.raises(Unreadable):
        box(SECOND, jwt_secret=THIRD).open(before)


def test_a_former_jwt_secret_among_the_keys_opens_what_it_sealed():
    before = box(jwt_secret=FIRST).seal(SECRET)
    mended = box(SECOND, FIRST, jwt_secret=THIRD)
    assert mended.open(before) == SECRET
    assert box(SECOND, jwt_secret=THIRD).open(mended.reseal(before)) == SECRET


def test_a_key_can_be_replaced_by_a_newer_one():
    before = box(FIRST).seal(SECRET)
    both = box(SECOND, FIRST)
    assert both.open(before) == SECRET
    with pytest.raises(Unreadable):
        box(FIRST).open(both.seal(SECRET))  # the newest one seals
    assert box(SECOND).open(both.reseal(before)) == SECRET


def test_without_the_key_the_message_says_what_to_do_and_the_log_too(caplog):
    sealed = box(FIRST).seal(SECRET)
    with pytest.raises(Unreadable) as caught:
        box(SECOND).open(sealed)
    for word in ("ENCRYPTION_KEY", "JWT_SECRET", "walnut secrets rekey", "walnut user remove-totp", "restart"):
        assert word in caught.value.detail
    assert isinstance(caught.value, Unavailable)
    assert caught.value.retry_after == 60
    assert [record.message for record in caplog.records] == [caught.value.detail]
    assert FIRST not in caplog.text
    assert sealed not in caplog.text


def test_an_app_has_its_box_and_answers_503_when_it_cannot_open(make_app):
    app = make_app(ENCRYPTION_KEY=f"{SECOND}, {FIRST}")
    with app.app_context():
        assert secret_box().open(box(FIRST).seal(SECRET)) == SECRET
    app.add_url_rule("/broken", view_func=lambda: secret_box().open(box(THIRD).seal(SECRET)))
    answer = app.test_client().get("/broken")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")


def test_a_start_needs_no_key_of_its_own(app):
    with app.app_context():
        assert secret_box().open(secret_box().seal(SECRET)) == SECRET
