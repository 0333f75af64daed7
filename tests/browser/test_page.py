"""What somebody sees in the console, and does with it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from tests.browser.console import OpenConsole
from tests.browser.proxies import Gateway
from tests.harness import http
from tests.harness.publisher import Author, key_of
from tests.harness.servers import BrokerServer


async def test_events_are_listed_in_their_order(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """What was there comes first, then what is published, each once."""
    await author.publish(session, 1, "early")
    page = await open_console(shared_console.public, session)
    await page.until_state("Live")
    await author.publish(session, 1, "late")
    await page.until_received(2)
    await page.until_row("late")
    assert await page.rows() == ["Subscribed", "early", "Caught up", "late"]


async def test_a_filter_shows_some_events_and_every_notice(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """A loss is never hidden by a filter."""
    await author.publish(session, 1, "wanted")
    await author.publish(session, 1, "other")
    page = await open_console(shared_console.public, session)
    await page.until_received(2)
    await page.page.click("#types button:has-text('wanted')")
    await page.until("shown", "3 lines of 4")
    assert await page.rows() == ["Subscribed", "wanted", "Caught up"]
    await page.page.click("#types button:has-text('wanted')")
    await page.until("shown", "4 lines")


async def test_search_looks_into_the_data(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """Also into what is too long to be seen in the line."""
    await author.publish(session, 5)
    await author.publish_raw(
        session, {"event": "note", "data": orjson.dumps(["x" * 5000, "Needle"])}
    )
    page = await open_console(shared_console.public, session)
    await page.until_received(6)
    await page.page.fill("#search", "needle")
    await page.until("shown", "3 lines of 8")
    assert await page.rows() == ["Subscribed", "note", "Caught up"]


async def test_data_is_laid_out_when_an_event_is_opened(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """Not before; and Escape closes it again."""
    data = orjson.dumps({"text": "<b>hello</b>", "list": [1, None]})
    await author.publish_raw(session, {"event": "note", "data": data, "node_id": "n"})
    page = await open_console(shared_console.public, session)
    await page.until_row("note")
    assert await page.page.is_hidden("#detail")
    await page.page.click("#rows [role=option]:has-text('note')")
    laid_out = orjson.dumps(orjson.loads(data), option=orjson.OPT_INDENT_2).decode()
    assert await page.text("detail-json") == laid_out.replace("[\n", "[\n")
    assert "node\nn" in await page.text("detail-facts")
    await page.page.keyboard.press("Escape")
    assert await page.page.is_hidden("#detail")


async def test_what_is_published_comes_back(
    open_console: OpenConsole, shared_console: BrokerServer, session: str
) -> None:
    """The form publishes as a service would; the page reads it as any client."""
    page = await open_console(shared_console.public, session)
    await page.until_state("Live")
    await page.page.fill("#p-event", "greeting")
    await page.page.fill("#p-data", '{"to": "ada"}')
    await page.page.fill("#p-times", "12")
    await page.page.click("#publish [type=submit]")
    await page.until_received(12)
    await page.until_row("greeting")
    assert "12 events stored" in await page.text("p-result")


async def test_data_that_is_not_json_is_not_published(
    open_console: OpenConsole, shared_console: BrokerServer, session: str, redis: Redis
) -> None:
    """The field says so, and nothing is sent."""
    page = await open_console(shared_console.public, session)
    await page.until_state("Live")
    await page.page.fill("#p-data", "{oops")
    await page.page.press("#p-data", "Control+Enter")
    assert await page.page.get_attribute("#p-data", "aria-invalid") == "true"
    assert "not JSON" in await page.text("p-result")
    assert await redis.exists(key_of(session)) == 0


async def test_a_command_gets_the_id_of_its_entry(
    open_console: OpenConsole, shared_console: BrokerServer, session: str, redis: Redis
) -> None:
    """It is in the command stream, under the user of the page."""
    page = await open_console(shared_console.public, session, user="grace")
    await page.until_state("Live")
    await page.click("tab-command")
    await page.page.fill("#m-cmd", "user_input")
    await page.page.click("#command [type=submit]")
    await page.page.wait_for_selector("#m-result[data-tone=good]")
    stored = (await page.text("m-result")).split()[2].rstrip(",")
    found: Any = await redis.xrange("broker:commands", stored, stored)
    fields = found[0][1]
    assert (fields[b"user"], fields[b"cmd"]) == (b"grace", b"user_input")
    assert fields[b"session"] == session.encode()


async def test_a_loss_is_shown_with_its_number(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """Trimmed while the page was away: a line in the list, and a figure."""
    await author.publish(session, 3)
    page = await open_console(shared_console.public, session)
    await page.until_received(3)
    await page.click("leave")
    await page.until_state("Disconnected")
    await author.publish(session, 50, maxlen=8)
    await page.click("leave")
    await page.until_received(11)
    await page.until_row("Gap: 42 missing")
    await page.until("f-missing", "42")


async def test_a_reset_is_shown(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """A stream that was deleted and begun anew is another one."""
    await author.publish(session, 3, "old")
    page = await open_console(shared_console.public, session)
    await page.until_received(3)
    await page.until_state("Live")
    await author.delete(session)
    await author.publish(session, 2, "new")
    await page.until_received(5)
    await page.until_row("Reset")
    rows = await page.rows()
    assert rows[rows.index("Reset") :].count("new") == 2


async def test_a_dropped_connection_comes_back_and_resumes(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """What was published meanwhile is there, once, and nothing is missing."""
    await author.publish(session, 5)
    page = await open_console(shared_console.public, session)
    await page.until_received(5)
    await page.click("drop")
    await author.publish(session, 5)
    await page.until_received(10)
    await page.until("f-reconnects", "1")
    await page.until("f-missing", "0")
    assert "resumed: complete" in await page.text("journal")


async def test_a_page_that_does_not_read_lags_and_catches_up(
    open_console: OpenConsole, shared_console: BrokerServer, session: str
) -> None:
    """The server keeps a position for it, and sends from there when it reads on."""
    page = await open_console(shared_console.public, session)
    await page.until_state("Live")
    await page.click("pause")
    await page.until_state("Paused")
    await page.click("fill")
    await page.page.wait_for_selector("text=KiB wait")
    assert await until_lagging(shared_console, session) == "lagging"
    await page.click("pause")
    await page.until_received(683)
    await page.until_row("Caught up")
    await page.until_state("Live")
    await page.until("f-missing", "0")


async def until_lagging(broker: BrokerServer, session: str) -> str:
    """Ask until the broker is behind with a connection to *session*; its state."""
    async with asyncio.timeout(20):
        while True:
            answer = await http.get(broker.admin, "/v1/connections")
            for one in answer.json()["connections"]:
                if one["session"] == session and one["behind_entries"]:
                    return str(one["state"])


async def test_a_fourth_session_evicts_the_oldest(
    open_console: OpenConsole, shared_console: BrokerServer, session: str
) -> None:
    """It is the page's own: it says by which one, and can be opened again."""
    page = await open_console(shared_console.public, session, user=session)
    await page.until_state("Live")
    for count in (2, 3):
        await page.click("s-open")
        await page.page.wait_for_function(
            "(n) => document.querySelectorAll('.slots .open').length === n", arg=count
        )
    assert await page.text("s-open") == "Open a fourth session"
    await page.click("s-open")
    await page.until_state("Evicted")
    newest = await page.page.inner_text(".slots li:last-child code")
    assert f"when {newest} was opened" in await page.text("s-result")
    assert f"has opened {newest}" in await page.text("banner")
    await page.page.click("#banner button")
    await page.until_state("Live")
    assert await page.page.is_hidden("#banner")
    assert await page.page.inner_text(".slots li:last-child code") == session


async def test_who_is_present_is_listed(
    open_console: OpenConsole, shared_console: BrokerServer, session: str
) -> None:
    """Each user once, and oneself marked."""
    page = await open_console(shared_console.public, session, user="ada")
    await page.until("w-count", "1")
    await open_console(shared_console.public, session, user="bob")
    await page.until("w-count", "2")
    assert await page.page.inner_text("#w-list .me") == "ada"
    assert (await page.text("w-list")).split() == ["ada", "bob"]


async def test_it_works_by_keyboard(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """Keys search, move, open and explain themselves; in a field they write."""
    await author.publish(session, 3, "one")
    page = await open_console(shared_console.public, session)
    await page.until_received(3)
    await page.page.keyboard.press("/")
    await page.page.keyboard.type("jd")
    assert await page.page.input_value("#search") == "jd"
    await page.until_no_row("one")
    await page.page.fill("#search", "")
    await page.until_row("one")
    await page.page.focus("#rows")
    await page.page.keyboard.press("Home")
    await page.page.keyboard.press("j")
    assert await page.text("detail-name") == "one"
    await page.page.keyboard.press("?")
    assert await page.page.is_visible("#help")
    await page.page.keyboard.press("Escape")
    assert await page.page.is_hidden("#help")


async def test_single_keys_can_be_switched_off(
    open_console: OpenConsole, shared_console: BrokerServer, session: str
) -> None:
    """Who dictates text must not drop connections with it."""
    page = await open_console(shared_console.public, session)
    await page.until_state("Live")
    await page.click("help-open")
    await page.page.uncheck("#keys-on")
    await page.page.keyboard.press("Escape")
    await page.page.keyboard.press("d")
    await page.page.keyboard.press("p")
    assert await page.page.inner_text("#state b") == "Live"


async def test_a_theme_that_was_chosen_stays(
    open_console: OpenConsole, shared_console: BrokerServer, session: str
) -> None:
    """Light, then dark, then the system's again; also after a reload."""
    page = await open_console(shared_console.public, session)
    await page.click("theme")
    await page.click("theme")
    await page.page.reload()
    dark = await page.page.get_attribute("html", "data-theme")
    assert dark == "dark"


@pytest.mark.parametrize("path", ["/console", "/console/"])
async def test_both_ways_to_write_the_path_work(
    open_console: OpenConsole, shared_console: BrokerServer, session: str, path: str
) -> None:
    """With and without a slash at the end, the session behind the hash stays."""
    page = await open_console(shared_console.public, session, path=path)
    await page.until_state("Live")
    assert await page.page.input_value("#session") == session


async def test_it_works_below_a_prefix(
    open_console: OpenConsole, shared_console: BrokerServer, session: str
) -> None:
    """Behind a gateway that takes it away, since all URLs are relative."""
    async with Gateway(shared_console.public, prefix="/a/b") as gateway:
        page = await open_console(gateway.address, session, path="/a/b/console")
        await page.until_state("Live")
        await page.page.click("#publish [type=submit]")
        await page.until_received(1)
        assert gateway.refused == 0
        await page.page.context.close()
