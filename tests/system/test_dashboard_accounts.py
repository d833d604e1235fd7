"""Accounts in the dashboard, driven as people drive it: signing in, what is one's own, and other people."""

import base64
import hashlib
import hmac
import json
import re
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from api.web.guard import PERMISSIONS
from tests.system.dashboard import (
    ADMIN,
    HOSTILE,
    PASSWORD,
    Api,
    count_requests,
    entry,
    first_admin,
    new_user,
    sign_in,
    tokens_of,
    watched,
    wrong,
)
from tests.system.processes import Walnut

OTHER_PASSWORD = "two walnuts, and a third one"
STORED = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])"
NO_COOKIES = "Object.defineProperty(Document.prototype, 'cookie', { get() { return ''; }, set() {} })"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    """A server that does not mind how often somebody signs in, and hashes as quickly as the quick tests do."""
    folder, often = tmp_path_factory.mktemp("walnut"), "10000 per 15 minutes"
    with Walnut(folder, APP_ENV="testing", RATE_LIMIT_AUTH=often, WORKERS=1) as started:
        yield started


@pytest.fixture(scope="module")
def api(server: Walnut) -> Api:
    """Its admin."""
    return first_admin(server.url)


@pytest.fixture(autouse=True)
def objections(page: Page, api: Api) -> Iterator[list[str]]:
    """What the browser objected to."""
    yield from watched(page)


def welcome(page: Page) -> Locator:
    """The heading of the page on which one signs in."""
    return page.get_by_role("heading", name="Welcome to Walnut")


def box(page: Page, name: str) -> Locator:
    """A part of one's account."""
    return page.locator("#account .box").filter(has=page.get_by_role("heading", name=name, exact=True))


def refuse_once(page: Page, path: str) -> None:
    """Answer the next request for a path with 401, as if the access token had expired."""
    refusal = {"title": "Unauthorized", "status": 401}
    page.route(path, lambda route: route.fulfill(status=401, json=refusal), times=1)


# ---- who is signed in


def test_no_script_can_find_what_keeps_one_signed_in(page: Page, server: Walnut) -> None:
    """The refresh token is in a cookie for one route; a reload goes on with it; signing out ends it, and forgets."""
    tokens = tokens_of(page, server.url)
    assert tokens["refresh_token"] is None
    expect(page.locator("#who-role")).to_have_text("admin")
    assert page.evaluate(STORED) == '[{"walnut-session":"cookie"},{},""]'
    (cookie,) = page.context.cookies(f"{server.url}/api/v1/auth/refresh")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert page.context.cookies(f"{server.url}/api/v1/tasks") == []

    asked = count_requests(page, lambda request: "/api/" in request.url)
    page.reload()
    expect(page.locator("#who-role")).to_have_text("admin")
    assert [request.url.split("?")[0].removeprefix(server.url) for request in asked[:3]] == [
        "/api/v1/auth/refresh",
        "/api/v1/users/me",
        "/api/v1/tasks",
    ]
    entry(page, "POST", "/auth/refresh").locator("summary").click()
    expect(page.locator("#panel")).to_contain_text('-b "walnut_refresh=$REFRESH_TOKEN"')
    assert cookie["value"] not in page.content()

    held: list[Route] = []
    page.route("**/api/v1/tasks?*", lambda route: held.append(route))
    page.get_by_role("button", name="Refresh").click()
    page.get_by_role("button", name="Sign out").click()
    expect(welcome(page)).to_be_visible()
    with page.expect_response("**/api/v1/tasks?*"):
        held[0].continue_()
    expect(page.locator(".entry")).to_have_count(0)
    assert page.evaluate(STORED) == '[{},{},""]'
    assert page.context.cookies(f"{server.url}/api/v1/auth/refresh") == []
    stolen = Api(server.url)
    stolen.token = tokens["access_token"]
    assert stolen("GET", "/users/me")[0] == 401
    page.reload()
    expect(welcome(page)).to_be_visible()
    expect(page.locator(".entry")).to_have_count(0)


def test_tabs_come_and_go_together(page: Page, server: Walnut, api: Api) -> None:
    """A new tab is signed in, both can refresh at once, and none ever shows two people."""
    sign_in(page, server.url)
    expect(page.locator("#who-name")).to_have_text("ada")
    twin = page.context.new_page()
    twin.goto(server.url)
    expect(twin.locator("#who-name")).to_have_text("ada")
    for tab in (page, twin):
        refuse_once(tab, "**/api/v1/tasks?*")
    for tab in (page, twin):
        tab.evaluate("document.getElementById('reload-tasks').click()")
    for tab in (page, twin):
        expect(entry(tab, "POST", "/auth/refresh").locator(".http-status")).to_have_text("200")
        expect(entry(tab, "GET", "/tasks?").locator(".http-status")).to_have_text("200")

    page.bring_to_front()
    page.get_by_role("button", name="Sign out").click()
    expect(welcome(page)).to_be_visible()
    expect(welcome(twin)).to_be_visible()
    expect(twin.get_by_role("form", name="Sign in")).to_contain_text("You signed out in another tab.")
    expect(twin.locator(".entry")).to_have_count(0)

    sign_in(page, server.url)
    expect(page.locator("#who-name")).to_have_text("ada")
    email = new_user(api)
    twin.bring_to_front()
    twin.get_by_label("Email").first.fill(email)  # it did not hear of a session when it was opened
    twin.get_by_label("Password").first.fill(PASSWORD)
    twin.get_by_role("button", name="Sign in").last.click()
    expect(twin.locator("#who-name")).to_have_text(email.split("@")[0])
    expect(page.locator("#who-name")).to_have_text(email.split("@")[0])
    expect(page.locator("#read-only")).to_be_visible()


def test_a_page_does_not_go_on_as_somebody_else(page: Page, server: Walnut, api: Api) -> None:
    """Also where no tab could tell: the cookie has become another person's, and so the page begins anew as theirs."""
    sign_in(page, server.url)
    expect(page.locator("#who-name")).to_have_text("ada")
    email = new_user(api)
    page.evaluate(
        """async body => {
            const headers = { 'Content-Type': 'application/json' };
            await fetch('/api/v1/auth/login', { method: 'POST', headers, body });
        }""",
        json.dumps({"email": email, "password": PASSWORD, "cookie": True}),
    )
    refuse_once(page, "**/api/v1/tasks?*")
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#who-name")).to_have_text(email.split("@")[0])
    expect(page.locator("#read-only")).to_be_visible()
    assert "ada" not in page.locator("#panel").inner_text()


def test_several_refused_requests_share_one_refresh(page: Page, server: Walnut) -> None:
    """A 401 leads to one refresh and the same requests again."""
    sign_in(page, server.url)
    expect(page.locator("#who-role")).to_have_text("admin")
    refreshes = count_requests(page, lambda request: request.url.endswith("/auth/refresh"))
    for path in ("users/me", "auth/sessions*", "auth/api-keys"):
        refuse_once(page, f"**/api/v1/{path}")
    page.get_by_role("link", name="Your account").click()
    expect(page.locator("#session-list")).to_contain_text("This one")
    expect(box(page, "API keys")).to_contain_text("None yet")
    expect(page.get_by_label("Username").locator("visible=true")).to_have_value("ada")
    assert len(refreshes) == 1


def test_without_cookies_the_tab_keeps_its_tokens(page: Page, server: Walnut) -> None:
    """Where the browser takes none, both tokens are in the tab; its copy hears of the next ones, and of the end."""
    page.context.add_init_script(NO_COOKIES)
    tokens = tokens_of(page, server.url)
    expect(page.locator("#who-role")).to_have_text("admin")
    assert page.context.cookies() == []
    stored = "JSON.parse(sessionStorage.getItem('walnut-tokens'))?.refresh_token"
    assert page.evaluate(stored) == tokens["refresh_token"]
    with page.expect_popup() as opened:
        page.evaluate("void window.open('/')")
    twin = opened.value
    expect(twin.locator("#who-role")).to_have_text("admin")
    assert twin.evaluate(stored) == tokens["refresh_token"]
    page.bring_to_front()
    refuse_once(page, "**/api/v1/tasks?*")
    with page.expect_response("**/auth/refresh") as renewed:
        page.get_by_role("button", name="Refresh").click()
    expect(page.locator(".state")).to_be_visible()
    twin.reload()
    expect(twin.locator("#who-role")).to_have_text("admin")  # with the token that only the channel could give it
    assert page.evaluate(stored) == twin.evaluate(stored) == renewed.value.json()["refresh_token"]
    page.get_by_role("button", name="Sign out").click()
    expect(welcome(twin)).to_be_visible()
    assert page.evaluate(STORED) == twin.evaluate(STORED) == '[{},{},""]'


def test_an_address_that_is_not_confirmed_is_said_and_can_be_asked_for(page: Page, server: Walnut, api: Api) -> None:
    """What the server says when it wants a confirmed address: said in the form, with a way to get the mail again."""
    problem = {
        "title": "Forbidden",
        "status": 403,
        "code": "email_not_confirmed",
        "detail": "Confirm your address first.",
    }
    page.route("**/auth/login", lambda route: route.fulfill(status=403, json=problem))
    sign_in(page, server.url, email := new_user(api))
    form = page.get_by_role("form", name="Sign in")
    expect(form.get_by_role("alert")).to_contain_text("This address is not confirmed yet")
    with page.expect_request("**/auth/confirmation") as asked:
        form.get_by_role("button", name="Send the mail again").click()
    assert asked.value.method == "PUT"
    assert asked.value.post_data_json == {"email": email}
    expect(form.get_by_role("alert")).to_contain_text("If an account has this address")
    expect(form.get_by_role("link", name="Forgot your password?")).to_have_attribute(
        "href", "/static/reset-password.html"
    )


# ---- one's own account


def totp(secret: str) -> str:
    """The six digits of RFC 6238 for this moment, anew and without the server's code."""
    digest = hmac.digest(base64.b32decode(secret), struct.pack(">Q", int(time.time()) // 30), hashlib.sha1)
    number = struct.unpack(">I", digest[digest[-1] & 15 :][:4])[0] & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def test_a_second_factor_from_beginning_to_end(page: Page, server: Walnut, api: Api) -> None:
    """Set up by QR code or text, codes kept, asked for wherever a password is not enough, and switched off."""
    email = new_user(api)
    sign_in(page, server.url, email, path="/#/account")
    factor = box(page, "Second factor")
    expect(factor.get_by_role("status").first).to_contain_text("Off.")
    begin = page.get_by_role("form", name="Set up a second factor")
    begin.get_by_label("Your password").fill("not the password")
    begin.get_by_role("button", name="Set it up").click()
    wrong(begin.get_by_label("Your password"), re.compile("not"))
    begin.get_by_label("Your password").fill(PASSWORD)
    begin.get_by_role("button", name="Set it up").click()
    qr = factor.get_by_role("img", name="QR code")
    expect(qr).to_be_visible()
    assert qr.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
    secret = factor.locator("#totp-secret code").inner_text().replace(" ", "")
    confirm = page.get_by_role("form", name="Confirm the second factor")
    code = totp(secret)
    confirm.get_by_label("Code from your authenticator").fill(f"{code[:3]} {code[3:]}")
    confirm.get_by_role("button", name="Switch it on").click()
    shown = page.get_by_role("group", name="Your recovery codes")
    expect(shown.locator("li")).to_have_count(10)
    codes = shown.locator("li").all_inner_texts()
    shown.get_by_role("button", name="Copy").click()
    expect(shown).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").split() == codes
    with page.expect_download() as kept:
        shown.get_by_role("button", name="Download").click()
    assert Path(kept.value.path()).read_text().split() == codes
    for summary in page.locator(".entry summary").all():
        summary.click()
    panel = page.locator("#panel").inner_text()
    for private in (secret, code, codes[0], PASSWORD):
        assert private not in panel
    page.get_by_role("link", name="Jobs").click()
    expect(page.locator("#notices")).to_contain_text("Your recovery codes are still at Account")
    page.get_by_role("link", name="Your account").click()
    expect(shown.locator("li")).to_have_text(codes)
    with page.expect_event("dialog") as asked:
        page.evaluate("setTimeout(() => location.reload())")
    assert asked.value.type == "beforeunload"
    asked.value.dismiss()
    shown.get_by_role("button", name="I have saved them").click()
    assert codes[0] not in page.content()
    assert secret not in page.content()

    page.locator("#codes-shown").evaluate("shown => shown.append('a code that nobody saved')")
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(welcome(page)).to_be_visible()
    assert "a code that nobody saved" not in page.content()
    sign_in(page, server.url, email)
    form = page.get_by_role("form", name="Sign in")
    expect(form.get_by_role("alert")).to_contain_text("second factor")
    field = form.get_by_label("Code from your authenticator")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("autocomplete", "one-time-code")
    expect(field).to_have_attribute("inputmode", "numeric")
    field.fill("000000" if totp(secret) != "000000" else "000001")
    field.press("Enter")
    wrong(field, re.compile(".+"))
    form.get_by_role("button", name="Use a recovery code").click()
    expect(recovery := form.get_by_label("Recovery code")).to_be_focused()
    expect(recovery).to_have_value("")
    expect(recovery).not_to_have_attribute("aria-invalid", "true")
    recovery.fill(codes[0])
    form.get_by_role("button", name="Sign in").click()
    expect(page.locator("#who-role")).to_have_text("user")

    page.get_by_role("link", name="Your account").click()
    expect(factor.get_by_role("status").first).to_contain_text("On since")
    keep_codes_coming(page, email, codes)
    factor.get_by_text("Switch off").click()
    off = page.get_by_role("form", name="Switch the second factor off")
    off.get_by_label("Your password").fill(OTHER_PASSWORD)
    off.get_by_label("Code from your authenticator").fill(codes[1])
    off.get_by_role("button", name="Switch it off").click()
    expect(factor.get_by_role("status").first).to_contain_text("Off.")
    expect(page.get_by_label("Code from your authenticator").locator("visible=true")).to_have_count(0)


def keep_codes_coming(page: Page, email: str, codes: list[str]) -> None:
    """Make a key, ask for another address and change the password: each takes a code, and says so at its field."""
    keys, profile, password = box(page, "API keys"), box(page, "Profile"), box(page, "Password")
    keys.get_by_text("New key", exact=True).click()
    keys.get_by_label("Name").fill("backup")
    profile.get_by_label("Email").fill(new := f"new-{email}")
    password.get_by_label("New password").fill(OTHER_PASSWORD)
    keys.locator(".with-factor").evaluate("field => { field.hidden = true; }")  # as if switched on elsewhere since
    for form, own, button in (
        (keys, "Your password", "Create key"),
        (profile, "Your password", "Save profile"),
        (password, "Current password", "Change password"),
    ):
        code = form.get_by_label("Code from your authenticator")
        expect(code).to_have_attribute("autocomplete", "one-time-code")
        form.get_by_label(own).fill(PASSWORD)
        form.get_by_role("button", name=button).click()
        wrong(code, re.compile("Send the six digits.*recovery codes"))
        expect(code).to_be_focused()
    for form, button, given in ((keys, "Create key", codes[2]), (profile, "Save profile", codes[3])):
        form.get_by_label("Code from your authenticator").fill(given)
        form.get_by_role("button", name=button).click()
    expect(keys.get_by_role("heading", name="Your new key")).to_be_visible()
    profile.get_by_role("button", name=f"Send the mail again: {new}").click()
    expect(profile.get_by_label("Email")).to_have_value(new)
    expect(profile.get_by_label("Your password")).to_be_focused()
    expect(profile.get_by_role("alert")).to_contain_text("the mail is sent again")
    password.get_by_label("Code from your authenticator").fill(codes[4])
    password.get_by_role("button", name="Change password").click()
    expect(page.locator("#notices")).to_contain_text(f"Your address stays {email}")
    expect(profile).not_to_contain_text(new)
    for path in ("/auth/api-keys", "/users/me", "/auth/change-password"):
        for summary in page.locator(".entry").filter(has_text=path).locator("summary").all():
            summary.click()
    panel = page.locator("#panel").inner_text()
    assert "$CODE" in panel
    assert [secret for secret in (*codes, PASSWORD, OTHER_PASSWORD) if secret in panel] == []


def test_an_admin_is_led_to_the_second_factor_that_the_server_wants(page: Page, server: Walnut) -> None:
    """Whatever is refused for want of one leads to where it is set up, which says why."""
    problem = {"title": "Forbidden", "status": 403, "code": "second_factor_needed", "detail": "..."}
    page.route("**/api/v1/tasks?*", lambda route: route.fulfill(status=403, json=problem))
    sign_in(page, server.url)
    expect(page.get_by_role("form", name="Set up a second factor")).to_contain_text("an admin needs a second factor")
    expect(page.get_by_role("heading", name="Second factor")).to_be_focused()
    expect(page).to_have_title("Account \u00b7 Walnut")


def test_profile_and_password(page: Page, server: Walnut, api: Api) -> None:
    """A name is changed, a new address takes the password and its link, a new password ends the other sessions."""
    email = new_user(api)
    other = Api(server.url).sign_in(email)
    sign_in(page, server.url, email, path="/#/account")
    profile, name = box(page, "Profile"), f"n{uuid.uuid4().hex[:8]}"
    expect(page.locator("#session-list li")).to_have_count(2)
    expect(page.locator("#session-list")).to_contain_text("A Python program")
    expect(profile.get_by_label("Your password")).to_be_hidden()
    profile.get_by_label("Username").fill(name)
    profile.get_by_label("Email").fill(f"{name}@example.org")
    expect(profile.get_by_label("Code from your authenticator")).to_be_hidden()
    sent = count_requests(page, lambda request: request.method == "PATCH")
    profile.get_by_role("button", name="Save profile").click()
    wrong(profile.get_by_label("Your password"), re.compile("Type your password"))
    assert sent == []
    profile.get_by_label("Your password").fill("not the password")
    profile.get_by_role("button", name="Save profile").click()
    wrong(profile.get_by_label("Your password"), re.compile("password"))
    profile.get_by_label("Your password").fill(PASSWORD)
    profile.get_by_role("button", name="Save profile").click()
    expect(page.locator("#who-name")).to_have_text(name)
    expect(profile.get_by_label("Email")).to_have_value(email)
    expect(profile).to_contain_text(f"{email} is not confirmed yet")
    expect(profile).to_contain_text(f"To be {name}@example.org")
    profile.get_by_role("button", name=f"Keep the present address: {email}").click()
    profile.get_by_label("Your password").fill(PASSWORD)
    profile.get_by_role("button", name="Save profile").click()
    expect(page.locator("#notices")).to_contain_text(f"Your address stays {email}.")
    expect(profile).not_to_contain_text(f"To be {name}@example.org")
    assert sent[-1].post_data_json == {"email": email, "current_password": PASSWORD}

    password = box(page, "Password")
    password.get_by_label("Current password").fill(PASSWORD)
    password.get_by_label("New password").fill("short")
    password.get_by_role("button", name="Change password").click()
    wrong(password.get_by_label("New password"), re.compile("8 char"))
    password.get_by_label("New password").fill(OTHER_PASSWORD)
    password.get_by_role("button", name="Change password").click()
    expect(page.locator("#notices")).to_contain_text("Your password is changed.")
    expect(password.get_by_label("New password")).to_have_value("")
    expect(page.locator("#session-list li")).to_have_count(1)
    assert other("GET", "/users/me")[0] == 401
    entry(page, "PUT", "/auth/change-password").locator("summary").click()
    command = entry(page, "PUT", "/auth/change-password").get_by_role("region", name="curl").inner_text()
    assert "$CURRENT_PASSWORD" in command
    assert "$NEW_PASSWORD" in command
    assert OTHER_PASSWORD not in page.locator("#panel").inner_text()


def test_sessions_and_keys_are_ended(page: Page, server: Walnut, api: Api) -> None:
    """One session is ended, then all others; a key is made for what one may, shown once, used, and revoked."""
    email = new_user(api)
    others = [Api(server.url).sign_in(email) for _ in range(3)]
    page.set_viewport_size({"width": 360, "height": 740})
    sign_in(page, server.url, email, path="/#/account")
    sessions = page.locator("#session-list li")
    expect(sessions).to_have_count(4)
    expect(sessions.first).to_contain_text("Chrome on Linux This one")
    sessions.last.get_by_role("button", name="End session").click()
    expect(sessions).to_have_count(3)
    page.get_by_role("button", name="Sign out everywhere else").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Sign out there").click()
    expect(sessions).to_have_count(1)
    expect(page.get_by_role("button", name="Sign out everywhere else")).to_be_hidden()
    assert [other("GET", "/users/me")[0] for other in others] == [401] * 3

    keys = box(page, "API keys")
    keys.get_by_text("New key", exact=True).click()
    form = page.get_by_role("form", name="New API key")
    assert set(form.get_by_role("checkbox").evaluate_all("all => all.map(one => one.value)")) == scopes("user")
    form.get_by_role("checkbox", name="Read tasks").uncheck()
    form.get_by_role("button", name="Create key").click()
    wrong(form.get_by_label("Name"), re.compile(".+"))
    form.get_by_label("Name").fill(HOSTILE[1])
    form.get_by_role("checkbox", name="Read tasks").check()
    form.get_by_label("Your password").fill("not the password")
    form.get_by_role("button", name="Create key").click()
    wrong(form.get_by_label("Your password"), re.compile("password"))
    form.get_by_label("Your password").fill(PASSWORD)
    form.get_by_role("button", name="Create key").click()
    made = page.get_by_role("group", name="Your new key")
    expect(made.get_by_role("heading", name="Your new key")).to_be_focused()
    key = made.get_by_role("region", name="The key").inner_text()
    made.get_by_role("button", name="Copy the key").click()
    expect(made).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == key
    program = Api(server.url)
    program.token = key
    assert program("GET", "/tasks")[0] == 200
    page.get_by_role("button", name="Requests").click()
    entry(page, "POST", "/auth/api-keys").locator("summary").click()
    expect(entry(page, "POST", "/auth/api-keys").get_by_role("region", name="Answer")).to_contain_text("••••")
    assert key not in page.locator("#panel").inner_text()
    page.get_by_role("button", name="Requests").click()
    made.get_by_role("button", name="I have copied it").click()
    assert key not in page.content()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    keys.get_by_role("button", name=f"Revoke: {HOSTILE[1]}").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Revoke").click()
    expect(keys).to_contain_text("None yet")
    assert program("GET", "/tasks")[0] == 401


def scopes(role: str) -> set[str]:
    """What a key of this role may be for."""
    return {permission for permission in PERMISSIONS[role] if ":" in permission}


def test_own_data_is_taken_along_and_the_account_deleted(page: Page, server: Walnut, api: Api) -> None:
    """The export is a file; deleting asks for name and password, and leaves nothing in the page or its twin."""
    email = new_user(api)
    sign_in(page, server.url, email, path="/#/account")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download my data").click()
    assert re.fullmatch(r"walnut-export-\d{4}-\d\d-\d\d\.json", download.value.suggested_filename)
    assert email in Path(download.value.path()).read_text()
    assert json.loads(Path(download.value.path()).read_text())
    twin = page.context.new_page()
    twin.goto(f"{server.url}/#/jobs")
    expect(twin.locator("#who-role")).to_have_text("user")
    page.bring_to_front()  # Chromium gives a tab behind others little to do with
    page.get_by_role("button", name="Delete my account").press("Enter")  # a notice may lie over it for a while
    dialog = page.get_by_role("dialog", name="Delete your account?")
    dialog.get_by_label("To confirm").fill("somebody else")
    dialog.get_by_label("Your password").fill("not the password")
    dialog.get_by_role("button", name="Delete my account").click()
    wrong(dialog.get_by_label("To confirm"), re.compile("not your username"))
    dialog.get_by_label("To confirm").fill(email.split("@")[0])
    dialog.get_by_role("button", name="Delete my account").click()
    wrong(dialog.get_by_label("Your password"), re.compile("password"))
    dialog.get_by_label("Your password").fill(PASSWORD)
    dialog.get_by_role("button", name="Delete my account").click()
    expect(page.get_by_role("form", name="Sign in")).to_contain_text("Your account is deleted.")
    expect(welcome(twin)).to_be_visible()
    assert email.split("@")[0] not in page.content()
    assert Api(server.url)("POST", "/auth/login", {"email": email, "password": PASSWORD})[0] == 401


# ---- people


def test_an_admin_looks_after_people(page: Page, server: Walnut, api: Api) -> None:
    """Found, made without a password, changed for the version that was seen, deleted; the last admin stays."""
    sign_in(page, server.url, path="/#/people")
    row = page.locator(".person-row")
    page.get_by_role("button", name="New person").click()
    dialog = page.get_by_role("dialog")
    name = f"m{uuid.uuid4().hex[:10]}"
    dialog.get_by_label("Username").fill(name)
    dialog.get_by_label("Email").fill("no address")
    dialog.get_by_role("button", name="Create person").click()
    wrong(dialog.get_by_label("Email"), re.compile("mail"))
    dialog.get_by_label("Email").fill(f"{name}@example.com")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        dialog.get_by_role("button", name="Create person").click()
    assert sent.value.headers["idempotency-key"]
    assert sent.value.post_data_json == {"username": name, "email": f"{name}@example.com", "role": "user"}
    expect(page.locator("#notices")).to_contain_text("a link to choose a password")
    expect(page.get_by_role("button", name=name, exact=True)).to_be_focused()

    page.get_by_role("search").get_by_label("Search").fill(name.upper())
    expect(row).to_have_count(1)
    expect(page.locator("#people-count")).to_have_text("1 person")
    page.reload()
    expect(row).to_have_count(1)
    person = api("GET", f"/users?q={name}")[1]["items"][0]
    row.get_by_role("button", name="Edit").click()
    dialog.get_by_label("Role").select_option("admin")
    assert api("PATCH", f"/users/{person['id']}", {"username": f"{name}x"})[0] == 200
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Someone else changed this account")
    expect(dialog.get_by_label("Username")).to_have_value(f"{name}x")
    expect(dialog.get_by_label("Role")).to_have_value("admin")
    dialog.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Admin")
    row.get_by_role("button", name="Edit").click()
    dialog.get_by_label("May sign in").select_option("false")
    dialog.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Deactivated")
    row.get_by_role("button", name="Edit").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Nobody matches")).to_be_visible()
    assert api("GET", f"/users/{person['id']}")[0] == 404
    page.get_by_role("button", name="Clear filters").click()

    page.get_by_role("search").get_by_label("Search").fill(ADMIN)
    expect(row).to_have_count(1)
    row.get_by_role("button", name="Edit").click()
    expect(dialog.get_by_label("Email")).not_to_be_editable()
    expect(dialog.get_by_role("button", name="Delete")).to_be_hidden()
    dialog.get_by_label("Role").select_option("user")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text(re.compile("last.*admin"))
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Discard").click()
    assert api("GET", "/users/me")[1]["role"] == "admin"


def test_names_are_only_text_and_known_to_admins(page: Page, server: Walnut, api: Api) -> None:
    """Whatever a name says, it is shown as text and fits; admins see it at tasks, others the end of an id."""
    made = {}
    for number, text in enumerate(HOSTILE):
        name = re.sub(r"[\s\u200d\u202e]", "-", text)[:64]  # the server takes none that cannot be seen
        status, user = api("POST", "/users", {"username": name, "email": f"h{number}@example.com"})
        assert status == 201, user
        made[user["id"]] = name
    for user in made:
        api.add("For somebody", assignee_id=user)
    page.set_viewport_size({"width": 360, "height": 740})
    sign_in(page, server.url, path="/#/people")
    for name in made.values():
        expect(page.locator(".person-row .task-title").filter(has_text=name)).to_have_text(name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name=f"Edit: {made[user]}").click()
    assert page.locator("#user").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Tasks").click()
    expect(page.locator(".task .person")).to_have_text([f"for {name}" for name in reversed(made.values())])
    expect(page.get_by_label("Assigned to").first.locator("option", has_text=made[user])).to_have_count(1)
    expect(page).to_have_title("Walnut")
    assert page.locator("main script, main img[src=x]").count() == 0

    page.get_by_role("button", name="Sign out").click()
    expect(welcome(page)).to_be_visible()
    content = page.content()
    assert [name for name in ["ada", *made.values()] if name in content] == [], "of who has left, nothing stays"
    lookups = count_requests(page, lambda request: re.search(r"/users(\?|/0)", request.url) is not None)
    sign_in(page, server.url, new_user(api), path="/#/people")
    expect(page.get_by_role("heading", name="Only for admins")).to_be_visible()
    expect(page.get_by_role("link", name="People")).to_be_hidden()
    page.get_by_role("link", name="Tasks").click()
    expect(page.locator(".task .person").first).to_have_text(re.compile(r"^for user …"))
    assert lookups == []
