"""Swagger UI as a person explores it: Authorize and Execute, under the strict policy, asking no other host."""

import json
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page

from tests.system.processes import Walnut

JOHN = {"username": "john", "email": "john@example.com", "password": "secret123", "role": "admin"}


class Swagger:
    """Swagger UI in a tab, with what the browser complained of and which addresses it asked for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._complain)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(f"{url}/api-docs")
        page.locator(".opblock").first.wait_for()

    def execute(self, operation: str, body: Any = None, **parameters: str) -> tuple[str, Any]:
        """Open an operation, fill it in and press Execute; return the status and the JSON that the page shows."""
        block = self.page.locator(f"#operations-{operation}")
        block.locator(".opblock-summary-control").click()
        for name, value in parameters.items():
            block.locator(f'tr[data-param-name="{name}"] input').fill(value)
        if body is not None:
            block.locator("textarea.body-param__text").fill(json.dumps(body))
        block.locator("button.execute").click()
        answer = block.locator(".live-responses-table tr.response")
        answer.wait_for()
        shown = answer.locator(".highlight-code code")
        text = shown.first.inner_text() if shown.count() else ""
        return answer.locator(".response-col_status").inner_text().split()[0], json.loads(text or "null")

    def authorize(self, token: str) -> None:
        """Paste a token behind the button Authorize."""
        self.page.locator("button.authorize").first.click()
        self.page.locator(".auth-container input").fill(token)
        self.page.locator(".auth-btn-wrapper button.authorize").click()
        self.page.locator(".auth-btn-wrapper button.btn-done").click()

    def _complain(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def swagger(page: Page, walnut: Walnut) -> Swagger:
    return Swagger(page, walnut.url)


def test_a_person_can_do_the_whole_tour(swagger: Swagger) -> None:
    assert swagger.execute("auth-post_auth_register", JOHN)[0] == "201"
    status, tokens = swagger.execute("auth-post_auth_login", {name: JOHN[name] for name in ("email", "password")})
    assert status == "200"
    swagger.authorize(tokens["access_token"])
    status, task = swagger.execute("tasks-post_tasks", {"title": "From Swagger UI"})
    assert (status, task["title"]) == ("201", "From Swagger UI")
    status, found = swagger.execute("tasks-get_tasks_task_id", task_id=task["id"])
    assert (status, found) == ("200", task)
    status, page = swagger.execute("tasks-get_tasks", q="swagger")
    assert (status, page["items"]) == ("200", [task])
    assert swagger.execute("tasks-delete_tasks_task_id", task_id=task["id"])[0] == "204"
    assert swagger.complaints == []
    assert {address for address in swagger.asked if not address.startswith((swagger.url + "/", "data:"))} == set()


def test_without_authorize_it_shows_the_problem(swagger: Swagger) -> None:
    status, problem = swagger.execute("tasks-get_tasks")
    assert (status, problem["code"]) == ("401", "unauthenticated")


def test_nobody_can_point_it_at_another_document(page: Page, walnut: Walnut) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{walnut.url}/api-docs?url=http://127.0.0.1:9/evil.json&configUrl=http://127.0.0.1:9/evil.json")
    page.locator(".opblock").first.wait_for()
    assert not [address for address in asked if address.startswith("http://127.0.0.1:9/")]


def test_every_route_is_there(swagger: Swagger) -> None:
    document = swagger.page.request.get(f"{swagger.url}/api-docs/openapi.json").json()
    operations = sum(len(methods) for methods in document["paths"].values())
    assert swagger.page.locator(".opblock").count() == operations > 15


def test_the_other_version_is_a_click_away(swagger: Swagger, walnut: Walnut) -> None:
    swagger.page.get_by_role("link", name="version 2").click()
    swagger.page.wait_for_url("**/api-docs?version=2")
    swagger.page.locator("#operations-tasks-get_tasks").wait_for()
    paths = swagger.page.locator(".opblock-summary-path").evaluate_all("all => all.map(one => one.dataset.path)")
    assert len(paths) > 15
    assert all(path.startswith("/api/v2/") for path in paths)
    assert swagger.page.locator("#document").get_attribute("href") == "/api-docs/openapi.json?version=2"
    account = {"username": "mary", "email": "mary@example.com", "password": "secret123"}
    assert walnut.request("POST", "/api/v1/auth/register", account).status == 201
    login = {name: account[name] for name in ("email", "password")}
    swagger.authorize(walnut.request("POST", "/api/v1/auth/login", login).json()["access_token"])
    status, part = swagger.execute("tasks-get_tasks", limit="2")
    assert (status, set(part)) == ("200", {"items", "next_cursor"})
    assert swagger.complaints == []
