"""A thousand events a second, in a page that must stay usable."""

from __future__ import annotations

from broker.store.embedded import EmbeddedServer
from tests.browser.console import OpenConsole
from tests.harness.ledger import Ledger
from tests.harness.publisher import RatePublisher
from tests.harness.servers import BrokerServer

RATE_PER_S = 1000
SECONDS = 6
LONGEST_MS = 1000
"""Far more than a frame takes; a page that is frozen has none for as long as it is."""
FRAMES_PER_S = 5


async def test_a_thousand_events_a_second_do_not_freeze_the_page(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    shared_redis: EmbeddedServer,
    session: str,
) -> None:
    """Each is counted, the newest are listed, and the page is drawn all the time."""
    page = await open_console(shared_console.public, session)
    await page.until_state("Live")
    publisher = RatePublisher(shared_redis.url, Ledger(), [session], RATE_PER_S)
    await page.count_frames()
    await publisher.run(SECONDS)
    frames = await page.frames()
    await page.until_received(publisher.published)
    assert publisher.published > RATE_PER_S * SECONDS * 0.9
    assert frames["longestMs"] < LONGEST_MS
    assert frames["count"] > FRAMES_PER_S * SECONDS
    await page.until("f-missing", "0")
    assert await page.page.locator("#rows [role=option]").count() < 100


async def test_a_list_that_is_read_stays_where_it_is(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    shared_redis: EmbeddedServer,
    session: str,
) -> None:
    """Events that come, and old ones that are let go, do not move what is in view."""
    page = await open_console(shared_console.public, session)
    await page.until_state("Live")
    await RatePublisher(shared_redis.url, Ledger(), [session], RATE_PER_S).run(5)
    await page.page.focus("#rows")
    await page.page.keyboard.press("k")
    await page.page.keyboard.press("PageUp")
    await page.painted()
    before = await page.text("detail-facts")
    place = await page.page.locator(".picked").bounding_box()
    again = RatePublisher(shared_redis.url, Ledger(), [session], RATE_PER_S)
    await again.run(3)
    await page.page.wait_for_selector("#newer:has-text('new lines')")
    await page.painted()
    assert await page.page.locator(".picked").bounding_box() == place
    assert await page.text("detail-facts") == before
