"""SIGTERM: everybody leaves in order and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from functools import partial

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness import http, processes
from tests.harness.client import Ended, WebSocketClient
from tests.harness.publisher import Author, RatePublisher
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer
from tests.harness.watcher import Watcher


async def test_clients_move_to_another_broker_and_lose_nothing(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    recorder: Recorder,
    session: str,
) -> None:
    """Each is told to come back, with its own delay, and resumes elsewhere."""
    old = start_broker(shared_redis.url, drain_delay_s=0.3, drain_s=1)
    new = start_broker(shared_redis.url)
    watchers = [await watch(old, session).open() for _ in range(20)]
    publisher = RatePublisher(shared_redis.url, recorder.ledger, [session], 500)
    publishing = asyncio.create_task(publisher.run(3))
    await asyncio.sleep(0.5)
    old.signal(signal.SIGTERM)
    await asyncio.gather(*(move(watcher, new) for watcher in watchers))
    await publishing
    await recorder.complete()
    closings = [closing for watcher in watchers for closing in watcher.told("closing")]

    assert old.wait() == 0
    assert len(closings) == 20
    assert {closing["code"] for closing in closings} == {4000}
    assert all(closing["retry"] is True for closing in closings)
    assert len({closing["delay_ms"] for closing in closings}) > 1
    assert all(
        told["resume"] == "complete"
        for watcher in watchers
        for told in watcher.told("subscribed")[1:]
    )


async def move(watcher: Watcher, new: BrokerServer) -> None:
    """Wait for the end, then go where the other broker is."""
    ended = await watcher.ended(10)
    assert ended.code == 4000
    watcher.address = new.public
    await watcher.open()


async def test_closes_are_spread_over_the_drain_time(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    session: str,
) -> None:
    """Clients that all come back at once would be a storm."""
    broker = start_broker(shared_redis.url, drain_s=2)
    watchers = [await watch(broker, session).open() for _ in range(30)]
    loop = asyncio.get_running_loop()
    broker.signal(signal.SIGTERM)

    async def closed(watcher: Watcher) -> float:
        await watcher.ended()
        return loop.time()

    times = await asyncio.gather(*(closed(watcher) for watcher in watchers))
    for watcher in watchers:
        watcher.account.leave()

    assert max(times) - min(times) > 0.5
    assert broker.wait() == 0


async def test_who_gets_events_leaves_after_who_does_not(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    author: Author,
    new_session: Callable[[], str],
) -> None:
    """A pause is noticed least where nothing happens."""
    broker = start_broker(shared_redis.url, workers=1, drain_s=1)
    quiet = [await watch(broker, new_session()).open() for _ in range(3)]
    busy = [await watch(broker, new_session()).open() for _ in range(3)]
    left: list[Watcher] = []
    for watcher in [*busy, *quiet]:
        watcher.websocket.ended.add_done_callback(partial(note, left, watcher))
    for watcher in busy:
        await author.publish(watcher.account.session)
        await watcher.next("tick")
    broker.signal(signal.SIGTERM)
    for watcher in [*busy, *quiet]:
        await watcher.ended()
        watcher.account.leave()

    assert set(left[:3]) == set(quiet)
    assert set(left[3:]) == set(busy)


def note(left: list[Watcher], watcher: Watcher, _: asyncio.Future[Ended]) -> None:
    """The connection of *watcher* is gone."""
    left.append(watcher)


async def test_drain_fails_readiness_before_it_refuses(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
) -> None:
    """A load balancer gets time to notice while clients are still served."""
    broker = start_broker(shared_redis.url, drain_delay_s=1.5)
    broker.signal(signal.SIGTERM)
    await asyncio.sleep(0.4)
    ready = await http.get(broker.admin, "/readyz")
    client = await WebSocketClient.connect(broker.public, f"/v1/ws/{session}")
    await client.until("subscribed")
    closing = await client.until("closing")
    ended = await client.wait_ended()

    assert ready.status == 503
    assert "draining" in ready.json()["reasons"]
    assert closing["data"]["reason"] == "draining"
    assert ended.code == 4000
    assert broker.wait() == 0


async def test_sse_streams_end_with_the_drain(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    session: str,
) -> None:
    """An EventSource sees the end and connects again by itself."""
    broker = start_broker(shared_redis.url)
    watcher = await watch(broker, session, "sse").open()
    broker.signal(signal.SIGTERM)
    await watcher.ended()
    watcher.account.leave()

    assert broker.wait() == 0


async def test_stalled_client_does_not_hold_the_drain_up(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    recorder: Recorder,
    session: str,
) -> None:
    """Whoever does not read is left behind at the deadline."""
    broker = start_broker(shared_redis.url, drain_s=0.5)
    watcher = await watch(broker, session).open(receive_buffer_bytes=4096)
    watcher.websocket.pause()
    publisher = RatePublisher(
        shared_redis.url, recorder.ledger, [session], 500, payload_bytes=4000
    )
    await publisher.run(1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    broker.signal(signal.SIGTERM)
    status = await asyncio.to_thread(broker.wait)
    watcher.account.leave()

    assert status == 0
    assert loop.time() - start < 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_hurries(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
    number: signal.Signals,
) -> None:
    """A person who asks twice does not want to wait."""
    broker = start_broker(shared_redis.url, drain_delay_s=30, drain_s=30)
    client = await WebSocketClient.connect(broker.public, f"/v1/ws/{session}")
    await client.until("subscribed")
    broker.signal(number)
    await asyncio.sleep(0.3)
    running = broker.returncode
    broker.signal(number)
    status = await asyncio.to_thread(broker.wait, 10)
    client.cut()

    assert running is None
    assert status == 0


async def test_a_worker_that_is_told_again_and_again_leaves_as_it_should(
    start_broker: StartBroker, shared_redis: EmbeddedServer
) -> None:
    """Also in its last moment: a pod manager may signal the whole group, and twice."""
    broker = start_broker(shared_redis.url)
    workers = broker.workers
    broker.signal(signal.SIGTERM)
    while any(processes.is_alive(pid) for pid in workers):
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0)

    assert broker.wait() == 0
    assert broker.log.text.count('"status":0,"event":"child_ended"') == 3
