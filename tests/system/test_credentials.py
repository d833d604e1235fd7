"""Links in mails, as people meet them: a real server, a real worker, a real SMTP server and a real browser."""

import re
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect

from tests.conftest import SECRET
from tests.smtp_server import SmtpServer
from tests.system.conftest import NO_LIMITS
from tests.system.dashboard import sign_in
from tests.system.processes import Walnut, free_port, wait_until

PASSWORD, OTHER = "correct horse", "a horse of another colour"
TOKEN = re.compile(r"http://127\.0\.0\.1:\d+/static/[a-z-]+\.html#([\w-]{43})")
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")


UNWANTED = {("nobody@example.com", "Choose a new password"), ("eve@example.com", "Confirm your address")}


class WithWorker(Walnut):
    """`walnut serve` as people start it: it sends mail too."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "api", "serve"]


@pytest.fixture(scope="module")
def post() -> Iterator[SmtpServer]:
    with SmtpServer() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, post: SmtpServer) -> Iterator[Walnut]:
    port = free_port()
    own = {"APP_ENV": "testing", "WORKERS": 1, "SMTP_URL": f"smtp://127.0.0.1:{post.port}"}
    own |= {"PUBLIC_URL": f"http://127.0.0.1:{port}", "LOG_LEVEL": "debug"}
    with WithWorker(tmp_path_factory.mktemp("walnut"), port, **own, **SECRET, **NO_LIMITS) as running:
        yield running


@pytest.fixture
def tab(page: Page) -> Iterator[Page]:
    """No page may leave an error in the console, a breach of the security policy, or ask another host."""
    said: list[str] = []
    asked: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not REFUSED.match(message.text):
            said.append(message.text)

    page.on("console", console)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert said == []
    assert {urlsplit(url).hostname for url in asked} == {"127.0.0.1"}


def call(server: Walnut, method: str, path: str, body: Any = None, status: int = 200, token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else None
    answer = server.request(method, f"/api/v1{path}", body, headers)
    assert answer.status == status, answer.body
    return answer.json() if answer.body else None


def register(server: Walnut, name: str) -> str:
    """Make an account and return its address."""
    email = f"{name}@example.com"
    call(server, "POST", "/auth/register", {"username": name, "email": email, "password": PASSWORD}, 201)
    return email


def mailed(post: SmtpServer, to: str, subject: str) -> str:
    """Wait for a mail and return its link, or nothing if it has none. It is taken from the pile."""

    def there() -> list[int]:
        return [number for number, mail in enumerate(post.mails()) if (mail["To"], mail["Subject"]) == (to, subject)]

    wait_until(lambda: bool(there()), 10, f"{subject} to {to}")
    number = there()[0]
    link = TOKEN.search(post.mails()[number].get_content())
    del post.taken[number]
    return link[0] if link else ""


def me(server: Walnut, email: str, password: str = PASSWORD) -> Any:
    token = call(server, "POST", "/auth/login", {"email": email, "password": password})["access_token"]
    return call(server, "GET", "/users/me", token=token)


def ask(page: Page, email: str) -> None:
    page.get_by_label("Email").fill(email)
    page.get_by_role("button", name="Send me a link").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()


def test_an_address_is_confirmed_by_a_click_and_by_nothing_before_it(
    server: Walnut, post: SmtpServer, tab: Page
) -> None:
    email = register(server, "ada")
    link = mailed(post, email, "Confirm your address")
    writes: list[str] = []
    tab.on("request", lambda request: writes.append(request.method) if request.method != "GET" else None)
    tab.goto(link)
    button = tab.get_by_role("button", name="Confirm my address")
    expect(button).to_be_visible()
    assert urlsplit(tab.url).fragment == ""
    assert tab.evaluate("history.length") <= 2
    assert writes == []
    assert me(server, email)["email_confirmed_at"] is None
    button.click()
    expect(tab.get_by_role("heading", name="Your address is confirmed")).to_be_visible()
    assert me(server, email)["email_confirmed_at"]
    tab.goto(link)
    tab.get_by_role("button", name="Confirm my address").click()
    expect(tab.get_by_text("It was used already")).to_be_visible()
    ask(tab, email)
    tab.get_by_role("link", name="Sign in").click()
    expect(tab.get_by_role("heading", name="Welcome to Walnut")).to_be_visible()


def test_who_forgot_the_password_chooses_another(server: Walnut, post: SmtpServer, tab: Page) -> None:
    email = register(server, "bob")
    tab.set_viewport_size({"width": 360, "height": 640})
    sign_in(tab, server.url, register(server, "carol"), PASSWORD)
    expect(tab.locator("#who-role")).to_have_text("user")
    tab.goto(f"{server.url}/static/reset-password.html")
    tab.get_by_label("Email").fill("bob")
    tab.get_by_role("button", name="Send me a link").click()
    expect(tab.get_by_label("Email")).to_have_attribute("aria-invalid", "true")
    ask(tab, email)
    link = mailed(post, email, "Choose a new password")
    tab.goto(link)  # the same page in the same tab: the browser only changes the part after the #
    field = tab.get_by_label("Password", exact=True)
    expect(field).to_be_focused()
    assert urlsplit(tab.url).fragment == ""
    for bad, why in (("short", "fewer than 8"), ("iloveyou", "commonest"), ("bob@example.com", "little more than")):
        field.fill(bad)
        tab.get_by_role("button", name="Set this password").click()
        expect(tab.get_by_text(why)).to_be_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    field.fill("")
    field.press_sequentially(OTHER[:3])
    tab.get_by_role("button", name="Show the password").click()
    expect(field).to_have_attribute("type", "text")
    field.fill(OTHER)
    field.press("Enter")
    expect(tab.get_by_role("heading", name="Your password is set")).to_be_visible()
    done = tab.locator("#done")
    expect(done).to_contain_text("“\u2068carol\u2069” is signed in on this browser already: sign out first.")
    expect(done.get_by_role("link", name="Sign in")).to_be_hidden()
    done.get_by_role("button", name="Sign out there, then sign in").click()
    expect(tab.get_by_role("heading", name="Welcome to Walnut")).to_be_visible()
    assert me(server, email, OTHER)["email_confirmed_at"]
    assert mailed(post, email, "Your password was changed") == ""
    tab.goto(link)
    tab.get_by_label("Password", exact=True).fill(OTHER)
    tab.get_by_role("button", name="Set this password").click()
    expect(tab.get_by_text("not copied whole. Nothing was changed")).to_be_visible()


def test_no_mail_of_a_request_that_was_refused_and_no_token_in_the_log(server: Walnut, post: SmtpServer) -> None:
    email = register(server, "eve")
    taken = {"username": "eve2", "email": email, "password": PASSWORD}
    call(server, "POST", "/auth/register", taken, 409)
    link = mailed(post, email, "Confirm your address")
    for address in ("nobody@example.com", email):
        call(server, "PUT", "/auth/forgot-password", {"email": address}, 202)
    reset = mailed(post, email, "Choose a new password")
    tokens = [one.partition("#")[2] for one in (link, reset)]
    call(server, "PUT", f"/auth/confirmation/{tokens[0]}", status=204)
    call(server, "PUT", f"/auth/reset-password/{tokens[1]}", {"password": OTHER}, 204)
    assert server.request("GET", f"/api/v1/auth/reset-password/{tokens[1]}").status == 405
    mailed(post, email, "Your password was changed")
    time.sleep(0.3)  # what should not come, had its time
    assert not {(mail["To"], mail["Subject"]) for mail in post.mails()} & UNWANTED
    log = server.log.read_text()
    assert log.count("/auth/reset-password/<token>") >= 1
    assert log.count('"kind":"account_mail"') >= 2
    for secret in (*tokens, PASSWORD, OTHER, "eve@", "nobody@"):
        assert secret not in log
