"""Pictures of the console, and what must hold for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.console import ConsolePage, OpenConsole
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer

DESKTOP = {"width": 1360, "height": 860}
PHONE = {"width": 360, "height": 740}
VIEWS = ("stream", "connection", "say", "sessions")
WIDER = "() => document.documentElement.scrollWidth > window.innerWidth"
UNNAMED = """
() => [...document.querySelectorAll("button, input, select, textarea, canvas")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent.trim()
    || one.getAttribute("aria-labelledby")))
  .map((one) => one.outerHTML)
"""


async def fill(page: ConsolePage, session: str, author: Author) -> None:
    """Let the page see a little of everything."""
    for name in ("run_started", "token_stream", "tool_call", "token_stream"):
        await author.publish(session, 4, name, node_id="planner")
    await author.publish_raw(session, {"event": "broken", "data": "{"})
    await page.until_state("Live")
    await page.click("drop")
    await page.until("f-reconnects", "1")
    await author.publish(session, 5, "run_finished", node_id="writer")
    await page.until_received(21)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_desktop_everything_is_in_sight(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
    screenshots: Path,
    scheme: str,
) -> None:
    """Nothing is wider than the page, and every control has a name."""
    page = await open_console(
        shared_console.public, session, viewport=DESKTOP, color_scheme=scheme
    )
    await fill(page, session, author)
    await page.page.click("#rows [role=option]:has-text('tool_call') >> nth=0")
    await page.page.screenshot(path=screenshots / f"desktop-{scheme}.png")
    assert not await page.page.evaluate(WIDER)
    assert await page.page.evaluate(UNNAMED) == []
    await page.click("help-open")
    await page.page.screenshot(path=screenshots / f"desktop-{scheme}-help.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_each_view_fits(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
    screenshots: Path,
    scheme: str,
) -> None:
    """At 360 pixels nothing is cut off, in any of the views."""
    page = await open_console(
        shared_console.public,
        session,
        viewport=PHONE,
        color_scheme=scheme,
        has_touch=True,
        device_scale_factor=2,
    )
    await page.until_state("Live")
    await author.publish(session, 30, "token_stream", node_id="planner")
    await page.until_received(30)
    wider = []
    for view in VIEWS:
        await page.show(view)
        await page.page.screenshot(path=screenshots / f"phone-{scheme}-{view}.png")
        wider.append(await page.page.evaluate(WIDER))
    assert wider == [False] * len(VIEWS)
    assert await page.page.evaluate(UNNAMED) == []
