"""The newest state of a conversation, found in the stream of a real server."""

from __future__ import annotations

import asyncio
import json

import pytest
from redis.asyncio import Redis

from broker.errors import StoreRefused, StoreUnavailable
from broker.metrics.slots import Slots
from broker.model import START, Position
from broker.store.embedded import EmbeddedServer
from broker.store.keys import event_key_pattern
from broker.worker import archive as archives
from broker.worker import snapshots as module
from broker.worker.archive import Archive
from broker.worker.snapshots import UNKNOWN, Look, Snapshots, id_after
from tests.harness.conversations import Conversation
from tests.harness.publisher import key_of

MAX_EVENT_BYTES = 1024 * 1024


@pytest.fixture
def snapshots(archive: Archive) -> Snapshots:
    return Snapshots(archive, MAX_EVENT_BYTES)


@pytest.fixture
def conversation(redis: Redis, session: str) -> Conversation:
    return Conversation(redis, session)


async def commands(redis: Redis, name: str) -> int:
    """How many commands of a name the server has done so far."""
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])


def value_of(look: Look) -> object:
    return None if look.snapshot is None else json.loads(look.snapshot.data)["value"]


async def test_a_session_without_a_stream_has_no_state(
    snapshots: Snapshots, session: str
) -> None:
    """It begins before the first entry that there will be."""
    assert await snapshots.newest(session) == UNKNOWN
    assert UNKNOWN.tip == START


async def test_the_newest_snapshot_is_found_behind_other_entries(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """However many came after it."""
    await conversation.show(title="old")
    shown = await conversation.show(title="new")
    last = (await conversation.say(1_500))[-1]
    look = await snapshots.newest(conversation.session)

    assert look.snapshot is not None
    assert look.snapshot.id == shown
    assert value_of(look) == {"title": "new"}
    assert look.status is None
    assert look.tip == Position(last, 1_502)


async def test_only_a_status_after_the_snapshot_counts(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """The snapshot says what came before it."""
    await conversation.turn("running")
    await conversation.show()
    look = await snapshots.newest(conversation.session)
    await conversation.turn("paused")
    turned = await conversation.turn("finished", transient=1)
    newer = await snapshots.newest(conversation.session)
    fresh = Snapshots(snapshots._archive, MAX_EVENT_BYTES)

    assert await fresh.newest(conversation.session) == newer
    assert look.status is None
    assert newer.snapshot == look.snapshot
    assert newer.status is not None
    assert newer.status.id == turned
    assert (newer.status.value, newer.status.transient) == ("finished", True)


async def test_what_is_no_state_is_passed_over(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """Entries that break the contract, or only mention states."""
    await conversation.show(title="this")
    kind = "ConversationStateUpdateEvent"
    await conversation.publish({"kind": "MessageEvent", "text": kind})
    await conversation.publish({"kind": kind, "key": "stats", "value": {}})
    for fields in (
        {"event": "oh_event", "data": f'{{"kind":"{kind}","key":"full_state"'},
        {"event": "other", "data": f'{{"kind":"{kind}","key":"full_state"}}'},
        {"data": f'{{"kind":"{kind}","key":"full_state"}}'},
    ):
        await conversation.redis.xadd(conversation.key, fields)

    assert value_of(await snapshots.newest(conversation.session)) == {"title": "this"}


async def test_looking_again_reads_only_what_is_new(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """A storm of clients that come back costs little."""
    redis = conversation.redis
    await conversation.show(title="first")
    await conversation.say(100)
    await snapshots.newest(conversation.session)
    reads = await commands(redis, "xrevrange")
    for _ in range(10):
        await snapshots.newest(conversation.session)
    idle_reads = await commands(redis, "xrevrange") - reads
    await conversation.say(3)
    await snapshots.newest(conversation.session)
    more_reads = await commands(redis, "xrevrange") - reads

    assert idle_reads == 0
    assert more_reads == 1
    assert value_of(snapshots.known(conversation.session)) == {"title": "first"}


async def test_those_who_ask_at_the_same_time_share_one_answer(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """Also if one of them stops waiting."""
    await conversation.show(title="first")
    await conversation.say(50)
    reads = await commands(conversation.redis, "xrevrange")
    asking = [
        asyncio.create_task(snapshots.newest(conversation.session)) for _ in range(50)
    ]
    await asyncio.sleep(0)
    asking.pop(0).cancel()
    looks = await asyncio.gather(*asking)

    assert all(look is looks[0] for look in looks)
    assert await commands(conversation.redis, "xrevrange") - reads <= 3


async def test_a_stream_that_was_made_anew_is_looked_at_anew(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """The state of the old one is not told of the new one."""
    await conversation.say(5)
    await conversation.show(title="gone")
    await snapshots.newest(conversation.session)
    await conversation.redis.delete(conversation.key)
    without = await snapshots.newest(conversation.session)
    await conversation.show(title="gone")
    await conversation.say(5)
    await snapshots.newest(conversation.session)
    await conversation.redis.delete(conversation.key)
    await conversation.say(2)
    anew = await snapshots.newest(conversation.session)

    assert without == UNKNOWN
    assert value_of(anew) is None


async def test_a_trimmed_snapshot_is_still_the_newest_one(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """What was once found is remembered."""
    await conversation.show(title="kept")
    await snapshots.newest(conversation.session)
    await conversation.say(10)
    await conversation.redis.xtrim(conversation.key, maxlen=3, approximate=False)

    assert value_of(await snapshots.newest(conversation.session)) == {"title": "kept"}


@pytest.mark.parametrize(
    ("bound", "value"), [("ENTRIES_MAX", 30), ("BYTES_MAX", 2_000)]
)
async def test_the_walk_is_bounded(
    snapshots: Snapshots,
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    value: int,
) -> None:
    """A snapshot that is very far back counts as none; a known one stays known."""
    monkeypatch.setattr(module, bound, value)
    await conversation.show(title="far")
    known = await snapshots.newest(conversation.session)
    await conversation.say(600)
    still = await snapshots.newest(conversation.session)
    fresh = await Snapshots(snapshots._archive, MAX_EVENT_BYTES).newest(
        conversation.session
    )

    assert still.snapshot == known.snapshot
    assert fresh.snapshot is None
    assert fresh.tip == still.tip


async def test_what_is_remembered_is_bounded(
    archive: Archive, redis: Redis, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sessions and in bytes; who nobody asked for longest goes first."""
    monkeypatch.setattr(module, "SESSIONS_MAX", 3)
    monkeypatch.setattr(module, "KEPT_BYTES_MAX", 3_000)
    snapshots = Snapshots(archive, MAX_EVENT_BYTES)
    names = [f"{session}.{number}" for number in range(5)]
    for name in names[:4]:
        await Conversation(redis, name).show(pad="x")
        await snapshots.newest(name)
    by_count = [name for name in names if snapshots.known(name) is not UNKNOWN]
    await Conversation(redis, names[4]).show(pad="x" * 2_850)
    await snapshots.newest(names[4])
    by_bytes = [name for name in names if snapshots.known(name) is not UNKNOWN]

    assert by_count == names[1:4]
    assert by_bytes == names[4:]


async def test_a_key_that_is_no_stream_is_an_error_for_everybody(
    snapshots: Snapshots, conversation: Conversation
) -> None:
    """And is asked for again the next time."""
    await conversation.redis.set(conversation.key, "text")
    results = await asyncio.gather(
        *(snapshots.newest(conversation.session) for _ in range(2)),
        return_exceptions=True,
    )
    await conversation.redis.delete(conversation.key)

    assert [type(result) for result in results] == [StoreRefused, StoreRefused]
    assert await snapshots.newest(conversation.session) == UNKNOWN


async def test_a_connection_that_is_being_made_is_waited_for(
    shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """Clients that come right after a start are not sent away."""
    slots = Slots.create(1)
    pattern = event_key_pattern("broker:events:{session}")
    archive = Archive(shared_redis.url, "test-late", pattern, slots.row(1), lambda: 0)
    await Conversation(redis, session).show(title="there")
    asking = asyncio.create_task(Snapshots(archive, MAX_EVENT_BYTES).newest(session))
    await asyncio.sleep(0)
    running = asyncio.create_task(archive.run())
    look = await asking
    running.cancel()
    await asyncio.wait([running])
    slots.close()

    assert value_of(look) == {"title": "there"}


async def test_a_connection_that_does_not_come_is_an_error(
    shared_redis: EmbeddedServer, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded time."""
    monkeypatch.setattr(archives, "PATIENCE_S", 0.1)
    slots = Slots.create(1)
    pattern = event_key_pattern("broker:events:{session}")
    archive = Archive(shared_redis.url, "test-never", pattern, slots.row(1), lambda: 0)
    with pytest.raises(StoreUnavailable):
        await Snapshots(archive, MAX_EVENT_BYTES).newest(session)
    slots.close()


def test_ids_have_a_next_one_but_for_the_last() -> None:
    """Both halves are unsigned 64-bit numbers."""
    largest = 2**64 - 1

    assert id_after((5, 7)) == (5, 8)
    assert id_after((5, largest)) == (6, 0)
    assert id_after((largest, largest)) is None


async def test_the_state_of_a_deleted_conversation_is_not_told_for_the_next(
    snapshots: Snapshots, conversation: Conversation, redis: Redis, session: str
) -> None:
    """Although the next one has more entries by the time that somebody looks."""
    await conversation.show(title="old")
    before = await snapshots.newest(session)
    await redis.delete(key_of(session))
    for later in range(1, 6):
        entry = {"event": "oh_event", "data": "{}"}
        await redis.xadd(key_of(session), entry, f"{before.tip.id[0] + later}-0")  # type: ignore[arg-type]
    after = await snapshots.newest(session)

    assert before.snapshot is not None
    assert after.snapshot is None
