"""Another history is announced, and then all of it is delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.conftest import NewWatcher, RedisAt, StartBroker, StartRedis
from tests.harness.proxy import FaultProxy
from tests.harness.publisher import Author, key_of
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer

BOTH = pytest.mark.parametrize("protocol", ["websocket", "sse"])


@BOTH
async def test_deleted_and_refilled_stream_is_reset_live(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """A live subscriber is told, and gets every entry of the new stream."""
    watcher = await watch(broker, session, protocol).open()
    await author.publish(session, 20)
    await recorder.complete()
    await author.delete(session)
    await author.publish(session, 7)
    reset = await watcher.next("reset")
    await recorder.complete()

    assert reset["data"]["from"] == "0-0@0"
    assert [frame["seq"] for frame in watcher.events[20:]] == list(range(1, 8))


async def test_deletion_between_two_reads_is_reset_live(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """DEL and XADD in one transaction leave no moment without the key."""
    watcher = await watch(broker, session).open()
    await author.publish(session, 5)
    await recorder.complete()
    transaction: Any = redis.pipeline(transaction=True)
    transaction.delete(key_of(session))
    transaction.xadd(key_of(session), {"event": "fresh"})
    _, raw = await transaction.execute()
    recorder.ledger.deleted(session)
    ms, n = map(int, raw.split(b"-"))
    recorder.ledger.published(session, (ms, n))
    frame = await watcher.next("fresh")

    assert frame["seq"] == 1
    assert len(watcher.told("reset")) == 1


async def test_new_history_may_begin_with_a_smaller_id(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """After a deletion even the id 1-1 is read."""
    watcher = await watch(broker, session).open()
    await author.publish(session, 5)
    await recorder.complete()
    await author.delete(session)
    await author.publish_raw(session, {"event": "small"}, "1-1")
    frame = await watcher.next("small")

    assert frame["id"] == "1-1@1"


async def test_expired_stream_is_reset_live(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """A stream that expired and came back is another one."""
    watcher = await watch(broker, session).open()
    await author.publish(session, 5)
    await recorder.complete()
    await redis.pexpire(key_of(session), 1)
    while await redis.exists(key_of(session)):  # noqa: ASYNC110  Redis tells nobody
        await asyncio.sleep(0.005)
    recorder.ledger.deleted(session)
    await author.publish(session, 2)
    await watcher.next("reset")
    await recorder.complete()


@BOTH
async def test_resume_in_a_deleted_and_refilled_stream_is_a_reset(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """Whoever was away is told at once and gets all of the new history."""
    ids = await author.publish(session, 20)
    await author.delete(session)
    await author.publish(session, 30)
    watcher = watch(broker, session, protocol)
    await watcher.open({"last_event_id": f"{ids[-1][0]}-{ids[-1][1]}@20"})
    await recorder.complete()

    assert watcher.told("subscribed")[0]["resume"] == "reset"
    assert watcher.told("subscribed")[0]["from"] == "0-0@0"
    assert [frame["seq"] for frame in watcher.events] == list(range(1, 31))


@BOTH
async def test_deletion_during_an_absence_is_a_reset(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """Also while the pod has not seen it yet: then the reset follows."""
    watcher = await watch(broker, session, protocol).open()
    await author.publish(session, 20)
    await recorder.complete()
    await watcher.cut()
    await author.delete(session)
    await author.publish(session, 30)
    await watcher.open()
    await recorder.complete()
    resumes = [told["resume"] for told in watcher.told("subscribed")]

    assert (resumes[1] == "reset") is not bool(watcher.told("reset"))
    assert [frame["seq"] for frame in watcher.events[20:]] == list(range(1, 31))


async def test_resume_in_a_missing_stream_is_a_reset(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
) -> None:
    """A position in a stream that is gone belongs to another history."""
    (entry_id,) = await author.publish(session)
    await author.delete(session)
    watcher = watch(broker, session)
    watcher.account.last_position = f"{entry_id[0]}-{entry_id[1]}@1"
    await watcher.open()
    await author.publish(session)
    frame = await watcher.next("tick")

    assert watcher.told("subscribed")[0]["resume"] == "reset"
    assert frame["seq"] == 1


async def test_flushall_resets_every_session(
    start_redis: StartRedis,
    start_broker: StartBroker,
    redis_at: RedisAt,
    watch: NewWatcher,
    recorder: Recorder,
    new_session: Callable[[], str],
) -> None:
    """One null invalidation concerns all keys."""
    server = start_redis()
    broker = start_broker(server.url)
    redis = redis_at(server.url)
    author = Author(redis, recorder.ledger)
    sessions = [new_session() for _ in range(12)]
    watchers = [await watch(broker, name).open() for name in sessions]
    for name in sessions:
        await author.publish(name, 5)
    await recorder.complete()
    await redis.flushall()
    for name in sessions:
        recorder.ledger.deleted(name)
        await author.publish(name, 3)
    for watcher in watchers:
        await watcher.next("reset")
    await recorder.complete()

    assert [len(watcher.events) for watcher in watchers] == [8] * 12


async def test_position_that_a_rewind_took_back_is_a_reset(
    start_redis: StartRedis,
    start_broker: StartBroker,
    redis_at: RedisAt,
    watch: NewWatcher,
    recorder: Recorder,
    session: str,
) -> None:
    """An id between two kept entries is not complete only because newer ones follow.

    The pod has the new history in its ring, and the client's id lies inside of it.
    """
    server = start_redis()
    broker = start_broker(server.url)
    broker.allowed.append("redis_unavailable|probe")
    before = redis_at(server.url)
    stays, away = watch(broker, session), watch(broker, session)
    await stays.open()
    await away.open()
    ids = await Author(before, recorder.ledger).publish(session, 5)
    await before.save()
    await Author(before, recorder.ledger).publish(session, 5, lost="yes")
    for watcher in (stays, away):
        while len(watcher.events) < 10:
            await watcher.next("tick")
    await away.cut()
    server.kill()
    await asyncio.to_thread(server.start)
    recorder.ledger.rewound(session, ids[-1])
    after = redis_at(server.url)
    await Author(after, recorder.ledger).publish(session, 5)
    await stays.next("reset", timeout_s=15)
    while len(stays.events) < 20:
        await stays.next("tick")
    await away.open()
    await recorder.complete()

    assert away.told("subscribed")[1]["resume"] == "reset"
    assert [frame["seq"] for frame in away.events[10:]] == list(range(1, 11))


async def test_rewind_that_was_overgrown_is_a_reset(
    start_redis: StartRedis,
    start_broker: StartBroker,
    redis_at: RedisAt,
    watch: NewWatcher,
    recorder: Recorder,
    session: str,
) -> None:
    """More new entries than a page came before the broker saw the new server."""
    server = start_redis()
    async with FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"redis://127.0.0.1:{proxy.address[1]}/0"
        broker = await asyncio.to_thread(start_broker, url)
        broker.allowed.append("redis_unavailable|probe")
        before = redis_at(server.url)
        watcher = await watch(broker, session).open()
        ids = await Author(before, recorder.ledger).publish(session, 5)
        await before.save()
        await Author(before, recorder.ledger).publish(session, 5)
        await recorder.complete()
        proxy.refuses = True
        proxy.cut()
        server.kill()
        await asyncio.to_thread(server.start)
        recorder.ledger.rewound(session, ids[-1])
        after = redis_at(server.url)
        await Author(after, recorder.ledger).publish(session, 3000)
        proxy.refuses = False
        await watcher.next("reset", timeout_s=20)
        await recorder.complete(30)
        recorder.settle()
        await asyncio.to_thread(broker.stop)

    assert len(watcher.events) == 10 + 3005
