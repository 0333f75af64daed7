"""Rings of the server wake the reader, and nothing that was published stays unread."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from structlog.testing import capture_logs

from broker.metrics import catalog
from broker.model import Position
from broker.reader.blocking import GROUP_MAX
from broker.reader.pump import Pump
from broker.reader.watched import EMPTY_READS_MAX
from broker.reader.watches import EMPTY_READS_PER_S, Batch
from broker.ring import board as b
from broker.store.embedded import EmbeddedServer
from tests.integration.reader.follower import Chain
from tests.integration.reader.publisher import Publisher, key
from tests.integration.reader.rig import Rig

SESSIONS = [f"s{number}" for number in range(50)]
LOAD_S = 1.5


async def publish_at_random(
    publishers: list[Publisher], seconds: float = LOAD_S
) -> None:
    """Each publisher writes to sessions of its own, in bursts of random sizes."""

    async def run(publisher: Publisher, sessions: list[str], seed: int) -> None:
        chance = random.Random(seed)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            chosen = chance.sample(sessions, chance.randint(1, 5))
            await publisher.publish_to_all(chosen, chance.randint(1, 3))
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.003]))

    async with asyncio.TaskGroup() as tasks:
        for number, publisher in enumerate(publishers):
            mine = SESSIONS[number :: len(publishers)]
            tasks.create_task(run(publisher, mine, number))


def owner(publishers: list[Publisher], session: str) -> Publisher:
    return publishers[SESSIONS.index(session) % len(publishers)]


def all_is_told(publishers: list[Publisher], chains: dict[str, Chain]) -> bool:
    return all(owner(publishers, s).is_told(s, c) for s, c in chains.items())


def check_all(publishers: list[Publisher], chains: dict[str, Chain]) -> int:
    """Check every session; returns how many entries came."""
    for session, chain in chains.items():
        owner(publishers, session).check(session, chain)
        assert not chain.holes
    return sum(len(chain.ids) for chain in chains.values())


async def test_no_wake_up_is_lost_under_random_load(
    rig: Rig, publishers: list[Publisher]
) -> None:
    """The sweep never comes here: all that was published was rung for."""
    chains = {session: await rig.watch(session) for session in SESSIONS}
    await publish_at_random(publishers)
    await rig.until(lambda: all_is_told(publishers, chains))

    assert check_all(publishers, chains) > 1000
    assert rig.count(catalog.DOORBELL_MISSED.slot) == 0


class LatePump(Pump):
    """Marks a key clean when its reply has come, and not when the read is sent."""

    def _append_batch(self, batch: Batch, read: object) -> None:
        for watched in batch.watched:
            self._watches._dirty.pop(watched, None)
        super()._append_batch(batch, read)  # type: ignore[arg-type]


async def test_reader_that_cleans_too_late_loses_wake_ups(
    server: EmbeddedServer, publishers: list[Publisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: were the order the other way round, it would."""
    monkeypatch.setattr("tests.integration.reader.rig.Pump", LatePump)
    async with Rig(server.url) as rig:
        chains = {session: await rig.watch(session) for session in SESSIONS}
        await publish_at_random(publishers)
        with pytest.raises(TimeoutError):
            await rig.until(lambda: all_is_told(publishers, chains), patience_s=1)


async def test_killed_connections_lose_nothing_and_repeat_nothing(
    rig: Rig, publishers: list[Publisher]
) -> None:
    """Tracking is a property of a connection: the next one begins with all dirty."""
    chains = {session: await rig.watch(session) for session in SESSIONS}
    load = asyncio.create_task(publish_at_random(publishers, 2.5))
    killer = publishers[0].connection
    killed = 0
    while not load.done():
        await rig.until(lambda: rig.is_up)
        listed = await killer.call("CLIENT", "LIST")
        for line in listed.decode().splitlines():
            words = dict(word.split("=", 1) for word in line.split(" "))
            if words["name"] == "broker-reader-test":
                killed += await killer.call("CLIENT", "KILL", "ID", words["id"])
        await asyncio.sleep(0.2)
    await load
    await rig.until(lambda: all_is_told(publishers, chains))

    assert killed >= 5
    assert check_all(publishers, chains) > 1000
    assert sum(chain.resets for chain in chains.values()) == 0


async def test_blocking_reads_that_may_not_log_in_are_tried_again(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """The password was changed: the operator sees why, and it ends nothing."""
    control, user = publisher.connection, ("ACL", "SETUSER", "reader")
    await control.call(*user, "on", ">old", "~*", "&*", "+@all")
    url = server.url.replace("://", "://reader:old@")
    async with Rig(url, reader_mode="blocking") as rig:
        await rig.watch("s0")
        await control.call(*user, "resetpass", ">new")
        for number in range(1, GROUP_MAX + 1):
            await rig.watch(f"s{number}")
        with capture_logs() as logged:
            await rig.until(lambda: not rig.is_up)
        await control.call(*user, ">old")
        await rig.until(lambda: rig.is_up)
    await control.call("ACL", "DELUSER", "reader")

    assert "WRONGPASS" in logged[0]["why"]


@pytest.mark.parametrize("bad_key", [False, True])
async def test_blocking_reads_deliver_the_same(
    server: EmbeddedServer, publishers: list[Publisher], bad_key: bool
) -> None:
    """Without tracking XREAD BLOCK wakes; one key that is no stream harms nobody."""
    async with Rig(server.url, reader_mode="blocking") as rig:
        chains = {session: await rig.watch(session) for session in SESSIONS}
        if bad_key:
            await rig.watch("bad")
            await publishers[0].connection.call("SET", key("bad"), "no stream")
        await publish_at_random(publishers)
        await rig.until(lambda: all_is_told(publishers, chains))

        assert check_all(publishers, chains) > 500
        assert rig.count(catalog.TRACKING.slot) == 0
        assert rig.count(catalog.TRACKING_WANTED.slot) == 0
        assert rig.count(catalog.RECONNECTS["reader"]) == 0


async def test_swapped_database_is_found_by_the_sweep(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """SWAPDB never rings, so the find counts as missed by the doorbell."""
    other = await Publisher.connect(server.url[:-1] + "1")
    await other.publish("s", 3)
    async with Rig(server.url, sweep_s=0.5) as rig:
        chain = await rig.watch("s")
        await rig.until(lambda: rig.watched("s").reads > 0)
        await publisher.connection.call("SWAPDB", 0, 1)
        await rig.until(lambda: len(chain.ids) == 3)

        other.check("s", chain)
        assert rig.count(catalog.DOORBELL_MISSED.slot) == 3
    await publisher.connection.call("SWAPDB", 0, 1)
    other.close()


async def test_deleted_database_is_read_again(rig: Rig, publisher: Publisher) -> None:
    """FLUSHDB rings once, for all keys."""
    chains = [await rig.watch(session) for session in SESSIONS]
    await publisher.publish_to_all(SESSIONS)
    await rig.until(lambda: all(len(chain.ids) == 1 for chain in chains))
    await publisher.connection.call("FLUSHDB")
    await rig.until(lambda: all(chain.resets == 1 for chain in chains))

    assert [chain.ids for chain in chains] == [[]] * len(chains)


async def test_keys_that_ring_without_entries_cost_so_much_and_no_more(
    server: EmbeddedServer, publishers: list[Publisher]
) -> None:
    """A tracking table that is too small rings for ever although nobody writes."""
    setting = "tracking-table-max-keys"
    control, empty = publishers[0].connection, catalog.EMPTY_READS.slot
    async with Rig(server.url, sweep_s=2) as rig:
        for number in range(400):
            await rig.watch(f"idle{number}")
        chains = {session: await rig.watch(session) for session in SESSIONS}
        await control.call("CONFIG", "SET", setting, 100)
        try:
            began, before = time.monotonic(), rig.count(empty)
            with capture_logs() as logged:
                await rig.until(lambda: rig.watches.held > 0)
                await asyncio.sleep(2)
            reads, took_s = rig.count(empty) - before, time.monotonic() - began
            await publish_at_random(publishers, 0.5)
            await rig.until(lambda: all_is_told(publishers, chains), patience_s=1.5)
        finally:
            await control.call("CONFIG", "SET", setting, 1_000_000)

        check_all(publishers, chains)
        assert [line["event"] for line in logged].count("rings_for_nothing") == 1
        free = EMPTY_READS_MAX * 450
        assert EMPTY_READS_PER_S < reads < free + EMPTY_READS_PER_S * (took_s + 1.5)


async def test_publisher_that_tidies_behind_each_entry_is_heard_at_once(
    rig: Rig, publisher: Publisher
) -> None:
    """Each XTRIM, XDEL or EXPIRE rings by itself and brings nothing."""
    chain = await rig.watch("s")
    empty = catalog.EMPTY_READS.slot

    async def tidy(*words: str | int) -> None:
        before = rig.count(empty)
        await publisher.connection.call(words[0], key("s"), *words[1:])
        await rig.until(lambda: rig.count(empty) == before + 1)

    for _ in range(10):
        await publisher.publish("s", 5)
        await rig.until(lambda: publisher.is_told("s", chain), patience_s=0.5)
        for number in range(1, 5):
            await tidy("XTRIM", "MAXLEN", "=", 5 - number)
            await tidy("EXPIRE", 1000)


async def test_full_tracking_table_refuses_new_sessions(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """It is shared by all clients of the server; those who are there keep theirs."""
    setting = "tracking-table-max-keys"
    sessions = SESSIONS[:20]
    async with Rig(server.url) as rig:
        chains = [await rig.watch(session) for session in sessions]
        await rig.end()
        await publisher.connection.call("CONFIG", "SET", setting, 21)
        try:
            rig.begin()
            await rig.until(lambda: rig.on_board(b.WATCHES_REFUSED) == 1)
            answer = await rig.answer(rig.ask("another"))
            await publisher.publish_to_all(sessions)
            await rig.until(lambda: all(len(chain.ids) == 1 for chain in chains))
        finally:
            await publisher.connection.call("CONFIG", "SET", setting, 1_000_000)

    assert answer.refused is not None
    assert answer.refused.reason == "overloaded"


async def test_full_tracking_table_takes_back_what_was_watched_before(
    server: EmbeddedServer, publisher: Publisher
) -> None:
    """A reader that was restarted must not refuse the sessions of its predecessor."""
    setting = "tracking-table-max-keys"
    sessions = SESSIONS[:20]
    async with Rig(server.url) as rig:
        await publisher.publish_to_all(sessions)
        for session in sessions:
            await rig.watch(session)
        await publisher.connection.call("CONFIG", "SET", setting, 21)
        try:
            await rig.restart()
            await rig.until(lambda: rig.on_board(b.WATCHES_REFUSED) == 1)
            chains = {}
            for session in sessions:
                have = Position(publisher.ever[session][0], 1)
                chains[session] = await rig.watch(session, have=have)
            await publisher.publish_to_all(sessions)
            await rig.until(lambda: all(len(one.ids) == 1 for one in chains.values()))
        finally:
            await publisher.connection.call("CONFIG", "SET", setting, 1_000_000)

        for session, chain in chains.items():
            publisher.check(session, chain)
