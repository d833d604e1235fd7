"""Real servers and a real browser for the system tests."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.system.processes import Stack, Walnut, program

# Nginx and the app both limit; where the one is tested, the other must not be in the way.
NO_LIMITS = {
    "RATE_LIMIT_DEFAULT": "token-bucket 1000000 refill 100000/s",
    "RATE_LIMIT_AUTH": "100000 per 15 minutes",
}
QUIET_CHROMIUM = [
    "--no-sandbox",  # it refuses to run as root otherwise
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def walnut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walnut]:
    """One real server for a module of tests, with the settings a developer gets."""
    with Walnut(tmp_path_factory.mktemp("walnut")) as server:
        yield server


@pytest.fixture(scope="module")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Redis, two replicas and Nginx for a module of tests."""
    with Stack(tmp_path_factory.mktemp("stack"), 2, None, WORKERS=1, **NO_LIMITS) as stack:
        yield stack


@pytest.fixture
def stack(running_stack: Stack) -> Stack:
    """The module's stack, whole again if the test before ended a part of it."""
    return running_stack.start()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    chromium = program("chromium", "chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=QUIET_CHROMIUM)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new tab that shares nothing with the last one."""
    context = browser.new_context()
    context.set_default_timeout(10_000)
    yield context.new_page()
    context.close()
