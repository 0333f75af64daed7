"""What is gone before it was read is announced, in its place and with its number."""

from __future__ import annotations

import random

import pytest

from broker.metrics import catalog
from broker.model import Position, id_before
from broker.store.embedded import EmbeddedServer
from tests.integration.reader.publisher import Publisher, key, xadd
from tests.integration.reader.rig import Rig


async def test_trimmed_entries_are_announced_in_their_place(
    rig: Rig, publisher: Publisher
) -> None:
    """Redis skips them without a sign: one ring, ten of a hundred entries."""
    await publisher.publish("s", 5)
    chain = await rig.watch("s")
    await publisher.publish("s", 2)
    await rig.until(lambda: len(chain.ids) == 2)
    await publisher.publish("s", 100, b"1", ("XTRIM", key("s"), "MAXLEN", "=", 10))
    await rig.until(lambda: len(chain.ids) == 12)
    (hole,) = chain.holes
    ever = publisher.ever["s"]

    assert chain.histories[-1].index(hole) == 2
    assert hole.at == Position(id_before(ever[97]), 97)
    assert (hole.gap.lost, hole.gap.exact, hole.gap.reason) == (90, True, "trimmed")
    assert hole.gap.after == Position(ever[6], 7)
    assert hole.gap.next == Position(ever[97], 98)
    assert [entry.seq for entry in chain.entries] == [6, 7, *range(98, 108)]
    assert rig.count(catalog.GAP_ENTRIES.slot) == 90
    publisher.check("s", chain)


async def test_deleted_entries_are_announced(rig: Rig, publisher: Publisher) -> None:
    """XDEL in the middle of what was not read yet: the number is exact."""
    chain = await rig.watch("s")
    adds = [("XADD", key("s"), f"1000-{n}", "event", "e") for n in range(1, 11)]
    deletes = ("XDEL", key("s"), "1000-3", "1000-4", "1000-8")
    publisher.note("s", (await publisher.run(*adds, deletes))[:10])
    await rig.until(lambda: publisher.is_told("s", chain))

    publisher.check("s", chain)
    assert len(chain.ids) == 7
    assert sum(hole.gap.lost or 0 for hole in chain.holes) == 3


async def test_stream_that_is_trimmed_to_nothing_is_announced(
    rig: Rig, publisher: Publisher
) -> None:
    """There is no entry to put the gap in front of."""
    chain = await rig.watch("s")
    await publisher.publish("s", 7, b"1", ("XTRIM", key("s"), "MAXLEN", "=", 0))
    await rig.until(lambda: publisher.is_told("s", chain))
    (hole,) = chain.holes
    assert rig.watched("s").empty_reads == 0
    await publisher.publish("s", 1)
    await rig.until(lambda: len(chain.ids) == 1)

    assert hole.at == Position(publisher.ever["s"][6], 7)
    assert hole.gap.lost == 7
    assert [entry.seq for entry in chain.entries] == [8]
    publisher.check("s", chain)


@pytest.mark.parametrize("seed", range(3))
async def test_every_random_loss_is_counted(
    rig: Rig, publisher: Publisher, seed: int
) -> None:
    """Published = delivered + announced as lost, for every stream, at every pace."""
    chance = random.Random(seed)
    sessions = [f"s{number}" for number in range(8)]
    for session in sessions[4:]:
        await publisher.publish(session, 10)
    chains = {session: await rig.watch(session) for session in sessions}
    for _ in range(400):
        await publisher.change(chance.choice(sessions), chance)
    await rig.until(lambda: all(publisher.is_told(*item) for item in chains.items()))

    for session, chain in chains.items():
        publisher.check(session, chain)
        assert chain.resets == 0
    assert sum(len(chain.holes) for chain in chains.values()) > 20


async def test_loss_among_large_entries_is_announced_with_the_sweep(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """Their XINFO is left out of most reads, so the number comes late, not never."""
    data = b'"' + b"x" * 30_000 + b'"'
    async with Rig(server.url, sweep_s=0.5) as rig:
        chain = await rig.watch("s")
        for _ in range(3):
            await publisher.publish("s", 3, data)
            await rig.until(lambda: publisher.is_told("s", chain))
        await publisher.publish("s", 5, data, ("XTRIM", key("s"), "MAXLEN", "=", 2))
        await rig.until(lambda: publisher.is_told("s", chain), patience_s=2)

        publisher.check("s", chain)
        assert sum(hole.gap.lost or 0 for hole in chain.holes) == 3
        assert rig.count(catalog.DOORBELL_MISSED.slot) == 0


async def test_ring_without_an_entry_among_large_ones_is_read_twice(
    rig: Rig, publisher: Publisher
) -> None:
    """The first read has no XINFO; the next entries have theirs, and their ordinals."""
    chain = await rig.watch("s")
    await publisher.publish("s", 3, b'"' + b"x" * 30_000 + b'"')
    await rig.until(lambda: publisher.is_told("s", chain))
    reads = rig.watched("s").reads
    await publisher.connection.call("EXPIRE", key("s"), 1000)
    await rig.until(lambda: rig.watched("s").reads == reads + 2)
    await publisher.publish("s", 1)
    await rig.until(lambda: publisher.is_told("s", chain), patience_s=0.5)

    assert [entry.seq for entry in chain.entries][-1] == 4


async def test_deleted_stream_resets_and_is_read_from_its_new_beginning(
    rig: Rig, publisher: Publisher
) -> None:
    """Deleting rings; every entry of what comes then is delivered."""
    chain = await rig.watch("s")
    await publisher.publish("s", 5)
    await rig.until(lambda: len(chain.ids) == 5)
    await publisher.delete("s")
    await rig.until(lambda: chain.resets == 1)
    await publisher.publish("s", 3)
    await rig.until(lambda: len(chain.ids) == 3)

    publisher.check("s", chain)
    assert [entry.seq for entry in chain.entries] == [1, 2, 3]
    assert len(chain.histories[0]) == 5


async def test_stream_that_is_replaced_at_once_resets(
    rig: Rig, publisher: Publisher
) -> None:
    """Deleted and refilled between two reads: shorter than before, so another one."""
    chain = await rig.watch("s")
    await publisher.publish("s", 5)
    await rig.until(lambda: len(chain.ids) == 5)
    results = await publisher.run(("DEL", key("s")), *[xadd("s", b"2")] * 3)
    publisher.rewound("s", 0)
    publisher.note("s", results[1:])
    await rig.until(lambda: chain.resets == 1)
    await rig.until(lambda: len(chain.ids) == 3)

    publisher.check("s", chain)
    assert {entry.data for entry in chain.entries} == {b"2"}


async def test_stream_that_began_anew_with_small_ids_is_read(
    rig: Rig, publisher: Publisher
) -> None:
    """Ids below the old cursor would never come without the reset."""
    chain = await rig.watch("s")
    await publisher.publish("s", 5)
    await rig.until(lambda: len(chain.ids) == 5)
    await publisher.run(("DEL", key("s")), ("XADD", key("s"), "0-1", "event", "e"))
    await rig.until(lambda: chain.resets == 1)
    await rig.until(lambda: chain.ids == [(0, 1)])

    assert chain.entries[0].seq == 1


async def test_odd_ids_are_entries_like_others(rig: Rig, publisher: Publisher) -> None:
    """From the first legal id to the last, which closes the stream."""
    largest = 2**64 - 1
    chain = await rig.watch("s")
    ids = ["0-1", "5-0", "99999999999999999-5", f"{largest}-{largest}"]
    for one in ids:
        await publisher.connection.call("XADD", key("s"), one, "event", "e")
    await rig.until(lambda: len(chain.ids) == 4)
    await publisher.connection.call("XTRIM", key("s"), "MAXLEN", "=", 1)
    await publisher.publish("other")
    other = await rig.watch("other")
    await publisher.publish("other")
    await rig.until(lambda: len(other.ids) == 1)

    assert chain.ids[-1] == (largest, largest)
    assert [entry.seq for entry in chain.entries] == [1, 2, 3, 4]
    assert rig.count(catalog.ODD_IDS.slot) == 2
