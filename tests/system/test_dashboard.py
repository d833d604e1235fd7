"""The dashboard, driven as people drive it: a real server, a real browser, and nothing that the browser objects to."""

import json
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect

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
from tests.system.processes import Walnut, wait_until


class WithWorker(Walnut):
    """`walnut serve` as people start it: it works on jobs too."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "api", "serve"]


@pytest.fixture(scope="module")
def signed_up(walnut: Any) -> Api:
    """The server with an admin, who was the first to register, signed in to the API."""
    return first_admin(walnut.url)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    """A server that works on jobs."""
    with WithWorker(tmp_path_factory.mktemp("gateway"), WORKERS=1) as server:
        yield server


@pytest.fixture(scope="module")
def admin(gateway: Walnut) -> Api:
    """Its admin."""
    return first_admin(gateway.url)


@pytest.fixture
def api(signed_up: Api) -> Api:
    """The same, without any task."""
    while tasks := signed_up("GET", "/tasks?limit=100")[1]["items"]:
        for task in tasks:
            assert signed_up("DELETE", f"/tasks/{task['id']}")[0] == 204
    return signed_up


@pytest.fixture(autouse=True)
def objections(page: Page) -> Iterator[list[str]]:
    """What the browser objected to."""
    yield from watched(page)


def row(page: Page, title: str) -> Locator:
    """The row of the task with this title."""
    return page.locator(".task").filter(has=page.get_by_role("button", name=title, exact=True))


def titles(page: Page) -> Locator:
    """The titles that the list shows, in order."""
    return page.locator(".task .task-title")


def editor(page: Page) -> Locator:
    """The dialog in which a task is written."""
    return page.get_by_role("dialog")


# ---- accounts


def test_first_visit_offers_to_sign_in_and_says_how_the_server_is(page: Page, walnut: Any) -> None:
    """Before anybody signs in: a form, the server's state, links, and no request that would fail."""
    page.goto(walnut.url)
    expect(page).to_have_title("Walnut")
    expect(page.get_by_role("heading", name="Welcome to Walnut")).to_be_visible()
    expect(page.get_by_label("Email").first).to_be_focused()
    expect(page.locator("#server-state")).to_have_text("Healthy")
    expect(page.get_by_role("link", name="Swagger UI")).to_have_attribute("href", "/api-docs")
    expect(page.get_by_role("link", name="Health")).to_have_attribute("href", "/health")
    expect(page.locator(".entry")).to_have_count(0)
    page.locator("#server-chip").click()
    expect(page.locator("#server-facts")).to_contain_text("database")


def test_an_account_is_created_and_signed_in(page: Page, walnut: Any, api: Api) -> None:
    """Registering leads straight to the tasks; the panel shows how, without the password."""
    name = f"v{uuid.uuid4().hex[:10]}"
    page.goto(walnut.url)
    page.get_by_role("button", name="Create account").first.click()
    form = page.get_by_role("form", name="Create account")
    expect(form.get_by_role("radio", name="User")).to_be_checked()
    form.get_by_label("Username").fill(name)
    form.get_by_label("Email").fill(f"{name}@example.com")
    form.get_by_label("Password").fill(PASSWORD)
    with page.expect_response("**/auth/login") as answer:
        form.get_by_role("button", name="Create account").click()
    expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
    expect(page.locator("#who")).to_contain_text(name)
    expect(page.locator("#who-role")).to_have_text("user")
    expect(entry(page, "POST", "/auth/register").locator(".http-status")).to_have_text("201")
    for path in ("/auth/register", "/auth/login"):
        entry(page, "POST", path).locator("summary").click()
    expect(page.locator("#panel")).to_contain_text("••••••••")
    text = page.locator("#panel").inner_text()
    assert PASSWORD not in text
    assert answer.value.json()["access_token"] not in text


def test_the_first_account_may_be_an_admin(page: Page, tmp_path: Path) -> None:
    """On a fresh server, whoever comes first asks for admin and may then do everything."""
    with Walnut(tmp_path) as fresh:
        page.goto(fresh.url)
        page.get_by_role("button", name="Create account").first.click()
        form = page.get_by_role("form", name="Create account")
        form.get_by_role("radio", name="Admin").check()
        form.get_by_label("Username").fill("first")
        form.get_by_label("Email").fill("first@example.com")
        form.get_by_label("Password").fill(PASSWORD)
        form.get_by_label("Password").press("Enter")
        expect(page.locator("#who-role")).to_have_text("admin")
        expect(page.locator("#read-only")).to_be_hidden()
        expect(page.get_by_role("button", name="Create the first task")).to_be_enabled()


def test_only_the_first_account_may_ask_for_admin(page: Page, walnut: Any, api: Api) -> None:
    """The form offers it and explains it; the server's refusal is shown in the form and nothing typed is lost."""
    page.goto(walnut.url)
    page.get_by_role("button", name="Create account").first.click()
    form = page.get_by_role("form", name="Create account")
    expect(form).to_contain_text("Only the first account of a development server may be an admin's")
    form.get_by_label("Username").fill("eve")
    form.get_by_label("Email").fill("eve@example.com")
    form.get_by_label("Password").fill(PASSWORD)
    form.get_by_role("radio", name="Admin").check()
    form.get_by_role("button", name="Create account").click()
    expect(form.get_by_role("alert")).to_contain_text("Choose User")
    expect(form.get_by_label("Email")).to_have_value("eve@example.com")
    expect(entry(page, "POST", "/auth/register").locator(".http-status")).to_have_text("403")
    expect(form.get_by_role("radio", name="User")).to_be_checked()


def test_refusals_are_shown_at_the_fields_they_name(page: Page, walnut: Any, api: Api) -> None:
    """Validation (422), what is taken (409) and a wrong password (401) are said beside the inputs."""
    page.goto(walnut.url)
    page.get_by_role("button", name="Create account").first.click()
    form = page.get_by_role("form", name="Create account")
    form.get_by_label("Username").fill("ada2")
    form.get_by_label("Email").fill("no address")
    form.get_by_label("Password").fill("short")
    form.get_by_role("button", name="Create account").click()
    wrong(form.get_by_label("Email"), re.compile("mail"))
    wrong(form.get_by_label("Password"), re.compile("8 char"))
    expect(form.get_by_label("Email")).to_be_focused()
    expect(form.get_by_label("Username")).not_to_have_attribute("aria-invalid", "true")

    form.get_by_label("Email").fill(ADMIN)
    form.get_by_label("Password").fill(PASSWORD)
    form.get_by_role("button", name="Create account").click()
    wrong(form.get_by_label("Email"), re.compile(".+"))
    expect(form.get_by_label("Password")).not_to_have_attribute("aria-invalid", "true")
    expect(entry(page, "POST", "/auth/register").locator(".http-status")).to_have_text("409")

    sign_in(page, walnut.url, password="not the password")
    password = page.get_by_role("form", name="Sign in").get_by_label("Password")
    wrong(password, re.compile(".+"))
    expect(password).to_be_focused()
    expect(entry(page, "POST", "/auth/login").locator(".http-status")).to_have_text("401")
    password.fill(PASSWORD)
    password.press("Enter")
    expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()


def test_a_session_that_ends_while_writing_loses_nothing(page: Page, walnut: Any, api: Api) -> None:
    """When the refresh token is refused too, the password is asked for on top of the dialog, and the saving goes on."""
    other = Api(walnut.url)
    other.token = tokens_of(page, walnut.url)["access_token"]
    page.get_by_role("button", name="New task", exact=True).click()
    editor(page).get_by_label("Title").fill("Written before the session ended")
    assert other("POST", "/auth/logout")[0] == 204
    page.get_by_role("button", name="Create task").click()
    again = page.get_by_role("dialog", name="Sign in again")
    expect(again.get_by_label("Email")).to_have_value(ADMIN)
    again.get_by_label("Password").fill("wrong, to begin with")
    again.get_by_role("button", name="Sign in").click()
    wrong(again.get_by_label("Password"), re.compile(".+"))
    again.get_by_label("Password").fill(PASSWORD)
    again.get_by_role("button", name="Sign in").click()
    expect(titles(page)).to_have_text(["Written before the session ended"])


# ---- tasks


def test_a_task_is_created_changed_and_deleted(page: Page, walnut: Any, api: Api) -> None:
    """The whole life of a task, from the empty list back to the empty list, mostly by keyboard."""
    sign_in(page, walnut.url)
    expect(page.get_by_role("heading", name="Nothing to do yet")).to_be_visible()
    page.get_by_role("button", name="Create the first task").press("Enter")
    dialog = page.get_by_role("dialog", name="New task")
    expect(dialog.get_by_label("Title")).to_be_focused()
    page.keyboard.type("Crack the first nut")
    dialog.get_by_label("Description").fill("Gently.\nWith care.")
    dialog.get_by_label("Priority").select_option("1")
    dialog.get_by_label("Tags").fill("kitchen, , tools ")
    dialog.get_by_label("Due").fill("2001-02-03T04:05")
    dialog.get_by_label("Assigned to").select_option(label="ada (you)")
    page.keyboard.press("Control+Enter")
    expect(dialog).to_be_hidden()

    made = row(page, "Crack the first nut")
    expect(made).to_contain_text("To do")
    expect(made).to_contain_text("1 · Urgent")
    expect(made.locator(".due")).to_have_text(re.compile(r"^Overdue · \d+ years ago$"))
    expect(made.locator(".person")).to_have_text("for ada (you)")
    expect(made.locator(".tag")).to_have_text(["kitchen", "tools"])
    expect(made.get_by_role("button", name="Crack the first nut", exact=True)).to_be_focused()
    kept = api("GET", "/tasks")[1]["items"][0]
    assert (kept["description"], kept["tags"], kept["priority"]) == ("Gently.\nWith care.", ["kitchen", "tools"], 1)
    assert kept["due_at"].startswith("2001-02-0")
    assert kept["due_at"].endswith("Z")

    page.get_by_role("button", name="Edit: Crack the first nut").click()
    dialog = page.get_by_role("dialog", name="Edit task")
    expect(dialog.get_by_label("Due")).to_have_value("2001-02-03T04:05")
    dialog.get_by_label("Title").fill("Crack the second nut")
    dialog.get_by_label("Status").select_option("in_progress")
    with page.expect_request(lambda request: request.method == "PATCH") as sent:
        dialog.get_by_role("button", name="Save").click()
    assert sent.value.headers["if-match"] == '"1"'
    assert sent.value.post_data_json == {"title": "Crack the second nut", "status": "in_progress"}, (
        "only what was changed"
    )
    expect(row(page, "Crack the second nut")).to_contain_text("In progress")

    page.get_by_role("button", name="Mark as done: Crack the second nut").click()
    expect(row(page, "Crack the second nut")).to_contain_text("Done")
    expect(row(page, "Crack the second nut").locator(".due")).to_have_text(re.compile("^Due"))
    assert api("GET", f"/tasks/{kept['id']}")[1]["status"] == "done"

    page.get_by_role("button", name="Delete: Crack the second nut").click()
    question = page.get_by_role("alertdialog", name="Delete this task?")
    expect(question.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    assert api("GET", f"/tasks/{kept['id']}")[0] == 200, "Escape is no"
    page.get_by_role("button", name="Delete: Crack the second nut").click()
    question.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Nothing to do yet")).to_be_visible()
    assert api("GET", f"/tasks/{kept['id']}")[0] == 404


def test_a_wrong_task_is_refused_at_its_fields(page: Page, walnut: Any, api: Api) -> None:
    """The dialog stays, the message is at the input, the rest that was typed is kept, and nothing is stored."""
    sign_in(page, walnut.url)
    page.get_by_role("button", name="New task", exact=True).click()
    dialog = page.get_by_role("dialog", name="New task")
    dialog.get_by_label("Title").fill("x" * 201)
    dialog.get_by_label("Description").fill("kept")
    dialog.get_by_role("button", name="Create task").click()
    wrong(dialog.get_by_label("Title"), re.compile("200"))
    expect(dialog.get_by_label("Title")).to_be_focused()
    expect(dialog.get_by_label("Description")).to_have_value("kept")
    assert api("GET", "/tasks")[1]["total"] == 0
    dialog.get_by_label("Title").fill("Short enough")
    dialog.get_by_role("button", name="Create task").click()
    expect(titles(page)).to_have_text(["Short enough"])


def test_closing_asks_before_it_loses_what_was_typed(page: Page, walnut: Any, api: Api) -> None:
    """Escape in a dialog with changes asks; without changes it just closes."""
    api.add("Untouched")
    sign_in(page, walnut.url)
    page.get_by_role("button", name="Edit: Untouched").click()
    page.keyboard.press("Escape")
    expect(editor(page)).to_have_count(0)
    page.get_by_role("button", name="Edit: Untouched").click()
    editor(page).get_by_label("Title").fill("Half a thought")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keep writing").click()
    expect(editor(page).get_by_label("Title")).to_have_value("Half a thought")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Discard").click()
    expect(editor(page)).to_have_count(0)
    expect(titles(page)).to_have_text(["Untouched"])


def test_filters_sorting_and_pages(page: Page, walnut: Any, api: Api) -> None:
    """Each filter does what it says, they are kept in the address, and the pages hold what they say."""
    api.add("Shell the peas", status="done", priority=5, tags=["garden"])
    api.add("Oil the cutting board", status="todo", priority=1, tags=["kitchen"], description="walnut oil")
    api.add("Sweep the yard", status="in_progress", priority=3, tags=["garden"])
    sign_in(page, walnut.url)
    expect(titles(page)).to_have_text(["Sweep the yard", "Oil the cutting board", "Shell the peas"])
    expect(page.locator("#tasks-count")).to_have_text("3 tasks")
    for sort in page.get_by_role("search").get_by_label("Sort by").locator("option").all():
        with page.expect_response(re.compile("/api/v1/tasks")) as answer:
            page.get_by_role("search").get_by_label("Sort by").select_option(sort.get_attribute("value"))
        assert answer.value.status == 200, sort.inner_text()
    page.get_by_role("search").get_by_label("Sort by").select_option("priority")
    expect(titles(page)).to_have_text(["Oil the cutting board", "Sweep the yard", "Shell the peas"])
    filters = page.get_by_role("search")
    filters.get_by_label("Status").select_option("done")
    expect(titles(page)).to_have_text(["Shell the peas"])
    filters.get_by_label("Status").select_option("")
    filters.get_by_label("Priority").select_option("3")
    expect(titles(page)).to_have_text(["Sweep the yard"])
    filters.get_by_label("Priority").select_option("")
    filters.get_by_label("Search").fill("walnut")
    expect(titles(page)).to_have_text(["Oil the cutting board"])
    filters.get_by_label("Search").fill("nothing has this word")
    expect(page.get_by_role("heading", name="No task matches")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    row(page, "Shell the peas").get_by_role("button", name="garden").click()
    expect(titles(page)).to_have_text(["Sweep the yard", "Shell the peas"])
    assert parse_qs(urlsplit(page.url).query)["tag"] == ["garden"]
    page.reload()
    expect(filters.get_by_label("Tag")).to_have_value("garden")
    expect(titles(page)).to_have_text(["Sweep the yard", "Shell the peas"])

    for number in range(9):
        api.add(f"Nut {number}")
    filters.get_by_label("Tag").fill("")
    filters.get_by_label("Sort by").select_option("created_at")
    page.get_by_label("Per page").select_option("10")
    expect(page.locator("#page-range")).to_have_text("1\u201310 of 12")
    expect(page.get_by_role("button", name="Previous")).to_have_attribute("aria-disabled", "true")
    page.get_by_role("button", name="Next").click()
    expect(titles(page)).to_have_text(["Nut 7", "Nut 8"])
    expect(page.get_by_role("button", name="Next")).to_have_attribute("aria-disabled", "true")
    page.get_by_role("button", name="Previous").click()
    expect(titles(page).first).to_have_text("Shell the peas")


def test_the_newest_search_wins(page: Page, walnut: Any, api: Api) -> None:
    """An answer that comes late does not replace the one that was asked for last."""
    api.add("Early bird")
    api.add("Late bird")
    sign_in(page, walnut.url)
    expect(titles(page)).to_have_count(2)
    held: list[Route] = []
    page.route(re.compile("q=Early"), lambda route: held.append(route))
    with page.expect_request(re.compile("q=Early")):
        page.get_by_role("search").get_by_label("Search").fill("Early")
    page.get_by_role("search").get_by_label("Search").fill("Late")
    expect(titles(page)).to_have_text(["Late bird"])
    with page.expect_response(re.compile("q=Early")):
        held[0].continue_()
    expect(entry(page, "GET", "q=Early")).to_be_visible()
    expect(titles(page)).to_have_text(["Late bird"])


def test_someone_else_was_faster(page: Page, walnut: Any, api: Api) -> None:
    """Two tabs edit one task: the slower is told, loads the newest without losing anything, and then saves."""
    task = api.add("Plant a tree", description="Somewhere.", priority=3)
    sign_in(page, walnut.url)
    page.get_by_role("button", name="Edit: Plant a tree").click()
    editor(page).get_by_label("Title").fill("Plant a walnut tree")

    other = page.context.new_page()
    other.goto(walnut.url)
    other.get_by_role("button", name="Edit: Plant a tree").click()
    other.get_by_label("Title").fill("Plant two trees")
    other.get_by_role("dialog").get_by_label("Priority").select_option("1")
    other.get_by_role("button", name="Save").click()
    expect(titles(other)).to_have_text(["Plant two trees"])

    page.bring_to_front()  # Chromium gives a tab behind others little to do with
    page.get_by_role("button", name="Save").click()
    dialog = page.get_by_role("dialog", name="Edit task")
    expect(dialog.get_by_role("alert").filter(has_text="Someone else changed this task")).to_be_visible()
    expect(dialog.get_by_label("Title")).to_have_value("Plant a walnut tree")
    assert api("GET", f"/tasks/{task['id']}")[1]["title"] == "Plant two trees", "nothing was overwritten"
    dialog.get_by_role("button", name="Load the newest version").click()
    expect(dialog.get_by_label("Title")).to_have_value("Plant a walnut tree")
    expect(dialog.get_by_label("Priority")).to_have_value("1")
    expect(dialog.locator(".theirs")).to_contain_text("Plant two trees")
    dialog.get_by_role("button", name="Save").click()
    expect(titles(page)).to_have_text(["Plant a walnut tree"])
    now = api("GET", f"/tasks/{task['id']}")[1]
    assert (now["title"], now["priority"], now["description"], now["version"]) == (
        "Plant a walnut tree",
        1,
        "Somewhere.",
        3,
    )
    expect(entry(page, "PATCH", task["id"]).locator(".http-status")).to_have_text("200")


def test_a_stale_row_changes_nothing_and_is_brought_up_to_date(page: Page, walnut: Any, api: Api) -> None:
    """Deleting or ticking what somebody else changed meanwhile is refused, said, and the list is read again."""
    task = api.add("Old words")
    sign_in(page, walnut.url)
    expect(titles(page)).to_have_text(["Old words"])
    assert api("PATCH", f"/tasks/{task['id']}", {"title": "New words"})[0] == 200
    page.get_by_role("button", name="Delete: Old words").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#notices")).to_contain_text("Someone else changed")
    expect(titles(page)).to_have_text(["New words"])


def test_what_was_deleted_meanwhile_can_be_saved_as_new(page: Page, walnut: Any, api: Api) -> None:
    """Not even a deletion loses what somebody is writing."""
    task = api.add("Soon gone")
    sign_in(page, walnut.url)
    page.get_by_role("button", name="Edit: Soon gone").click()
    editor(page).get_by_label("Title").fill("Not gone")
    assert api("DELETE", f"/tasks/{task['id']}")[0] == 204
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Save it as a new task").click()
    expect(titles(page)).to_have_text(["Not gone"])


def test_a_user_sees_what_is_for_admins_disabled_with_the_reason(page: Page, walnut: Any, api: Api) -> None:
    """Every change is shown, says why it cannot be used, stays reachable by keyboard, and sends nothing."""
    api.add("Look, do not touch", description="Read me.")
    sign_in(page, walnut.url, new_user(api))
    reason = "Only an admin may create, change or delete tasks. You are signed in as a user, who may read them."
    expect(page.locator("#read-only")).to_have_text(reason)
    writes = count_requests(page, lambda request: request.method != "GET")
    for name in (
        "New task",
        "Edit: Look, do not touch",
        "Delete: Look, do not touch",
        "Mark as done: Look, do not touch",
    ):
        button = page.get_by_role("button", name=name, exact=True)
        expect(button).to_be_disabled()
        expect(button).to_have_accessible_description(reason)
        button.focus()
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("#notices")).to_contain_text(reason)
    page.get_by_role("button", name="Look, do not touch", exact=True).click()
    dialog = page.get_by_role("dialog", name="Task")
    expect(dialog.get_by_label("Description")).to_have_value("Read me.")
    expect(dialog.get_by_label("Description")).not_to_be_editable()
    expect(dialog.get_by_role("button", name="Save")).to_be_disabled()
    dialog.get_by_label("Title").press("Control+Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert writes == []


@pytest.mark.parametrize("title", HOSTILE, ids=["script", "handler", "long", "rtl", "emoji"])
def test_hostile_text_is_only_text(page: Page, walnut: Any, api: Api, title: str) -> None:
    """Whatever a title, a description or a tag says, it is shown as text, fits, and comes back unchanged."""
    task = api.add(title, description=title, tags=[title[:50]])
    page.set_viewport_size({"width": 360, "height": 740})
    sign_in(page, walnut.url)
    expect(titles(page)).to_have_text([title])
    page.get_by_role("button", name="Requests").click()
    entry(page, "GET", "/tasks?").locator("summary").click()
    expect(page.locator("#panel pre").first).to_be_visible()
    page.get_by_role("button", name="Requests").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".task .edit").click()
    expect(editor(page).get_by_label("Title")).to_have_value(title)
    assert page.locator("#editor").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    editor(page).get_by_label("Description").fill("mended")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#notices")).to_contain_text("is saved.")
    now = api("GET", f"/tasks/{task['id']}")[1]
    assert (now["title"], now["description"], now["tags"]) == (title, "mended", [title[:50]])
    expect(page).to_have_title("Walnut")
    assert page.locator("main script, main img[src=x], dialog script, #panel script").count() == 0


# ---- jobs


def job_row(page: Page, job_id: str) -> Locator:
    """The row of a job in the list."""
    return page.locator(".job").filter(has=page.locator(f'a[href="#/jobs/{job_id}"]'))


def submit(page: Page, payload: Any = None, vendor: str = "sync") -> str:
    """Submit a job by the form and return its id."""
    form = page.get_by_role("form", name="Submit a job")
    form.get_by_label("Vendor").fill(vendor)
    if payload is not None:
        form.get_by_label("Payload").fill(json.dumps(payload))
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        form.get_by_role("button", name="Submit job").click()
    assert answer.value.status == 202, answer.value.text()
    return str(answer.value.json()["request_id"])


def look_away(page: Page, hidden: bool) -> None:
    """Put another tab in front of this one, or this one again."""
    page.evaluate(
        """hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
                       document.dispatchEvent(new Event('visibilitychange')); }""",
        hidden,
    )


def test_a_job_is_submitted_and_followed_to_its_end(page: Page, gateway: Walnut, admin: Api) -> None:
    """What is no JSON is said before anything is sent; then the list, the line and the dialog show it as it changes."""
    sign_in(page, gateway.url)
    page.get_by_role("link", name="Jobs").click()
    expect(page).to_have_title("Jobs \u00b7 Walnut")
    expect(page.get_by_role("link", name="Complete 1")).to_be_visible()  # the mail to the admin, who sees all jobs
    expect(page.locator("#live")).to_have_text("Live")
    form = page.get_by_role("form", name="Submit a job")
    payload = form.get_by_label("Payload")
    assert json.loads(payload.input_value()) == {"productId": "PROD-ABC-123", "action": "fetch_details"}
    assert sorted(page.locator("#vendors option").evaluate_all("all => all.map(one => one.value)")) == ["async", "sync"]
    form.get_by_label("Vendor").fill("async")
    assert json.loads(payload.input_value()) == {"userId": "USER-XYZ-456", "reportType": "monthly_sales"}

    posts = count_requests(page, lambda request: request.method == "POST")
    for text, said in [('{"a": oops}', "This is no JSON"), ("12345678901234567890", "exactly"), ("", "Give some JSON")]:
        payload.fill(text)
        form.get_by_role("button", name="Submit job").click()
        wrong(payload, re.compile(said))
        expect(payload).to_be_focused()
    assert posts == []
    form.get_by_role("button", name="Use the example").click()

    job_id = submit(page, vendor="async")
    assert posts[0].headers["idempotency-key"]
    assert set(posts[0].post_data_json or {}) == {"vendor_type", "vendor_payload"}
    expect(page.locator("#newest")).to_have_text(f"Job \u2026{job_id[-6:]} for async: complete")
    expect(job_row(page, job_id)).to_contain_text("Complete")
    expect(page.get_by_role("link", name="Complete 2")).to_be_visible()
    expect(page.locator(".entry-path", has_text=re.compile(r"/jobs\?"))).to_have_count(1)  # what events caused is quiet
    page.get_by_role("link", name=f"Job \u2026{job_id[-6:]}").click()
    dialog = page.get_by_role("dialog", name="Job for async")
    result = json.loads(dialog.get_by_role("region", name="Result").inner_text())
    assert result == admin("GET", f"/jobs/{job_id}")[1]["result"]
    assert result["data"] == "Processed async data for USER-XYZ-456"
    steps = dialog.get_by_role("list", name="Timeline").locator("strong")
    expect(steps).to_have_text(["Created", "Claimed", "Called", "Answered", "Accepted", "Webhook", "Complete"])
    expect(dialog.get_by_role("button", name=re.compile("job$"))).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("#/jobs$"))

    stream = entry(page, "GET", "/api/v1/events")
    stream.locator("summary").click()
    expect(stream.locator("pre").first).to_contain_text("-N")
    page.get_by_label("Vendor").fill("nobody")
    form.get_by_role("button", name="Submit job").click()
    wrong(form.get_by_label("Vendor"), re.compile("Known are: async, sync"))


def test_a_user_cancels_and_an_admin_retries(page: Page, gateway: Walnut, admin: Api) -> None:
    """On a phone: a user sees his own jobs only, by status, cancels one, and is told who may retry; an admin does."""
    foreign = admin.submit("sync", None)
    page.set_viewport_size({"width": 360, "height": 740})
    vendors = count_requests(page, lambda request: "/vendors" in request.url)
    sign_in(page, gateway.url, new_user(admin), path="/#/jobs")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    assert vendors == []
    failed = submit(page, {"productId": "W" * 300, "mock": {"status": 400}})
    expect(job_row(page, failed)).to_contain_text("The vendor answered with status 400")
    slow = submit(page, {"mock": {"silent": True}}, vendor="async")
    expect(job_row(page, slow)).to_contain_text("Processing")
    expect(job_row(page, foreign)).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    job_row(page, slow).get_by_role("link").press("Enter")
    dialog = page.get_by_role("dialog", name="Job for async")
    dialog.get_by_role("button", name="Cancel job").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel job").click()
    expect(dialog.get_by_role("status")).to_have_text("Cancelled")
    assert admin("GET", f"/jobs/{slow}")[1]["status"] == "cancelled"
    retry = dialog.get_by_role("button", name="Retry job")
    expect(retry).to_be_disabled()
    expect(retry).to_have_accessible_description("Only an admin may retry a job. Submit it anew instead.")
    assert page.locator("#job").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    page.keyboard.press("Escape")
    expect(job_row(page, slow).get_by_role("link")).to_be_focused()
    page.get_by_role("link", name="Failed 1").click()
    expect(page.locator(".job")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("link", name="Failed 1")).to_have_attribute("aria-current", "true")
    expect(job_row(page, failed)).to_be_visible()
    page.goto(f"{gateway.url}/#/jobs/{foreign}")
    expect(page.get_by_role("alert").filter(has_text="There is no job")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Welcome to Walnut")).to_be_visible()
    for part in ("#job", "#jobs"):
        expect(page.locator(part)).not_to_contain_text(foreign)

    sign_in(page, gateway.url, path=f"/#/jobs/{failed}")
    page.get_by_role("button", name="Retry job").click()
    expect(steps_of(page).filter(has_text="Retried")).to_be_visible()
    expect(steps_of(page).filter(has_text="Failed")).to_have_count(2)


def steps_of(page: Page) -> Locator:
    """The steps in the timeline of the open job."""
    return page.get_by_role("list", name="Timeline").locator("li")


def test_listening_goes_on_where_it_was_cut_off(page: Page, gateway: Walnut, admin: Api, objections: list[str]) -> None:
    """Nobody listens for a hidden tab; what happened meanwhile comes afterwards, and after a restart of the server."""
    streams = count_requests(page, lambda request: request.url.endswith("/api/v1/events"))
    looks = count_requests(page, lambda request: "/api/v1/jobs?" in request.url)
    with page.expect_response(lambda answer: "/api/v1/jobs?" in answer.url and len(looks) == 2):  # and once it is live
        sign_in(page, gateway.url, path="/#/jobs")
    live = page.locator("#live")
    expect(live).to_have_text("Live")
    look_away(page, True)
    expect(live).to_have_text("")
    missed = admin.submit("sync", None)
    wait_until(lambda: admin("GET", f"/jobs/{missed}")[1]["status"] == "complete", 10, "the job")
    expect(job_row(page, missed)).to_have_count(0)
    look_away(page, False)
    expect(job_row(page, missed)).to_contain_text("Complete")
    assert re.fullmatch(r"\d+-\d+", streams[1].headers["last-event-id"])

    gateway.restart()
    after = admin.submit("sync", None)
    page.evaluate("dispatchEvent(new Event('online'))")  # what the browser says when the network is back
    expect(live).to_have_text("Live", timeout=20_000)
    expect(job_row(page, after)).to_contain_text("Complete")
    # The browser itself reports what it cannot reach; the page adds nothing to it.
    assert [said for said in objections if not re.search("ERR_CONNECTION_REFUSED|status of 503", said)] == []
    objections.clear()

    page.get_by_role("link", name="Tasks").click()
    expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
    before = len(streams)
    look_away(page, False)
    page.get_by_role("link", name="Jobs").click()
    expect(live).to_have_text("Live")
    assert len(streams) == before + 1, "the tasks do not listen"
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Welcome to Walnut")).to_be_visible()
    look_away(page, False)
    time.sleep(0.2)
    assert len(streams) == before + 1, "nobody listens for nobody"


def test_where_nothing_streams_the_list_is_asked_for(
    page: Page, gateway: Walnut, admin: Api, objections: list[str]
) -> None:
    """A server, or something before it, that refuses to stream: the list is read every five seconds."""
    page.clock.install()
    refusal = {"title": "Too many", "status": 429, "detail": "You listen 20 times already."}
    page.route("**/api/v1/events", lambda route: route.fulfill(status=429, json=refusal))
    sign_in(page, gateway.url, path="/#/jobs")
    expect(page.locator("#live")).to_have_text("Every 5 seconds")
    job_id = admin.submit("sync", None)
    wait_until(lambda: admin("GET", f"/jobs/{job_id}")[1]["status"] == "complete", 10, "the job")
    expect(job_row(page, job_id)).to_have_count(0)
    page.clock.run_for(6_000)
    expect(job_row(page, job_id)).to_contain_text("Complete")
    page.unroute("**/api/v1/events")
    page.clock.run_for(40_000)
    expect(page.locator("#live")).to_have_text("Live")


# ---- the request panel


def test_the_panel_shows_the_request_and_its_answer(page: Page, walnut: Any, api: Api) -> None:
    """Status, time, replica, request id, both bodies: the same as the browser saw them. Newest first."""
    sign_in(page, walnut.url)
    page.get_by_role("button", name="New task", exact=True).click()
    editor(page).get_by_label("Title").fill("It's shown")
    with page.expect_response(lambda response: response.request.method == "POST") as seen:
        page.get_by_role("button", name="Create task").click()
    expect(titles(page)).to_have_text(["It's shown"])
    expect(page.locator(".entry").nth(0).locator(".entry-path")).to_contain_text("/api/v1/tasks?")
    made = page.locator(".entry").nth(1)
    headers = seen.value.headers
    expect(made.locator(".entry-method")).to_have_text("POST")
    expect(made.locator(".entry-path")).to_have_text("/api/v1/tasks")
    expect(made.locator(".http-status")).to_have_text("201")
    expect(made.locator(".entry-ms")).to_have_text(re.compile(r"^\d+(\.\d)? ms$"))
    expect(made.locator(".entry-replica")).to_have_text(headers["x-served-by"])
    expect(made.locator(".entry-id")).to_have_text(headers["x-request-id"])
    made.locator("summary").press("Enter")
    facts = made.locator(".facts")
    assert {"x-served-by", "x-request-id", "etag"} <= set(headers)
    for name in ("x-served-by", "x-request-id", "etag", "x-api-version", "location"):
        if name in headers:
            expect(facts).to_contain_text(headers[name])
    sent, answered = made.locator("pre").nth(0), made.locator("pre").nth(1)
    assert json.loads(sent.inner_text())["title"] == "It's shown"
    assert json.loads(answered.inner_text()) == api("GET", "/tasks")[1]["items"][0]


def test_copied_curl_does_the_same_in_a_shell(page: Page, walnut: Any, api: Api) -> None:
    """The copied command holds $TOKEN and no token, and a real shell reads quotes and dollars as they were typed."""
    title = """It's "quoted" $HOME `id` \\ !! 🌰"""
    token = tokens_of(page, walnut.url)["access_token"]
    page.get_by_role("button", name="New task", exact=True).click()
    editor(page).get_by_label("Title").fill(title)
    page.get_by_role("button", name="Create task").click()
    expect(titles(page)).to_have_text([title])
    made = entry(page, "POST", "/api/v1/tasks")
    made.locator("summary").click()
    made.get_by_role("button", name="Copy as curl").click()
    expect(made.get_by_text("Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("curl ")
    assert '"Authorization: Bearer $TOKEN"' in command
    assert token not in command
    words = shell_words(command, TOKEN="the-token")
    assert "Authorization: Bearer the-token" in words
    assert f"{walnut.url}/api/v1/tasks" in words
    assert json.loads(words[words.index("--data-raw") + 1])["title"] == title

    entry(page, "POST", "/auth/login").locator("summary").click()
    entry(page, "POST", "/auth/login").get_by_role("button", name="Copy as curl").click()
    expect(entry(page, "POST", "/auth/login").get_by_text("Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    words = shell_words(command, PASSWORD="from the environment")
    assert shlex.quote(PASSWORD) not in command
    assert json.loads(words[words.index("--data-raw") + 1]) == {
        "email": ADMIN,
        "password": "from the environment",
        "cookie": True,
    }


def shell_words(command: str, **variables: str) -> list[str]:
    """The words that a shell makes of a command."""
    printed = subprocess.run(
        ["/bin/sh", "-c", f"set -- {command}; printf '%s\\0' \"$@\""],
        env=variables,
        capture_output=True,
        check=True,
        text=True,
    )
    return printed.stdout.split("\0")[:-1]


def test_the_panel_keeps_a_hundred_and_can_be_cleared_and_closed(page: Page, walnut: Any, api: Api) -> None:
    """It does not grow for ever; closing it is remembered."""
    sign_in(page, walnut.url)
    expect(page.locator(".state")).to_be_visible()
    page.route("**/api/v1/tasks?*", lambda route: route.fulfill(json={"items": [], "page": 1, "limit": 20, "total": 0}))
    page.evaluate(
        """async () => { for (let i = 0; i < 105; i++) { document.getElementById('reload-tasks').click(); } }"""
    )
    expect(page.locator("#panel-count")).to_have_text("100")
    expect(page.locator(".entry")).to_have_count(100)
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator(".entry")).to_have_count(0)
    page.get_by_role("button", name="Requests").click()
    expect(page.locator("#panel-body")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("button", name="Requests")).to_have_attribute("aria-expanded", "false")


# ---- when things go wrong, and how it looks


def test_a_failing_server_is_said_and_can_be_tried_again(
    page: Page, walnut: Any, api: Api, objections: list[str]
) -> None:
    """A 503 is shown with its words and its request id; trying again mends it."""
    api.add("Back again")
    sign_in(page, walnut.url)
    expect(titles(page)).to_have_text(["Back again"])
    problem = {"title": "Busy", "status": 503, "detail": "The database is busy.", "code": "busy", "request_id": "r-1"}
    headers = {"Retry-After": "2", "X-Request-ID": "r-1", "Content-Type": "application/problem+json"}
    page.route("**/api/v1/tasks?*", lambda route: route.fulfill(status=503, json=problem, headers=headers))
    with page.expect_console_message():
        page.get_by_role("button", name="Refresh").click()
    state = page.locator(".state")
    expect(state).to_contain_text("The database is busy. Try again in 2 s.")
    expect(state).to_contain_text("r-1")
    assert len(objections) == 1
    assert "status of 503" in objections.pop()
    page.unroute("**/api/v1/tasks?*")
    page.route("**/api/v1/tasks?*", lambda route: route.abort())
    with page.expect_console_message():
        page.get_by_role("button", name="Try again").click()
    expect(state).to_contain_text("The server could not be reached.")
    expect(entry(page, "GET", "/tasks?").locator(".http-status")).to_have_text("\u2013")
    assert "ERR_FAILED" in objections.pop()
    page.unroute("**/api/v1/tasks?*")
    page.get_by_role("button", name="Try again").click()
    expect(titles(page)).to_have_text(["Back again"])


def test_the_chip_says_when_the_server_is_in_trouble(page: Page, walnut: Any, objections: list[str]) -> None:
    """Database down, no answer, well again: looked at when the page comes up or the chip is opened."""
    page.route(
        "**/health",
        lambda route: route.fulfill(status=503, json={"status": "down", "database": {"status": "unreachable"}}),
    )
    page.goto(walnut.url)
    state = page.locator("#server-state")
    expect(state).to_have_text("Down")
    page.locator("#server-chip").click()
    expect(page.locator("#server-facts")).to_contain_text("unreachable")
    page.keyboard.press("Escape")
    page.unroute("**/health")
    page.route("**/health", lambda route: route.abort())
    page.locator("#server-chip").click()
    expect(state).to_have_text("No answer")
    page.keyboard.press("Escape")
    page.unroute("**/health")
    page.locator("#server-chip").click()
    expect(state).to_have_text("Healthy")
    assert objections
    assert all("503" in said or "ERR_FAILED" in said for said in objections)
    objections.clear()


def test_the_theme_follows_the_system_until_one_is_chosen(page: Page, walnut: Any) -> None:
    """Light and dark come from the system; the toggle wins and is remembered over a reload."""
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    page.goto(walnut.url)
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    toggle = page.get_by_role("button", name="Dark theme")
    expect(toggle).to_have_attribute("aria-pressed", "true")
    page.emulate_media(color_scheme="light")
    toggle.click()
    assert page.evaluate(background) == dark
    page.reload()
    assert page.evaluate(background) == dark
    expect(toggle).to_have_attribute("aria-pressed", "true")
    toggle.click()
    page.reload()
    assert page.evaluate(background) == light


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_overflows(page: Page, walnut: Any, api: Api, width: int) -> None:
    """From a small phone to a desk, the page never scrolls sideways, and the dialogs fit."""
    api.add("One", tags=["a", "b"], due_at="2001-01-01T00:00:00Z")
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(walnut.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sign_in(page, walnut.url)
    expect(titles(page)).to_have_text(["One"])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Edit: One").click()
    save = page.get_by_role("button", name="Save")
    expect(save).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("part", ["/", "/#/jobs", "/#/people", "/#/account"])
def test_every_control_has_a_name_and_a_focus_ring(page: Page, walnut: Any, api: Api, part: str) -> None:
    """What can be used can be named by a screen reader, and whoever walks with Tab sees where they are."""
    api.add("Named", tags=["tag"])
    api.submit("sync", None)
    sign_in(page, walnut.url, path=part)
    expect(page.locator(".task, .job, .person-row, .item").first).to_be_visible()
    page.locator("body").click(position={"x": 2, "y": 200})
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        at = page.evaluate("""() => {
            const it = document.activeElement, style = getComputedStyle(it);
            return { tag: it.tagName, what: it.outerHTML.slice(0, 120),
                     ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                     name: it.ariaLabel || it.labels?.[0]?.textContent || it.textContent };
        }""")
        if at["tag"] == "BODY":
            break
        seen.add(at["what"])
        assert at["name"].strip(), at
        assert at["ring"], at
    assert len(seen) >= 10


def test_the_policy_is_strict(page: Page, walnut: Any) -> None:
    """The page comes with a policy that allows nothing inline and no other host: only then is watching worth it."""
    answer = page.goto(walnut.url)
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
