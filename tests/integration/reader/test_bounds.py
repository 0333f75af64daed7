"""How much one read may bring."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.metrics import catalog
from broker.reader.chain import Chains
from broker.reader.pump import KEYS_PER_COMMIT
from broker.reader.watches import FIRST_COUNT, READ_BYTES_MAX
from broker.ring.layout import Kind
from broker.store.streams import parse_doorbell_reply
from tests.integration.reader.publisher import Publisher, xadd
from tests.integration.reader.rig import RING_BYTES, Rig

SESSIONS = [f"large{number}" for number in range(20)]
STEPS = [f"step{number}" for number in range(3 * KEYS_PER_COMMIT)]
ENTRIES, ENTRY_BYTES = 30, 100_000
ROUND_BYTES = len(SESSIONS) * ENTRY_BYTES

# With a page of at least ten entries may come their XINFO, which repeats two of them.
BOUND = READ_BYTES_MAX * 1.25


def size_of(reply: Any) -> int:
    """The bytes of all strings in a reply."""
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, dict):
        return sum(map(size_of, reply.keys())) + sum(map(size_of, reply.values()))
    return sum(map(size_of, reply)) if isinstance(reply, list) else 0


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the replies to the reader's reads."""
    sizes: list[int] = []

    def measure(found: list[Any], *rest: Any) -> Any:
        sizes.append(size_of(found))
        return parse_doorbell_reply(found, *rest)

    monkeypatch.setattr("broker.reader.pump.parse_doorbell_reply", measure)
    return sizes


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the reader publishes to its workers at once, in bytes."""
    sizes: list[int] = []
    commit = Chains.commit

    def measure(chains: Chains) -> int:
        size = commit(chains)
        sizes.extend([size] if size else [])
        return size

    monkeypatch.setattr(Chains, "commit", measure)
    return sizes


async def publish_large(publisher: Publisher) -> None:
    data = b'"' + b"x" * (ENTRY_BYTES - 2) + b'"'
    for session in SESSIONS:
        await publisher.publish(session, ENTRIES, data)


async def test_replies_are_bounded_where_the_size_is_known(
    rig: Rig, publisher: Publisher, replies: list[int]
) -> None:
    """60 MB wait; Redis has no limit of its own and would send them at once."""
    chains = {}
    for session in SESSIONS:
        await publisher.publish(session, 1, b'"' + b"x" * ENTRY_BYTES + b'"')
        chains[session] = await rig.watch(session)
    await rig.end()
    await publish_large(publisher)
    rig.begin()
    await rig.until(lambda: all(publisher.is_told(*item) for item in chains.items()))

    assert max(replies) < BOUND
    assert sum(replies) >= ENTRIES * ROUND_BYTES
    for session, chain in chains.items():
        publisher.check(session, chain)


async def test_first_reads_bring_few_entries_while_the_size_is_a_guess(
    rig: Rig, publisher: Publisher, replies: list[int]
) -> None:
    """Streams that were empty may hold anything: ten of each, then the bound holds."""
    chains = {session: await rig.watch(session) for session in SESSIONS}
    await rig.end()
    await publish_large(publisher)
    rig.begin()
    await rig.until(lambda: all(publisher.is_told(*item) for item in chains.items()))

    first = (FIRST_COUNT + 2) * ROUND_BYTES
    assert max(replies) < 1.1 * first
    assert sorted(replies)[-2] < BOUND
    for session, chain in chains.items():
        publisher.check(session, chain)


async def test_large_entries_are_in_the_ring_by_reference(
    rig: Rig, publisher: Publisher
) -> None:
    """One session cannot lap all; what is not kept for a replay has to go whole."""
    chain = await rig.watch("s")
    await publisher.publish("s", 1, b'"small"')
    await publisher.publish("s", 1, b'"' + b"x" * 65_000 + b'"')
    await publisher.publish("s", 1, b'"' + b"x" * 66_000 + b'"')
    await publisher.publish("s", 1, b'"' + b"x" * 2_000_000 + b'"')
    await rig.until(lambda: len(chain.ids) == 4)
    transient = (*xadd("s", b'"' + b"x" * 66_000 + b'"'), "transient", "1")
    publisher.note("s", await publisher.run(transient))
    await rig.until(lambda: len(chain.ids) == 5)

    kinds = [entry.kind for entry in chain.entries]
    assert kinds[:2] == [Kind.EVENT, Kind.EVENT]
    assert kinds[2:] == [Kind.REFERENCE, Kind.SKIPPED, Kind.EVENT]
    assert chain.entries[2].payload == b""
    assert len(chain.entries[4].data) == 66_002
    publisher.check("s", chain)


async def test_reader_waits_for_a_worker_that_is_slow(
    rig: Rig, publisher: Publisher
) -> None:
    """Redis is the buffer: more than a ring is written and nobody is lapped."""
    chain = await rig.watch("s")
    await publisher.publish("s", 1)
    await rig.until(lambda: len(chain.ids) == 1)
    rig.follower.stop()
    for _ in range(10):
        await publisher.publish("s", 50, b'"' + b"x" * 50_000 + b'"')
    for _ in range(5):
        rig.follower.beat()
        await asyncio.sleep(0.1)
    rig.follower.start()
    await rig.until(lambda: publisher.is_told("s", chain))

    assert rig.count(catalog.PAUSED_SECONDS.slot) > 0.2
    assert rig.count(catalog.RING_BYTES_WRITTEN.slot) > RING_BYTES
    publisher.check("s", chain)


async def test_reader_does_not_wait_for_a_worker_that_hangs(
    rig: Rig, publisher: Publisher
) -> None:
    """Its heartbeat is old: the others are served."""
    chain = await rig.watch("s")
    rig.follower.stop()
    rig.follower.beat(seconds_ago=5)
    for _ in range(4):
        await publisher.publish("s", 50, b'"' + b"x" * 50_000 + b'"')
    await rig.until(lambda: rig.count(catalog.EVENTS_READ.slot) == 200)
    rig.follower.start()

    assert rig.count(catalog.PAUSED_SECONDS.slot) == 0
    assert chain.ids == []


@pytest.mark.parametrize("times", [1, 8])
async def test_workers_begin_while_the_reader_is_at_its_batch(
    rig: Rig, publisher: Publisher, commits: list[int], times: int
) -> None:
    """What came at once, and is glanced at or read, is published in small steps."""
    chains = {session: await rig.watch(session) for session in STEPS}
    for _ in range(times):
        await publisher.publish_to_all(STEPS)
        await rig.until(
            lambda: all(publisher.is_told(*item) for item in chains.items())
        )
    commits.clear()
    added = await publisher.run(*[xadd(session, b"1") for session in STEPS])
    for session, stream_id in zip(STEPS, added, strict=True):
        publisher.note(session, [stream_id])
    await rig.until(lambda: all(publisher.is_told(*item) for item in chains.items()))

    assert max(commits) < sum(commits) / 2
