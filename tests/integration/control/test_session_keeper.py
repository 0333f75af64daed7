"""Sessions of workers in several pods on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from broker.control import sessions as keeper_module
from broker.control.lifecycle import connection_entry
from broker.control.sessions import SLICE_SESSIONS
from broker.errors import StoreUnavailable
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartRedis
from tests.integration.control.session_fleet import (
    Fleet,
    lifecycle,
    running_fleet,
    until,
)
from tests.integration.store.book import PARTS, Book


@pytest.fixture
def server(start_redis: StartRedis) -> EmbeddedServer:
    """A server of the test's own: it may be restarted, and is empty then."""
    return start_redis()


@pytest.fixture
async def fleet(server: EmbeddedServer) -> AsyncIterator[Fleet]:
    """Leases of a second, so that what is lost is found within one."""
    async with running_fleet(server.url) as made:
        yield made


Condition = Callable[[], Coroutine[Any, Any, bool]]


def state_is(book: Book, **states: str) -> Condition:
    async def check() -> bool:
        return await book.states() == states

    return check


def leased_until(book: Book, session: str, ms: int) -> Condition:
    async def check() -> bool:
        return (await book.score("leases", session) or 0) >= ms

    return check


def has_events(book: Book, count: int) -> Condition:
    async def check() -> bool:
        return len(await lifecycle(book.connection)) >= count

    return check


async def test_a_session_is_evicted_on_another_pod(fleet: Fleet) -> None:
    """Its connections are told why; lifecycle has it; the user may not come back."""
    here, there = await fleet.start_worker(), await fleet.start_worker()
    book = await fleet.book()
    await here.connect("s1")
    await there.connect("s2", "s3", "s4")
    await until(state_is(book, s1="evicted", s2="open", s3="open", s4="open"))

    assert here.ended == [("s1", "evicted", "s4")]
    assert there.ended == []
    (refused,) = await here.connect("s1")
    assert (refused.verdict, refused.replaced_by) == ("evicted", "s4")
    assert await lifecycle(book.connection) == [
        ("opened", "s1", {}),
        ("opened", "s2", {}),
        ("opened", "s3", {}),
        ("opened", "s4", {}),
        ("evicted", "s1", {"replaced_by": "s4"}),
    ]


async def test_a_takeover_evicts_another_and_stays(fleet: Fleet) -> None:
    """Coming back is a deliberate act; then all pods agree on it."""
    here, there = await fleet.start_worker(), await fleet.start_worker()
    await here.connect("s1", "s2", "s3")
    await there.connect("s4")
    await there.connect("s1", deliberate=True)
    book = await fleet.book()
    await until(state_is(book, s1="open", s2="evicted", s3="open", s4="open"))
    assert [session for session, *_ in here.ended] == ["s1", "s2"]
    assert there.ended == []


async def test_a_lost_notice_leaves_nobody_alive(fleet: Fleet) -> None:
    """The next renewal finds the tombstone."""
    here, there = await fleet.start_worker(), await fleet.start_worker()
    fleet.is_deaf = True
    await here.connect("s1")
    await there.connect("s2", "s3", "s4")

    async def is_told() -> bool:
        return here.ended == [("s1", "evicted", "s4")]

    await until(is_told)


async def test_a_closed_session_ends_everywhere(fleet: Fleet) -> None:
    """And stays closed for those who come back by themselves."""
    here, there = await fleet.start_worker(), await fleet.start_worker()
    await here.connect("s1")
    await there.connect("s1")
    await here.keeper.close("ann", "s1")

    async def is_told() -> bool:
        return here.ended == there.ended == [("s1", "closed", "")]

    await until(is_told)
    (refused,) = await there.connect("s1")
    assert refused.verdict == "closed"


async def test_one_pod_leaves_and_the_other_keeps_the_session(fleet: Fleet) -> None:
    """Nothing is deleted or shortened by leaving, and there is nothing to tell."""
    here, there = await fleet.start_worker(), await fleet.start_worker()
    await here.connect("s1")
    await there.connect("s1")
    book = await fleet.book()
    await fleet.start_janitor()
    here.leave("s1")
    await here.kill()
    await until(leased_until(book, "s1", await book.now() + 3000))
    assert await lifecycle(book.connection) == [("opened", "s1", {})]


async def test_the_last_to_leave_lets_it_linger(server: EmbeddedServer) -> None:
    """At once: a worker that drains has no time for another round."""
    async with running_fleet(
        server.url, session_lease_s=60, session_linger_s=600
    ) as fleet:
        worker = await fleet.start_worker()
        book = await fleet.book()
        await worker.connect("s1")
        worker.leave("s1")
        await until(leased_until(book, "s1", await book.now() + 590_000))
        assert await book.states() == {"s1": "open"}


async def test_a_killed_pod_leaves_nothing_behind(server: EmbeddedServer) -> None:
    """Its sessions become idle, leave the count, and are closed; each is told once."""
    async with running_fleet(server.url, session_idle_s=0.5) as fleet:
        here, there = await fleet.start_worker(), await fleet.start_worker()
        book = await fleet.book()
        for _ in range(2):
            await fleet.start_janitor()
        await here.connect("s1", "s2", "s3")
        await here.kill()
        await until(state_is(book, s1="idle", s2="idle", s3="idle"))
        await there.connect("s4")
        await until(has_events(book, 10))
        assert await book.states() == {"s4": "open"}
        assert there.ended == []
        events = await lifecycle(book.connection)
        assert sorted(event for event, *_ in events) == (
            ["closed"] * 3 + ["idle"] * 3 + ["opened"] * 4
        )
        assert ("closed", "s1", {"reason": "idle"}) in events


async def test_limits_hold_again_after_redis_lost_everything(
    fleet: Fleet, server: EmbeddedServer
) -> None:
    """One that is opened before the others are back evicts the oldest all the same."""
    here, there = await fleet.start_worker(), await fleet.start_worker()
    await here.connect("s1", "s2")
    await there.connect("s3")
    server.restart()

    await there.connect("s4")
    book = await fleet.book()
    await until(state_is(book, s1="evicted", s2="open", s3="open", s4="open"))

    async def is_told() -> bool:
        return here.ended == [("s1", "evicted", "s4")]

    await until(is_told)
    assert there.ended == []


async def test_an_outage_ends_nothing(start_redis: StartRedis) -> None:
    """Leases that ran out meanwhile are renewed before a janitor looks at them."""
    server = start_redis(appendonly=True)
    async with running_fleet(server.url, session_lease_s=2) as fleet:
        worker = await fleet.start_worker()
        await fleet.start_janitor()
        await worker.connect("s1")
        book = await fleet.book()
        await book.run_out("s1")
        server.restart()
        book = await fleet.book()
        await until(leased_until(book, "s1", await book.now() + 2000))
        assert worker.ended == []
        assert await lifecycle(book.connection) == [("opened", "s1", {})]


async def test_scripts_that_were_flushed_are_loaded_again(fleet: Fleet) -> None:
    """Leases go on, also if somebody tidies up the server."""
    worker = await fleet.start_worker()
    await worker.connect("s1")
    book = await fleet.book()
    await book.connection.call("SCRIPT", "FLUSH")
    await until(leased_until(book, "s1", await book.now() + 3000))
    assert worker.ended == []


async def test_news_of_a_worker_that_died_are_announced(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right behind its script: a janitor finds them in the outbox."""

    async def die(*_: object) -> None:
        raise StoreUnavailable("died")

    worker = await fleet.start_worker()
    monkeypatch.setattr(keeper_module, "announce", die)
    await worker.connect("s1", "s2", "s3", "s4")
    await worker.kill()
    book = await fleet.book()
    assert await lifecycle(book.connection) == []

    await book.age_news(by_ms=5000)
    await fleet.start_janitor()
    await until(has_events(book, 5))
    assert ("evicted", "s1", {"replaced_by": "s4"}) in await lifecycle(book.connection)

    async def outbox_is_empty() -> bool:
        return not await book.connection.call("EXISTS", book.key("news"))

    await until(outbox_is_empty)


async def test_a_refused_stream_loses_no_news(fleet: Fleet) -> None:
    """They leave the outbox only when they are in the stream."""
    worker = await fleet.start_worker()
    book = await fleet.book()
    await book.connection.call("SET", "broker:lifecycle", "text")
    await worker.connect("s1")
    assert await book.connection.call("HLEN", book.key("news")) == 1


async def test_many_sessions_are_all_renewed(fleet: Fleet) -> None:
    """Some slices of them, of many users."""
    worker = await fleet.start_worker()
    users = [f"user{number}" for number in range(2 * SLICE_SESSIONS + 10)]
    for user in users:
        await worker.connect("s1", user=user)
    book = await fleet.book(users[-1])
    assert await worker.keeper.renew_all() == len(users)
    await until(leased_until(book, "s1", await book.now() + 2000))


async def test_nothing_is_left_when_all_has_ended(server: EmbeddedServer) -> None:
    """No key of a user whose sessions have come to rest, and none in the index."""
    async with running_fleet(server.url, session_linger_s=0, session_idle_s=0) as fleet:
        worker = await fleet.start_worker()
        book = await fleet.book()
        await fleet.start_janitor()
        await worker.connect("s1")
        worker.leave("s1")
        await until(state_is(book))
        await until(has_events(book, 3))

        async def all_gone() -> bool:
            keys = (*map(book.key, PARTS), "broker:expiring")
            return not await book.connection.call("EXISTS", *keys)

        await until(all_gone)


async def test_connections_are_told_like_sessions(fleet: Fleet) -> None:
    """In the same stream, with what else there is to say."""
    book = await fleet.book()
    command = connection_entry(
        "connection_closed", "s1", "ann", "c1", {"reason": "session_evicted"}
    )
    await book.connection.call_all(command)
    ((_, fields),) = await book.connection.call("XRANGE", "broker:lifecycle", "-", "+")
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == {
        b"event": b"connection_closed",
        b"session": b"s1",
        b"user": b"ann",
        b"connection": b"c1",
        b"data": b'{"reason":"session_evicted"}',
    }
