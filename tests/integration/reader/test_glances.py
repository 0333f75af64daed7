"""Streams that get one entry at a time are read by their XINFO alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from hiredis import ReplyError

from broker.metrics import catalog
from broker.reader.watched import GLANCE_AFTER
from broker.reader.watches import READ_KEYS_MAX
from broker.store.connection import Command, Connection
from broker.store.embedded import EmbeddedServer
from tests.harness.proxy import FaultProxy
from tests.integration.reader.follower import Chain
from tests.integration.reader.publisher import Publisher, key, xadd
from tests.integration.reader.rig import Rig

SINGLES = GLANCE_AFTER + 3
MANY = [f"m{number}" for number in range(READ_KEYS_MAX)]
GLANCED = 20

BUSY_SCRIPT = """
local id = redis.call('XADD', KEYS[1], '*', 'event', 'e', 'data', '1')
local sum = 0
for turn = 1, 2e7 do sum = sum + turn % 7 end
return id
"""


async def glancing(rig: Rig, publisher: Publisher) -> Chain:
    """A watched stream whose next read is a glance."""
    chain = await rig.watch("s")
    await publish_singly(rig, publisher, chain, SINGLES)
    assert rig.watched("s").may_glance()
    return chain


async def publish_singly(
    rig: Rig, publisher: Publisher, chain: Chain, count: int
) -> None:
    """Add entries, each when the one before it has been read."""
    for _ in range(count):
        await publisher.publish("s", 1)
        await rig.until(lambda: publisher.is_told("s", chain))


async def replace(
    rig: Rig, publisher: Publisher, chain: Chain, adds: list[Command]
) -> None:
    """Put another stream in the place of this one at once, and see it followed."""
    results = await publisher.run(("DEL", key("s")), *adds)
    publisher.rewound("s", 0)
    publisher.note("s", results[1:])
    await rig.until(lambda: chain.resets == 1)
    await rig.until(lambda: len(chain.ids) == len(adds))

    publisher.check("s", chain)


async def pages_read(publisher: Publisher) -> int:
    """How many XREADs the server has seen."""
    reply: str | bytes = await publisher.connection.call("INFO", "commandstats")
    text = reply if isinstance(reply, str) else reply.decode()
    for line in text.splitlines():
        if line.startswith("cmdstat_xread:"):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0


async def test_single_entries_come_without_a_page(
    rig: Rig, publisher: Publisher
) -> None:
    """The last entry of the XINFO is the new one, with its ordinal."""
    chain = await glancing(rig, publisher)
    before = await pages_read(publisher)
    await publish_singly(rig, publisher, chain, 5)

    assert await pages_read(publisher) == before
    assert [entry.seq for entry in chain.entries] == list(range(1, SINGLES + 6))
    publisher.check("s", chain)


async def test_several_entries_are_read_as_a_page(
    rig: Rig, publisher: Publisher
) -> None:
    """A glance that shows more than one new entry delivers none of them itself."""
    chain = await glancing(rig, publisher)
    await publisher.publish("s", 5)
    await rig.until(lambda: len(chain.ids) == SINGLES + 5)

    assert not rig.watched("s").may_glance()
    publisher.check("s", chain)


@pytest.mark.parametrize("kept", [0, 1])
async def test_what_a_glance_cannot_show_is_announced(
    rig: Rig, publisher: Publisher, kept: int
) -> None:
    """Trimmed, the new entry itself or all before it, with the exact number."""
    chain = await glancing(rig, publisher)
    trim = ("XTRIM", key("s"), "MAXLEN", "=", kept)
    await publisher.publish("s", 4, b"1", trim)
    await rig.until(lambda: publisher.is_told("s", chain))

    publisher.check("s", chain)
    assert sum(hole.gap.lost or 0 for hole in chain.holes) == 4 - kept


async def test_new_entry_that_is_deleted_at_once_is_announced(
    rig: Rig, publisher: Publisher
) -> None:
    """The last entry that is there is an old one then."""
    chain = await glancing(rig, publisher)
    result = await publisher.run(
        ("XADD", key("s"), "9999999999999-1", "event", "e"),
        ("XDEL", key("s"), "9999999999999-1"),
    )
    publisher.note("s", result[:1])
    await rig.until(lambda: publisher.is_told("s", chain))

    publisher.check("s", chain)
    assert [hole.gap.lost for hole in chain.holes] == [1]


async def test_stream_made_anew_with_one_entry_more_resets(
    rig: Rig, publisher: Publisher
) -> None:
    """Its numbers are those of a stream with one new entry; its beginning is not."""
    chain = await glancing(rig, publisher)
    adds = [xadd("s", b"2")] * (SINGLES + 1)
    await replace(rig, publisher, chain, adds)
    assert {entry.data for entry in chain.entries} == {b"2"}


async def test_stream_that_is_deleted_resets(rig: Rig, publisher: Publisher) -> None:
    """A glance at what is not there says so."""
    chain = await glancing(rig, publisher)
    await publisher.delete("s")
    await rig.until(lambda: chain.resets == 1)
    await publisher.publish("s", 1)
    await rig.until(lambda: len(chain.ids) == 1)

    publisher.check("s", chain)


async def test_stream_made_anew_below_the_cursor_resets(
    rig: Rig, publisher: Publisher
) -> None:
    """One entry more and the same first id, but the last id lies before the cursor."""
    chain = await rig.watch("s")
    for number in range(SINGLES):
        add = ("XADD", key("s"), f"{1 + 10 * number}-1", "event", "e", "data", "1")
        publisher.note("s", await publisher.run(add))
        await rig.until(lambda: publisher.is_told("s", chain))
    assert rig.watched("s").may_glance()
    adds: list[Command] = [
        ("XADD", key("s"), f"{number}-1", "event", "e", "data", "2")
        for number in range(1, SINGLES + 2)
    ]
    await replace(rig, publisher, chain, adds)


async def test_server_that_is_busy_is_asked_again(
    rig: Rig, publisher: Publisher
) -> None:
    """A script runs when the bell rings: BUSY is no fault of the stream."""
    chain = await glancing(rig, publisher)
    setting = "busy-reply-threshold"
    before = await publisher.connection.call("CONFIG", "GET", setting)
    await publisher.connection.call("CONFIG", "SET", setting, "20")
    try:
        script = ("EVAL", BUSY_SCRIPT, 1, key("s"))
        added = await publisher.connection.call(*script)
    finally:
        threshold = before[setting.encode()]
        await publisher.connection.call("CONFIG", "SET", setting, threshold)
    publisher.note("s", [added])
    await rig.until(lambda: publisher.is_told("s", chain))

    assert rig.count(catalog.READ_ERRORS.slots["busy"]) > 0
    assert chain.complaints == []
    publisher.check("s", chain)


async def test_stream_that_could_not_be_read_is_read_as_a_page(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """The sweep was refused and nothing rang; afterwards everything counts again."""
    async with Rig(server.url, sweep_s=1) as rig:
        chain = await glancing(rig, publisher)
        user = ("ACL", "SETUSER", "default")
        await publisher.connection.call(*user, "resetkeys", "~nothing")
        await rig.until(lambda: rig.watched("s").quarantined)
        await publisher.connection.call(*user, "allkeys")
        assert not rig.watched("s").may_glance()
        await publisher.publish("s", 2)
        await rig.until(lambda: publisher.is_told("s", chain))

        assert not rig.watched("s").quarantined
        publisher.check("s", chain)


@asynccontextmanager
async def thin_line(
    server: EmbeddedServer, publisher: Publisher
) -> AsyncIterator[tuple[FaultProxy, Rig, dict[str, Chain]]]:
    """A reader of MANY streams that glances at each, over a line that is slow now."""
    url = urlsplit(server.url)
    assert url.hostname is not None
    assert url.port is not None
    async with (
        FaultProxy((url.hostname, url.port)) as proxy,
        Rig("redis://{}:{}".format(*proxy.address)) as rig,
    ):
        chains = {session: await rig.watch(session) for session in MANY}
        for _ in range(SINGLES):
            await publisher.publish_to_all(MANY)
            await rig.until(lambda: told(publisher, chains) == len(MANY))
        assert all(rig.watched(session).may_glance() for session in MANY)
        proxy.bytes_per_s = 200_000
        yield proxy, rig, chains


def told(publisher: Publisher, chains: dict[str, Chain]) -> int:
    """How many streams are told as a whole."""
    return sum(publisher.is_told(*item) for item in chains.items())


def used(rig: Rig) -> int:
    """Of how many of MANY the entry behind the others is read."""
    return sum(rig.watched(one).anchor.seq == SINGLES + 1 for one in MANY)


async def publish_large(publisher: Publisher) -> None:
    """One entry to each of MANY at once, too much for one packet's answer."""
    adds = [xadd(session, b'"%b"' % (b"x" * 500)) for session in MANY]
    for session, added in zip(MANY, await publisher.run(*adds), strict=True):
        publisher.note(session, [added])


async def test_glances_are_used_as_they_come_and_none_twice(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """The line is cut: what had come was used, the rest is read again."""
    async with thin_line(server, publisher) as (proxy, rig, chains):
        await publish_large(publisher)
        await rig.until(lambda: told(publisher, chains) > 0)
        proxy.refuses = True
        proxy.cut()
        await rig.until(lambda: rig.count(catalog.RECONNECTS["reader"]) > 0)
        assert 0 < used(rig) < len(MANY)
        await rig.until(lambda: told(publisher, chains) == used(rig))
        dirty = sum(rig.watches.is_dirty(rig.watched(one)) for one in MANY)
        assert dirty == len(MANY) - used(rig)

        proxy.bytes_per_s, proxy.refuses = 0, False
        await rig.until(lambda: told(publisher, chains) == len(MANY))
        assert rig.count(catalog.EVENTS_READ.slot) == len(MANY) * (SINGLES + 1)
        for item in chains.items():
            publisher.check(*item)


async def test_glances_of_a_turn_that_ends_are_published_and_counted(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """Another part of the source has failed: what was used waits for no outage."""
    async with thin_line(server, publisher) as (_, rig, chains):
        await publish_large(publisher)
        await rig.until(lambda: told(publisher, chains) > 0)
        await rig.end()

        assert 0 < used(rig) < len(MANY)
        await rig.until(lambda: told(publisher, chains) == used(rig))
        events = len(MANY) * SINGLES + used(rig)
        assert rig.count(catalog.EVENTS_READ.slot) == events


@pytest.mark.parametrize("refused", [0, -1], ids=["glance", "pages"])
async def test_answer_that_is_refused_puts_off_what_it_is_about(
    rig: Rig,
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    refused: int,
) -> None:
    """One glance, or all pages of a batch that has both; the others are used."""
    new = [f"p{number}" for number in range(5)]
    sessions = MANY[:GLANCED] + new
    chains = {session: await rig.watch(session) for session in sessions}
    for _ in range(SINGLES):
        await publisher.publish_to_all(MANY[:GLANCED])
        await rig.until(lambda: told(publisher, chains) == len(chains))
    batches: list[list[Any]] = []
    send_each = Connection.send_each

    def refuse_one(
        connection: Connection, take: Callable[[Any], None], *commands: Command
    ) -> Any:
        batch: list[Any] = []
        batches.append(batch)

        def take_other(reply: Any) -> None:
            if len(batches) == 1 and len(batch) == refused % len(commands):
                reply = ReplyError("TRYAGAIN in a moment")
            batch.append(reply)
            take(reply)

        return send_each(connection, take_other, *commands)

    monkeypatch.setattr(Connection, "send_each", refuse_one)
    added = await publisher.run(*[xadd(session, b"1") for session in sessions])
    for session, stream_id in zip(sessions, added, strict=True):
        publisher.note(session, [stream_id])
    await rig.until(lambda: told(publisher, chains) == len(chains))

    assert len(batches[0]) == GLANCED + len(new) + 3, "it had both, and a MULTI"
    assert rig.count(catalog.READ_ERRORS.slots["busy"]) == 1
    assert rig.count(catalog.EVENTS_READ.slot) == GLANCED * (SINGLES + 1) + len(new)
    for item in chains.items():
        publisher.check(*item)
