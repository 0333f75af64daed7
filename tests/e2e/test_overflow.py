"""What happens to a client that does not read, under each policy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import NewWatcher
from tests.harness.publisher import Author
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer
from tests.harness.watcher import Watcher

# More than the kernel and the broker hold for a socket that nobody reads.
COUNT, PAD_BYTES = 300, 8_000


async def stall(
    broker: BrokerServer, watch: NewWatcher, session: str, overflow: str
) -> Watcher:
    """A client with a small receive buffer that stops reading."""
    watcher: Watcher = await watch(broker, session).open(
        {"overflow": overflow}, receive_buffer_bytes=4096
    )
    watcher.websocket.pause()
    return watcher


async def publish_while_another_reads(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    **fields: Any,
) -> None:
    """Publish until a healthy client has it all: the other must be behind by then."""
    healthy = await watch(broker, session).open()
    for _ in range(COUNT // 10):
        await author.publish(session, 10, pad_bytes=PAD_BYTES, **fields)
    await author.publish(session, event="last")
    await healthy.next("last")

    assert len(healthy.events) == COUNT + 1


async def test_lag_delivers_everything_later(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """A client that reads again gets every retained event once and then goes live."""
    slow = await stall(broker, watch, session, "lag")
    await publish_while_another_reads(broker, watch, author, session)
    slow.websocket.resume()
    await recorder.complete()
    await author.publish(session, event="live")
    await slow.next("live")

    assert len(slow.events) == COUNT + 2
    assert slow.told("gap") == []


async def test_lag_of_many_stalls_loses_nothing(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Stalling again and again only delays."""
    slow = await stall(broker, watch, session, "lag")
    for _ in range(5):
        await publish_while_another_reads(broker, watch, author, session)
        slow.websocket.resume()
        await slow.next("last")
        slow.websocket.pause()
    slow.websocket.resume()
    await recorder.complete()

    assert len(slow.events) == 5 * (COUNT + 1)


async def test_drop_jumps_to_the_tip(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """What a slow client missed is announced as dropped, with its number."""
    slow = await stall(broker, watch, session, "drop")
    await publish_while_another_reads(broker, watch, author, session)
    slow.websocket.resume()
    await recorder.complete()
    await author.publish(session, event="live")
    await slow.next("live")
    gaps = slow.told("gap")

    assert {gap["reason"] for gap in gaps} == {"dropped"}
    assert sum(gap["lost"] for gap in gaps) > COUNT // 3
    assert all(gap["exact"] for gap in gaps)


async def test_latest_keeps_the_newest_of_each_key(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """A slow client gets the newest event per key, and the others are announced."""
    slow = await stall(broker, watch, session, "latest")
    await publish_while_another_reads(broker, watch, author, session, key="a")
    newest = {}
    for key in ("b", "c", "b", "c", "b"):
        (newest[key],) = await author.publish(session, key=key)
    slow.websocket.resume()
    await recorder.complete()
    gaps = slow.told("gap")
    received = {frame["id"].partition("@")[0] for frame in slow.events}

    assert {gap["reason"] for gap in gaps} == {"conflated"}
    assert len(slow.events) < COUNT
    assert {f"{ms}-{n}" for ms, n in newest.values()} <= received


async def test_latest_keeps_every_event_without_a_key(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """A missing key is its own key."""
    slow = await stall(broker, watch, session, "latest")
    await publish_while_another_reads(broker, watch, author, session)
    slow.websocket.resume()
    await recorder.complete()

    assert len(slow.events) == COUNT + 1


async def test_close_ends_with_a_code_that_means_resume(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """The client is closed as slow, and resuming brings what it missed."""
    slow = await stall(broker, watch, session, "close")
    await publish_while_another_reads(broker, watch, author, session)
    slow.websocket.resume()
    ended = await slow.ended()
    await slow.open({"overflow": "close"})
    await recorder.complete()

    # The Close frame may not fit into a socket that took nothing: then it is a cut.
    assert ended.code in (4001, None)
    assert len(slow.events) == COUNT + 1


@pytest.mark.parametrize("overflow", ["lag", "latest", "drop", "close"])
async def test_policy_does_not_matter_to_a_client_that_reads(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    overflow: str,
) -> None:
    """Nothing is dropped or conflated while the socket takes everything."""
    watcher = await watch(broker, session).open({"overflow": overflow})
    for _ in range(20):
        await author.publish(session, 5, key="same")
        await watcher.next("tick")
    await recorder.complete()

    assert len(watcher.events) == 100
    assert watcher.told("gap") == []
