"""Tests in a real browser; left out where there is none, which the output then says.

They need playwright and a Chromium (``BROKER_TEST_CHROMIUM``, else Debian's). With
``BROKER_TEST_ALL=1`` a missing one is an error.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartRedis
from tests.harness.client import Address
from tests.harness.servers import BrokerServer
from tests.harness.tools import CHROMIUM, IS_ALL_WANTED, missing_for_browser

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext

    from tests.browser.console import ConsolePage, OpenConsole

HERE = Path(__file__).parent
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


MISSING = missing_for_browser()
if MISSING and IS_ALL_WANTED:
    raise pytest.UsageError(f"the browser tests need {' and '.join(MISSING)}")

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser takes a while on a busy machine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session")
def shared_console(
    shared_redis: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerServer]:
    """One broker with a console for all tests that do it no harm."""
    directory = tmp_path_factory.mktemp("console")
    server = BrokerServer(shared_redis.url, directory, {"console": "true"})
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser with a profile of its own."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=ARGUMENTS
        )
        yield browser
        await browser.close()


@pytest.fixture
async def open_console(browser: Browser) -> AsyncIterator[OpenConsole]:
    """Open pages, each in a profile of its own unless it is to be *beside* another.

    None of them may have had an error.
    """
    from tests.browser.console import ConsolePage

    async with AsyncExitStack() as stack:
        pages: list[ConsolePage] = []

        async def open_(
            at: Address,
            session: str,
            *,
            path: str = "/console/",
            user: str = "console",
            beside: ConsolePage | None = None,
            **context: Any,
        ) -> ConsolePage:
            profile: BrowserContext
            if beside is None:
                profile = await browser.new_context(**context)
                stack.push_async_callback(profile.close)
            else:
                profile = beside.page.context
            page = await ConsolePage.new(profile)
            pages.append(page)
            await page.choose_user(user)
            await page.open(at, session, path)
            return page

        yield open_
        for page in pages:
            page.check_errors()


@pytest.fixture
def own_redis(start_redis: StartRedis) -> EmbeddedServer:
    """A server of the test's own."""
    return start_redis()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures of the console go."""
    folder = Path(os.environ.get("BROKER_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
