"""What the tests of the dashboard share: an API without a browser, and a browser that objects to nothing."""

import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

PASSWORD = "a walnut's shell, closed"
ADMIN = "ada@example.com"
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
HOSTILE = [
    "<script>document.title='broken in'</script>",
    "<img src=x onerror=\"document.title='broken in'\">",
    "W" * 200,
    "שלום עולם, this turns around",
    "🌰 walnut 👩‍👩‍👧‍👦 \u202egnirts desrever",
]


class Api:
    """The same server without a browser: what other people do meanwhile."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/api/v1"
        self.token: str | None = None

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and the body."""
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self.token}"} if self.token else {}
        )
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                raw, status = answer.read(), answer.status
        except urllib.error.HTTPError as refusal:
            raw, status = refusal.read(), refusal.code
        return status, json.loads(raw) if raw else None

    def add(self, title: str, **more: Any) -> dict[str, Any]:
        """Add a task."""
        status, task = self("POST", "/tasks", {"title": title, **more})
        assert status == 201, task
        return dict(task)

    def submit(self, vendor: str, payload: Any) -> str:
        """Submit a job and return its id."""
        status, job = self("POST", "/jobs", {"vendor_type": vendor, "vendor_payload": payload})
        assert status == 202, job
        return str(job["request_id"])

    def sign_in(self, email: str) -> "Api":
        """Be somebody."""
        status, tokens = self("POST", "/auth/login", {"email": email, "password": PASSWORD})
        assert status == 200, tokens
        self.token = tokens["access_token"]
        return self


def first_admin(url: str) -> Api:
    """Register the first account and sign in to the API."""
    api = Api(url)
    status, user = api(
        "POST", "/auth/register", {"username": "ada", "email": ADMIN, "password": PASSWORD, "role": "admin"}
    )
    assert status == 201, user
    return api.sign_in(ADMIN)


def watched(page: Page) -> Iterator[list[str]]:
    """No test may leave an error in the console, a breach of the security policy, or a request to another host."""
    said: list[str] = []
    asked: list[str] = []

    def console(message: ConsoleMessage) -> None:
        refusal = REFUSED.match(message.text) and "/api/" in message.location["url"]  # Chromium reports every 4xx
        if message.type in ("error", "warning") and not refusal:
            said.append(f"{message.type}: {message.text}")

    def watch(tab: Page) -> None:
        tab.on("console", console)
        tab.on("pageerror", lambda error: said.append(f"exception: {error}"))

    page.context.on("page", watch)
    page.context.on("request", lambda request: asked.append(request.url))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    watch(page)
    yield said
    assert said == []
    assert [url for url in asked if urlsplit(url).hostname != "127.0.0.1" and not url.startswith("data:")] == []
    assert any("/static/js/main.js" in url for url in asked), "the watch itself must have seen something"


def sign_in(page: Page, url: str, email: str = ADMIN, password: str = PASSWORD, path: str = "/") -> None:
    """Open the dashboard and sign in."""
    page.goto(url + path)
    form = page.get_by_role("form", name="Sign in")
    form.get_by_label("Email").fill(email)
    form.get_by_label("Password").fill(password)
    form.get_by_role("button", name="Sign in").click()


def new_user(api: Api) -> str:
    """Register somebody without rights; return the address."""
    name = f"u{uuid.uuid4().hex[:10]}"
    status, user = Api(api.url.removesuffix("/api/v1"))(
        "POST", "/auth/register", {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    )
    assert status == 201, user
    return f"{name}@example.com"


def entry(page: Page, method: str, path: str) -> Locator:
    """The newest entry of the request panel for this request."""
    return page.locator(".entry").filter(
        has=page.locator(".entry-method", has_text=re.compile(f"^{method}$")),
    ).filter(has=page.locator(".entry-path", has_text=path)).first  # fmt: skip


def wrong(field: Locator, text: str | re.Pattern[str]) -> None:
    """Expect the input to be marked as wrong, and to be described by this message."""
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(text)


def count_requests(page: Page, chosen: Callable[[Request], bool]) -> list[Request]:
    """A list that grows with the requests of the page that are chosen."""
    seen: list[Request] = []
    page.on("request", lambda request: seen.append(request) if chosen(request) else None)
    return seen


def tokens_of(page: Page, url: str, email: str = ADMIN, path: str = "/") -> dict[str, Any]:
    """Sign in and return what the server answered: the page itself keeps no token where a test could find it."""
    with page.expect_response("**/auth/login") as answer:
        sign_in(page, url, email, path=path)
    return dict(answer.value.json())
