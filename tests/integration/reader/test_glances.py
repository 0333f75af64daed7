"""Streams that get one entry at a time are read by their XINFO alone."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from broker.metrics import catalog
from broker.reader.watched import GLANCE_AFTER
from broker.reader.watches import READ_KEYS_MAX
from broker.store.connection import Command
from broker.store.embedded import EmbeddedServer
from tests.harness.proxy import FaultProxy
from tests.integration.reader.follower import Chain
from tests.integration.reader.publisher import Publisher, key, xadd
from tests.integration.reader.rig import Rig

SINGLES = GLANCE_AFTER + 3
MANY = [f"m{number}" for number in range(READ_KEYS_MAX)]

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
    await publisher.connection.call("CONFIG", "SET", "busy-reply-threshold", "20")
    try:
        script = ("EVAL", BUSY_SCRIPT, 1, key("s"))
        added = await publisher.connection.call(*script)
    finally:
        await publisher.connection.call("CONFIG", "SET", "busy-reply-threshold", 5000)
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


async def test_glances_are_used_as_they_come_and_none_twice(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """The line is thin and then cut: what had come was used, the rest is read again."""
    url = urlsplit(server.url)
    assert url.hostname is not None
    assert url.port is not None
    upstream = (url.hostname, url.port)
    async with (
        FaultProxy(upstream) as proxy,
        Rig("redis://{}:{}".format(*proxy.address)) as rig,
    ):
        chains = {session: await rig.watch(session) for session in MANY}

        def told() -> int:
            return sum(publisher.is_told(*item) for item in chains.items())

        for _ in range(SINGLES):
            await publisher.publish_to_all(MANY)
            await rig.until(lambda: told() == len(MANY))
        assert all(rig.watched(session).may_glance() for session in MANY)
        adds = [xadd(session, b'"%b"' % (b"x" * 500)) for session in MANY]
        proxy.bytes_per_s = 200_000
        for session, added in zip(MANY, await publisher.run(*adds), strict=True):
            publisher.note(session, [added])
        await rig.until(lambda: told() > 0)
        proxy.refuses = True
        proxy.cut()
        await rig.until(lambda: rig.count(catalog.RECONNECTS["reader"]) > 0)
        watched = [rig.watched(session) for session in MANY]
        used = sum(one.anchor.seq == SINGLES + 1 for one in watched)
        assert 0 < used < len(MANY)
        await rig.until(lambda: told() == used)
        assert sum(map(rig.watches.is_dirty, watched)) == len(MANY) - used

        proxy.bytes_per_s, proxy.refuses = 0, False
        await rig.until(lambda: told() == len(MANY))
        assert rig.count(catalog.EVENTS_READ.slot) == len(MANY) * (SINGLES + 1)
        for item in chains.items():
            publisher.check(*item)
