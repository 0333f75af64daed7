"""What retention took is announced, with its exact number, or as unknown."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from broker.model import StreamId
from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness.processes import stopped
from tests.harness.publisher import Author, key_of
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer

BOTH = pytest.mark.parametrize("protocol", ["websocket", "sse"])


def text(entry_id: StreamId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


@BOTH
async def test_trimming_while_away_is_counted_exactly(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    session: str,
    protocol: str,
) -> None:
    """One gap in front of the first kept entry says how many are missing."""
    ids = await author.publish(session, 100)
    await redis.xtrim(key_of(session), maxlen=20, approximate=False)
    watcher = watch(broker, session, protocol)
    await watcher.open({"last_event_id": f"{text(ids[9])}@10"})
    gap = await watcher.next("gap")
    frame = await watcher.next("tick")

    assert watcher.told("subscribed")[0]["resume"] == "gap"
    assert gap == {
        "event": "gap",
        "session": session,
        "data": {
            "after": f"{text(ids[9])}@10",
            "next": f"{text(ids[80])}@81",
            "lost": 70,
            "exact": True,
            "reason": "trimmed",
        },
    }
    assert frame["seq"] == 81


async def test_trimming_is_counted_from_the_beginning(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Whoever asks for all that is retained is told what is not."""
    await author.publish(session, 500, maxlen=30)
    watcher = await watch(broker, session).open({"last_event_id": "0"})
    await recorder.complete()

    assert sum(gap["lost"] for gap in watcher.told("gap")) == 470
    assert len(watcher.events) == 30


async def test_bare_id_before_the_trimmed_part_has_an_unknown_loss(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """Nobody can know the ordinal of an id that is gone, so no number is told."""
    ids = await author.publish(session, 50)
    await redis.xtrim(key_of(session), maxlen=10, approximate=False)
    watcher = await watch(broker, session).open({"last_event_id": text(ids[4])})
    await recorder.complete()
    (gap,) = watcher.told("gap")

    assert gap["lost"] is None
    assert gap["exact"] is False
    assert gap["after"] == text(ids[4])
    assert [frame["seq"] for frame in watcher.events] == list(range(41, 51))


async def test_bare_id_of_a_kept_entry_needs_no_gap(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """Trimming behind the position does not matter."""
    ids = await author.publish(session, 50)
    await redis.xtrim(key_of(session), maxlen=20, approximate=False)
    watcher = await watch(broker, session).open({"last_event_id": text(ids[39])})
    await recorder.complete()

    assert watcher.told("gap") == []
    assert [frame["seq"] for frame in watcher.events] == list(range(41, 51))


async def test_deleted_entries_while_away_are_counted_exactly(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """XDEL in the middle is a loss like trimming."""
    ids = await author.publish(session, 40)
    await redis.xdel(key_of(session), *(text(ids[i]) for i in (11, 12, 20)))
    watcher = watch(broker, session)
    await watcher.open({"last_event_id": f"{text(ids[9])}@10"})
    await recorder.complete()

    assert sum(gap["lost"] for gap in watcher.told("gap")) == 3
    assert len(watcher.events) == 27


async def test_deleted_last_entry_is_announced_at_the_tail(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """A loss after the last kept entry needs no further entry to be told."""
    ids = await author.publish(session, 10)
    await redis.xdel(key_of(session), text(ids[9]))
    watcher = await watch(broker, session).open({"last_event_id": "0"})
    gap = await watcher.next("gap")
    await author.publish(session, event="after")
    frame = await watcher.next("after")

    assert gap["data"]["lost"] == 1
    assert frame["seq"] == 11


async def test_deleted_entries_in_a_long_replay_are_counted_exactly(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """A replay of many pages with holes all over closes at the tail."""
    ids = await author.publish(session, 3000)
    holes = [text(entry_id) for entry_id in ids[50::97]]
    await redis.xdel(key_of(session), *holes)
    watcher = await watch(broker, session).open({"last_event_id": "0"})
    await author.publish(session, 10)
    await recorder.complete()

    assert sum(gap["lost"] for gap in watcher.told("gap")) == len(holes)
    assert watcher.events[-1]["seq"] == 3010


async def test_everything_trimmed_is_announced_without_an_event(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    session: str,
) -> None:
    """An emptied stream is no missing one: its loss has a number."""
    ids = await author.publish(session, 12)
    await redis.xtrim(key_of(session), maxlen=0, approximate=False)
    watcher = watch(broker, session)
    await watcher.open({"last_event_id": f"{text(ids[1])}@2"})
    gap = await watcher.next("gap")
    await author.publish(session)
    frame = await watcher.next("tick")

    assert gap["data"]["lost"] == 10
    assert frame["seq"] == 13


@BOTH
async def test_trimming_that_overtakes_the_reader_is_announced_live(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """XREAD skips trimmed entries silently; the broker does not."""
    broker = start_broker(shared_redis.url)
    watcher = await watch(broker, session, protocol).open()
    await author.publish(session, 3)
    await watcher.next("tick")
    with stopped(broker.reader):
        await author.publish(session, 500, maxlen=50)
    gap = await watcher.next("gap")
    await recorder.complete()

    assert gap["data"]["lost"] == 450
    assert gap["data"]["exact"] is True
    assert len(watcher.events) == 53


async def test_bursts_larger_than_retention_close_the_sum(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Every transaction trims most of what it adds before anybody can read it."""
    watcher = await watch(broker, session).open()
    for _ in range(40):
        await author.publish(session, 100, maxlen=10)
    await recorder.complete()
    lost = sum(gap["lost"] for gap in watcher.told("gap"))

    assert lost >= 3600
    assert lost + len(watcher.events) == 4000


async def test_transient_entries_are_delivered_live(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Whoever is there gets transient entries like all others."""
    watcher = await watch(broker, session).open()
    await author.publish(session, 3)
    await author.publish(session, 4, transient=1)
    await author.publish(session, 3)
    await recorder.complete()

    assert [frame["seq"] for frame in watcher.events] == list(range(1, 11))
    assert watcher.told("gap") == []


@BOTH
async def test_transient_entries_leave_an_announced_hole_in_a_replay(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """A replay skips transient entries and says how many."""
    for transient in (0, 1, 0, 1):
        await author.publish(session, 3, transient=transient)
    watcher = await watch(broker, session, protocol).open({"last_event_id": "0"})
    await recorder.complete()
    gaps = watcher.told("gap")

    assert [gap["reason"] for gap in gaps] == ["transient", "transient"]
    assert [gap["lost"] for gap in gaps] == [3, 3]
    assert [frame["seq"] for frame in watcher.events] == [1, 2, 3, 7, 8, 9]


async def test_deleted_entries_are_told_although_the_replay_was_cut(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    redis: Redis,
    recorder: Recorder,
    session: str,
) -> None:
    """A loss that is counted only at the end must survive a cut before the end."""
    ids = await author.publish(session, 3000, pad_bytes=500)
    holes = [text(entry_id) for entry_id in (ids[20], ids[30], ids[2990])]
    await redis.xdel(key_of(session), *holes)
    watcher = watch(broker, session)
    await watcher.open({"last_event_id": "0"}, receive_buffer_bytes=4096)
    for _ in range(300):
        await watcher.next("tick")
    await watcher.cut()
    received = len(watcher.events)
    await watcher.open()
    await recorder.complete()

    assert 300 <= received < 2900
    assert len(watcher.events) == 2997
