"""The console and the client in a browser, while something dies or goes away."""

from __future__ import annotations

import asyncio
import os
import signal

from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer, free_port
from tests.browser.console import OpenConsole
from tests.browser.proxies import Gateway
from tests.conftest import RedisAt, StartBroker
from tests.harness.ledger import Ledger
from tests.harness.load import replaced
from tests.harness.proxy import FaultProxy
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer


def numbers(count: int) -> list[int]:
    """What a client has seen that got everything once and in order."""
    return list(range(1, count + 1))


async def test_a_restart_of_the_server_loses_nothing(
    open_console: OpenConsole,
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
    author: Author,
) -> None:
    """The page says that it reconnects, then resumes on the new one."""
    port = free_port()
    settings = {"console": "true", "port": port, "drain_s": 0.1}
    broker = start_broker(shared_redis.url, **settings)
    page = await open_console(broker.public, session)
    await page.watch(session)
    await author.publish(session, 10)
    await page.until_watched(10)
    await asyncio.to_thread(broker.stop)
    await page.until_state("Reconnecting")
    await author.publish(session, 10)
    await asyncio.to_thread(start_broker, shared_redis.url, **settings)
    await author.publish(session, 10)
    await page.until_received(30)
    await page.until_watched(30)
    assert await page.watched("numbers") == numbers(30)
    assert await page.watched("lost") == 0
    assert "the server is going away (4000)" in await page.text("journal")


async def test_killed_workers_lose_nothing(
    open_console: OpenConsole,
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
    author: Author,
) -> None:
    """Their clients come back to the successors, by themselves."""
    broker = start_broker(shared_redis.url, console="true")
    broker.allowed.append("child_ended|probe")
    page = await open_console(broker.public, session)
    await page.watch(session)
    await author.publish(session, 10)
    await page.until_watched(10)
    dead = broker.workers
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    await author.publish(session, 10)
    for pid in dead:
        await replaced(broker, "worker", pid)
    await author.publish(session, 10)
    await page.until_received(30)
    await page.until_watched(30)
    assert await page.watched("numbers") == numbers(30)
    await page.until("f-missing", "0")


async def test_a_network_that_stalls_and_is_cut_loses_nothing(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """First nothing comes any more, then every connection is reset."""
    async with FaultProxy(shared_console.public) as proxy:
        page = await open_console(proxy.address, session)
        await page.watch(session)
        await author.publish(session, 10)
        await page.until_watched(10)
        proxy.pause()
        await author.publish(session, 10)
        proxy.cut()
        await page.until_state("Reconnecting")
        proxy.resume()
        await author.publish(session, 10)
        await page.until_received(30)
        await page.until_watched(30)
        assert await page.watched("numbers") == numbers(30)
        await page.page.context.close()


async def test_a_network_that_falls_silent_is_noticed(
    open_console: OpenConsole,
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
    author: Author,
) -> None:
    """Nobody says that it is gone: no heartbeat comes, and the client leaves."""
    broker = start_broker(shared_redis.url, console="true", heartbeat_s=1)
    async with FaultProxy(broker.public) as proxy:
        page = await open_console(proxy.address, session)
        await page.until_state("Live")
        await author.publish(session, 5)
        await page.until_received(5)
        proxy.pause()
        await author.publish(session, 5)
        await page.until_state("Reconnecting")
        assert "nothing came for too long" in await page.text("journal")
        proxy.cut()
        proxy.resume()
        await page.until_received(10)
        await page.until("f-missing", "0")
        await page.page.context.close()


async def test_without_websockets_the_event_stream_takes_over(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """Some networks reset every upgrade: the same events come by plain HTTP."""
    async with Gateway(shared_console.public, upgrades=False) as network:
        await author.publish(session, 10)
        page = await open_console(network.address, session)
        await page.watch(session)
        await page.until("c-transport", "event stream")
        await author.publish(session, 10)
        await page.until_received(20)
        await page.until_watched(20)
        assert await page.watched("numbers") == numbers(20)
        assert network.refused >= 2
        await page.page.context.close()


async def test_two_tabs_do_not_disturb_each_other(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """Same user, same session: each gets everything, whatever the other one does."""
    first = await open_console(shared_console.public, session)
    second = await open_console(shared_console.public, session, beside=first)
    await second.watch(session)
    await author.publish(session, 10)
    await first.until_received(10)
    await first.click("drop")
    await author.publish(session, 10)
    await first.until_received(20)
    await second.until_received(20)
    await second.until_watched(20)
    assert await second.watched("numbers") == numbers(20)
    assert await second.watched("states") == ["connecting", "open"]
    await second.until("f-reconnects", "0")


async def test_a_frozen_page_goes_on_where_it_was(
    open_console: OpenConsole,
    shared_console: BrokerServer,
    session: str,
    author: Author,
) -> None:
    """A laptop that slept: its socket was cut, and the page did not see it."""
    async with FaultProxy(shared_console.public) as proxy:
        page = await open_console(proxy.address, session)
        await page.watch(session)
        await author.publish(session, 10)
        await page.until_watched(10)
        protocol = await page.page.context.new_cdp_session(page.page)
        await protocol.send("Page.setWebLifecycleState", {"state": "frozen"})
        await author.publish(session, 10)
        proxy.cut()
        await author.publish(session, 10)
        await protocol.send("Page.setWebLifecycleState", {"state": "active"})
        await page.until_received(30)
        await page.until_watched(30)
        assert await page.watched("numbers") == numbers(30)
        assert await page.watched("lost") == 0
        await page.page.context.close()


async def test_a_redis_that_restarts_is_a_pause(
    open_console: OpenConsole,
    start_broker: StartBroker,
    own_redis: EmbeddedServer,
    redis_at: RedisAt,
    session: str,
) -> None:
    """The connection stays, and events go on."""
    broker = start_broker(own_redis.url, console="true")
    broker.allowed.append("redis_unavailable|probe|reader_lost|control")
    page = await open_console(broker.public, session)
    await page.watch(session)
    before: Redis = redis_at(own_redis.url)
    await Author(before, Ledger()).publish(session, 10)
    await page.until_watched(10)
    await asyncio.to_thread(own_redis.stop)
    await asyncio.to_thread(own_redis.start)
    after = Author(redis_at(own_redis.url), Ledger())
    await after.publish(session, 5)
    await page.until_watched(15)
    assert await page.watched("states") == ["connecting", "open"]
