"""A client that was away continues exactly where it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.model import StreamId
from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, RedisAt, StartBroker, StartRedis
from tests.harness.client import Refused, WebSocketClient
from tests.harness.processes import stopped
from tests.harness.publisher import Author, RatePublisher
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer

BOTH = pytest.mark.parametrize("protocol", ["websocket", "sse"])


def bare(entry_id: StreamId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


def numbers(frames: list[dict[str, dict[str, int]]]) -> list[int]:
    return [frame["data"]["i"] for frame in frames]


@BOTH
@pytest.mark.parametrize("with_seq", [True, False], ids=["seq", "bare"])
async def test_position_in_the_middle_replays_the_rest(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    protocol: str,
    with_seq: bool,
) -> None:
    """Both forms of a position resume completely and then go live."""
    ids = await author.publish(session, 30)
    position = bare(ids[9]) + ("@10" if with_seq else "")
    watcher = await watch(broker, session, protocol).open({"last_event_id": position})
    caught_up = await watcher.next("caught_up")
    await author.publish(session, event="live")
    await watcher.next("live")

    assert watcher.told("subscribed")[0]["resume"] == "complete"
    assert watcher.told("subscribed")[0]["from"].startswith(bare(ids[9]))
    assert watcher.told("subscribed")[0]["tip"] == f"{bare(ids[-1])}@30"
    assert caught_up["data"] == {"position": f"{bare(ids[-1])}@30", "replayed": 20}
    assert numbers(watcher.events) == list(range(11, 32))
    assert [frame["seq"] for frame in watcher.events] == list(range(11, 32))
    assert watcher.told("gap") == []


@pytest.mark.parametrize("start", ["0", "0-0", "0-0@0"])
async def test_zero_replays_all_that_is_retained(
    broker: BrokerServer, watch: NewWatcher, author: Author, session: str, start: str
) -> None:
    """0 is before the first entry."""
    await author.publish(session, 25)
    watcher = await watch(broker, session).open({"last_event_id": start})
    caught_up = await watcher.next("caught_up")

    assert caught_up["data"]["replayed"] == 25
    assert numbers(watcher.events) == list(range(1, 26))


@pytest.mark.parametrize(("last", "expected"), [(1, 1), (5, 5), (25, 25), (400, 25)])
async def test_minus_n_replays_the_last_n(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    last: int,
    expected: int,
) -> None:
    """-N is the last N entries, or all if there are fewer."""
    await author.publish(session, 25)
    watcher = await watch(broker, session).open({"last_event_id": f"-{last}"})
    await recorder.complete()

    assert numbers(watcher.events) == list(range(26 - expected, 26))
    assert watcher.told("gap") == []


async def test_minus_n_of_a_missing_stream_waits_for_the_first_entry(
    broker: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """A session without a stream can be subscribed in every form."""
    watcher = await watch(broker, session).open({"last_event_id": "-10"})
    await author.publish(session)
    frame = await watcher.next("tick")

    assert frame["seq"] == 1


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("2024-01-01T00:00:00Z", [1, 2, 3]),
        ("2025-11-21T04:26:41Z", [2, 3]),
        ("2025-11-21T05:26:41.5+01:00", [3]),
        ("2030-01-01T00:00:00Z", []),
    ],
)
async def test_since_replays_from_that_time_on(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    since: str,
    expected: list[int],
) -> None:
    """Since is compared with the times of the stream ids."""
    for ms in (1763699200000, 1763699201000, 1763699202000):
        await author.publish_raw(session, {"event": "timed", "data": "1"}, f"{ms}-0")
    watcher = await watch(broker, session).open({"since": since})
    await author.publish(session, event="live")
    await watcher.next("live")

    assert [frame["seq"] for frame in watcher.events] == [*expected, 4]


@BOTH
async def test_position_of_the_tip_is_live_at_once(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    protocol: str,
) -> None:
    """Whoever missed nothing is replayed nothing."""
    ids = await author.publish(session, 5)
    query = {"last_event_id": f"{bare(ids[-1])}@5"}
    watcher = await watch(broker, session, protocol).open(query)
    await author.publish(session, event="live")
    await watcher.next("live")

    assert watcher.told("subscribed")[0]["resume"] in ("live", "complete")
    assert len(watcher.events) == 1


async def test_position_that_was_just_published_is_never_a_reset(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Whoever resumes with the id that XADD just returned waits for the pod."""
    for _ in range(40):
        (entry_id,) = await author.publish(session)
        watcher = watch(broker, session)
        await watcher.open({"last_event_id": bare(entry_id)})

        assert watcher.told("subscribed")[0]["resume"] in ("live", "complete")
    await author.publish(session, 5)
    await recorder.complete()


async def test_position_ahead_of_the_ring_waits_and_repeats_nothing(
    start_broker: StartBroker,
    watch: NewWatcher,
    shared_redis: EmbeddedServer,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """A client that is ahead of a slow reader gets only what comes after it."""
    broker = start_broker(shared_redis.url, workers=1)
    behind = await watch(broker, session).open()
    with stopped(broker.reader):
        ids = await author.publish(session, 50)
        ahead = watch(broker, session)
        opening = asyncio.create_task(ahead.open({"last_event_id": bare(ids[-1])}))
        await asyncio.wait([opening], timeout=0.5)
    await opening
    await author.publish(session, 10)
    await recorder.complete()

    assert numbers(behind.events) == list(range(1, 61))
    assert numbers(ahead.events) == list(range(51, 61))
    assert ahead.told("reset") == []


async def test_position_ahead_of_the_stream_is_a_reset(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """A position that the primary does not have belongs to another history."""
    ids = await author.publish(session, 5)
    client = await WebSocketClient.connect(
        broker.public,
        f"/v1/ws/{session}",
        {"last_event_id": f"{ids[-1][0] + 60_000}-0"},
    )
    subscribed = await client.until("subscribed")
    frames = [await client.until("tick") for _ in range(5)]
    client.cut()

    assert subscribed["data"]["resume"] == "reset"
    assert subscribed["data"]["from"] == "0-0@0"
    assert [frame["seq"] for frame in frames] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("claimed", [1, 4, 900])
async def test_seq_of_a_client_is_not_believed(
    broker: BrokerServer, author: Author, session: str, claimed: int
) -> None:
    """With a wrong ordinal beside a right id the later events carry true ones."""
    ids = await author.publish(session, 6)
    client = await WebSocketClient.connect(
        broker.public,
        f"/v1/ws/{session}",
        {"last_event_id": f"{bare(ids[1])}@{claimed}"},
    )
    frame = await client.until("tick")
    while frame["data"]["i"] < 6:
        frame = await client.until("tick")
    client.cut()

    assert frame.get("seq", 6) == 6


@pytest.mark.parametrize(
    "query",
    [
        {"last_event_id": "abc"},
        {"last_event_id": "-"},
        {"last_event_id": "5-"},
        {"last_event_id": "1-2-3"},
        {"last_event_id": "1-2@"},
        {"last_event_id": "1-2@x"},
        {"last_event_id": "18446744073709551616-0"},
        {"last_event_id": "-1.5"},
        {"last_event_id": "\uff11-0"},
        {"since": "yesterday"},
        {"since": "2024-13-01T00:00:00Z"},
        {"overflow": "explode"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["ws", "sse"])
async def test_garbage_is_refused_before_the_upgrade(
    broker: BrokerServer, session: str, query: dict[str, str], path: str
) -> None:
    """What cannot be read is a 400 with a JSON body."""
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(
            broker.public, f"/v1/{path}/{session}", query, subprotocols=()
        )

    assert refused.value.status == 400
    assert isinstance(refused.value.json(), dict)


async def test_last_event_id_header_beats_the_query(
    broker: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """EventSource repeats its old URL, so only the header knows where it stands."""
    ids = await author.publish(session, 10)
    watcher = watch(broker, session, "sse")
    await watcher.open(
        {"last_event_id": "0"}, headers=[("Last-Event-ID", f"{bare(ids[6])}@7")]
    )
    await watcher.next("caught_up")

    assert numbers(watcher.events) == [8, 9, 10]


@BOTH
async def test_coming_and_going_under_load_misses_nothing(
    broker: BrokerServer,
    watch: NewWatcher,
    shared_redis: EmbeddedServer,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """Resuming while events flow has no seam between replay and live."""
    publisher = RatePublisher(shared_redis.url, recorder.ledger, [session], 800)
    watchers = [await watch(broker, session, protocol).open() for _ in range(4)]
    publishing = asyncio.create_task(publisher.run(2.5))
    while not publishing.done():
        for watcher in watchers:
            await watcher.cut()
        for watcher in watchers:
            await watcher.open()
        await asyncio.wait([publishing], timeout=0.02)
    await publishing
    await recorder.complete()

    assert publisher.published > 1500
    assert all(watcher.told("gap") == [] for watcher in watchers)
    assert all(watcher.told("reset") == [] for watcher in watchers)


async def test_resume_after_everybody_left_is_complete(
    start_broker: StartBroker,
    start_redis: StartRedis,
    redis_at: RedisAt,
    watch: NewWatcher,
    recorder: Recorder,
    session: str,
) -> None:
    """What was published while nobody watched the session is read from Redis."""
    server = start_redis()
    broker = start_broker(server.url, linger_s=0)
    redis = redis_at(server.url)
    author = Author(redis, recorder.ledger)
    watcher = await watch(broker, session).open()
    for _ in range(3):
        await author.publish(session, 10)
        await watcher.next("tick")
        await watcher.cut()
        await asyncio.sleep(0.1)  # the broker forgets the session in this time
        await author.publish(session, 10)
        await watcher.open()
    await recorder.complete()

    assert numbers(watcher.events) == list(range(1, 61))


async def test_many_resume_at_once(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    new_session: Callable[[], str],
) -> None:
    """Two hundred clients of twenty sessions return for a hundred events each."""
    sessions = [new_session() for _ in range(20)]
    watchers = [watch(broker, sessions[i % 20]) for i in range(200)]
    await asyncio.gather(*(watcher.open() for watcher in watchers))
    await asyncio.gather(*(watcher.cut() for watcher in watchers))
    for name in sessions:
        await author.publish(name, 100)
    await asyncio.gather(*(watcher.open() for watcher in watchers))
    await recorder.complete()

    assert all(len(watcher.events) == 100 for watcher in watchers)
