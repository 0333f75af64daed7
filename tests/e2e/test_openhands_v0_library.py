"""OpenHands V0 with python-socketio as it is installed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import pytest
from redis.asyncio import Redis
from socketio import AsyncClient  # type: ignore[import-untyped]
from socketio.exceptions import (  # type: ignore[import-untyped]
    ConnectionError as NotConnected,
)

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.client import Address
from tests.harness.openhands_v0 import ids, message, publish, state
from tests.harness.proxy import FaultProxy
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, token

RACE = 500


class Page:
    """What a page does with the library: it remembers the last number it was given.

    Attributes:
        events: All that came, in order.
        connects: How many had come at each time it was told that it is connected.
        left: Why it was disconnected, each time.
        refused: Why it was not let in, each time.
    """

    def __init__(
        self,
        address: Address,
        session: str,
        auth: object = None,
        latest: int = -1,
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.connects: list[int] = []
        self.left: list[str] = []
        self.refused: list[Any] = []
        self.client = AsyncClient(
            reconnection_delay=0.1, reconnection_delay_max=1, randomization_factor=0
        )
        self._changed = asyncio.Condition()
        self._address = address
        self._session = session
        self._auth = auth
        self._latest = latest
        self.client.on("oh_event", self._take)
        self.client.on("connect", self._connected)
        self.client.on("disconnect", self._disconnected)
        self.client.on("connect_error", self.refused.append)

    def url(self) -> str:
        host, port = self._address
        return (
            f"http://{host}:{port}?conversation_id={self._session}"
            f"&latest_event_id={self._latest}&providers_set=&session_api_key=null"
        )

    async def open(self, **options: Any) -> Self:
        options.setdefault("transports", ["websocket"])
        await self.client.connect(self.url, auth=self._auth, wait_timeout=10, **options)
        return self

    async def _take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        number = event.get("id")
        if isinstance(number, int):
            self._latest = number
        await self._notify()

    async def _connected(self) -> None:
        self.connects.append(len(self.events))
        await self._notify()

    async def _disconnected(self, reason: str) -> None:
        self.left.append(reason)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(holds)

    async def until_events(self, count: int) -> None:
        await self.until(lambda: len(self.events) >= count)

    async def until_connects(self, count: int) -> None:
        await self.until(lambda: len(self.connects) == count)

    async def close(self) -> None:
        await self.client.disconnect()
        await self.client.shutdown()


NewPage = Callable[..., Page]


@pytest.fixture
async def new_page() -> AsyncIterator[NewPage]:
    """Make pages; they are closed when the test ends."""
    pages: list[Page] = []

    def make(*arguments: Any, **options: Any) -> Page:
        pages.append(Page(*arguments, **options))
        return pages[-1]

    yield make
    for page in pages:
        await page.close()


async def test_a_replay_comes_before_the_library_says_connect(
    broker: BrokerServer, redis: Redis, session: str, new_page: NewPage
) -> None:
    """With the agent's newest state last; then events are live."""
    await publish(redis, session, [message(0), state(1, "loading")])
    await publish(redis, session, [state(2, "running"), message(3)])
    page = await new_page(broker.public, session).open()
    await publish(redis, session, [message(4)])
    await page.until_events(4)

    assert ids(page.events) == [0, 3, 2, 4]
    assert page.connects == [3]


async def test_what_is_published_while_it_connects_comes_once_and_in_order(
    broker: BrokerServer, redis: Redis, session: str, new_page: NewPage
) -> None:
    """Some of it before it is connected and some live."""
    pages = [new_page(broker.public, session) for _ in range(10)]
    async with asyncio.TaskGroup() as group:
        for number, page in enumerate(pages):
            group.create_task(page.open())
            await publish(
                redis, session, map(message, range(number * 50, number * 50 + 50))
            )
    await asyncio.gather(*(page.until_events(RACE) for page in pages))

    for page in pages:
        assert ids(page.events) == list(range(RACE))


async def test_it_resumes_by_itself_after_cuts_and_a_new_server(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    session: str,
    new_page: NewPage,
) -> None:
    """A page sees each event once, wherever the connection broke."""
    old, new = start_broker(shared_redis.url), start_broker(shared_redis.url)
    async with FaultProxy(old.public) as proxy:
        page = await new_page(proxy.address, session).open()
        await disturb(page, redis, session, 0, proxy.cut)
        proxy.upstream = new.public
        await disturb(page, redis, session, 1, lambda: old.signal(signal.SIGTERM))
        await disturb(page, redis, session, 2, proxy.cut)
        await page.close()

    assert ids(page.events) == list(range(300))
    assert page.left == ["transport error"] * 3
    assert old.wait() == 0


async def disturb(
    page: Page, redis: Redis, session: str, number: int, act: Callable[[], object]
) -> None:
    """Publish a hundred events, break the connection among them, wait for the last."""
    first = 100 * number
    await publish(redis, session, map(message, range(first, first + 50)))
    act()
    await publish(redis, session, map(message, range(first + 50, first + 100)))
    await page.until_events(first + 100)
    await page.until_connects(number + 2)


async def test_an_action_is_acknowledged(
    broker: BrokerServer, redis: Redis, session: str, new_page: NewPage
) -> None:
    """The library's `call` returns when the action is stored."""
    page = await new_page(broker.public, session).open()
    answer = await page.client.call("oh_user_action", {"action": "message"}, timeout=10)
    stored: Any = await redis.xrevrange("broker:commands", count=1)

    assert answer is None
    assert stored[0][1][b"session"].decode() == session
    assert stored[0][1][b"data"] == b'{"action":"message"}'


async def test_binary_data_is_answered_with_an_error(
    broker: BrokerServer, session: str, new_page: NewPage
) -> None:
    """And the connection stays."""
    page = await new_page(broker.public, session).open()
    await page.client.emit("oh_user_action", {"action": b"bytes"})
    await page.until_events(1)
    await page.client.call("other", timeout=10)

    assert page.events == [{"error": True, "message": "binary data is not read here"}]
    assert page.left == []


async def test_a_refusal_is_an_error_of_connecting(
    broker: BrokerServer, new_page: NewPage
) -> None:
    """With upstream's words."""
    page = new_page(broker.public, "")
    with pytest.raises(NotConnected):
        await page.open()

    assert page.refused == [{"message": "No conversation_id in query params"}]


async def test_polling_is_refused_with_a_reason(
    broker: BrokerServer, session: str, new_page: NewPage
) -> None:
    """The library begins with polling unless it is told not to."""
    page = new_page(broker.public, session)
    with pytest.raises(NotConnected):
        await page.open(transports=["polling"])

    assert "websocket only" in str(page.refused)


async def test_an_evicted_page_stays_away_and_its_user_may_open_it_again(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    new_session: Callable[[], str],
    new_page: NewPage,
) -> None:
    """The library does not reconnect after the server's disconnect packet."""
    broker = start_broker(
        shared_redis.url, auth="jwt", jwt_secret=SECRET, max_sessions_per_user=1
    )
    first, second = new_session(), new_session()
    auth = {"token": token(f"user of {first}")}
    await publish(redis, first, [message(0)])
    old = await new_page(broker.public, first, auth).open()
    await new_page(broker.public, second, auth).open()
    await old.until(lambda: bool(old.left))
    back = new_page(broker.public, first, auth, latest=0)
    with pytest.raises(NotConnected):
        await back.open()
    again = await new_page(broker.public, first, auth).open()

    assert old.events[-1]["id"] == "AGENT_ERROR$TOO_MANY_CONVERSATIONS"
    assert old.left == ["server disconnect"]
    assert old.connects == [1]
    assert back.refused[0]["data"]["replaced_by"] == second
    assert ids(again.events) == [0]
