"""Streams that get one entry at a time are read by their XINFO alone."""

from __future__ import annotations

import pytest

from broker.reader.watches import GLANCE_AFTER
from tests.integration.reader.follower import Chain
from tests.integration.reader.publisher import Publisher, key, xadd
from tests.integration.reader.rig import Rig

SINGLES = GLANCE_AFTER + 3


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
    results = await publisher.run(("DEL", key("s")), *adds)
    publisher.rewound("s", 0)
    publisher.note("s", results[1:])
    await rig.until(lambda: chain.resets == 1)
    await rig.until(lambda: len(chain.ids) == SINGLES + 1)

    publisher.check("s", chain)
    assert {entry.data for entry in chain.entries} == {b"2"}


async def test_stream_that_is_deleted_resets(rig: Rig, publisher: Publisher) -> None:
    """A glance at what is not there says so."""
    chain = await glancing(rig, publisher)
    await publisher.delete("s")
    await rig.until(lambda: chain.resets == 1)
    await publisher.publish("s", 1)
    await rig.until(lambda: len(chain.ids) == 1)

    publisher.check("s", chain)
