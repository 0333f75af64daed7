"""The server behind the connection: another one, an older state, one that is unfit."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import ServerUnsuitable
from broker.metrics import catalog
from broker.model import StreamId
from broker.ring import board as b
from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer, free_port
from tests.integration.reader.follower import Entry, Hole
from tests.integration.reader.publisher import Publisher
from tests.integration.reader.rig import Rig
from tests.integration.store.conftest import StartServer

KEPT = [f"kept{number}" for number in range(5)]
LOST = [f"lost{number}" for number in range(5)]


@pytest.mark.parametrize("more", [0, 1, 9, 1100])
async def test_writes_that_a_restarted_server_lost_reset_their_streams_only(
    start_server: StartServer, more: int
) -> None:
    """New entries may hide the loss by id and by number; the absent cursor tells."""
    server = start_server()
    publisher = await Publisher.connect(server.url)
    async with Rig(server.url) as rig:
        chains = {session: await rig.watch(session) for session in KEPT + LOST}
        await publisher.publish_to_all(KEPT + LOST, 3)
        await publisher.connection.call("SAVE")
        await publisher.publish_to_all(LOST, 2)
        await rig.until(lambda: all(publisher.is_told(*one) for one in chains.items()))
        await rig.end()
        server.kill()
        await asyncio.to_thread(server.start)
        for session in LOST:
            publisher.rewound(session, 3)
        publisher.connection = await Connection.open(server.url, client_name="test")
        await publisher.publish_to_all(KEPT + LOST, more)
        rig.begin()
        await rig.until(lambda: all(chains[one].resets for one in LOST))
        await rig.until(lambda: all(publisher.is_told(*one) for one in chains.items()))
        resets = rig.count(catalog.RESETS.slot)

    for session, chain in chains.items():
        publisher.check(session, chain)
        assert chain.resets == (session in LOST)
    for session in LOST:
        (former,) = publisher.former[session]
        assert ids_of(chains[session].histories[0]) == former
    assert resets == len(LOST)
    publisher.close()


def ids_of(history: list[Entry | Hole]) -> list[StreamId]:
    return [item.id for item in history if isinstance(item, Entry)]


@pytest.mark.parametrize("steps", range(8))
async def test_to_be_told_to_end_while_the_connection_is_being_lost_ends_it(
    start_server: StartServer, steps: int
) -> None:
    """In whichever step of noticing the loss that comes; nobody would tell it again."""
    server = start_server()
    async with Rig(server.url) as rig:
        await rig.watch("one")
        await rig.until(lambda: not rig.source._work.is_set())
        server.kill()
        await rig.source._work.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        ending = asyncio.create_task(rig.end())
        done, _ = await asyncio.wait([ending], timeout=5)
        ending.cancel()

    assert done


async def test_server_that_restarts_with_all_its_data_resets_nothing(
    start_server: StartServer,
) -> None:
    """Its run id has changed, its streams have not."""
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    publisher = await Publisher.connect(server.url)
    async with Rig(server.url) as rig:
        chains = {session: await rig.watch(session) for session in KEPT}
        for _ in range(3):
            await publisher.publish_to_all(KEPT, 2)
            server.kill()
            await rig.until(lambda: not rig.is_up)
            await asyncio.to_thread(server.start)
            publisher.connection = await Connection.open(server.url, client_name="test")
            await publisher.publish_to_all(KEPT, 2)
            await rig.until(lambda: rig.is_up)
        await rig.until(lambda: all(publisher.is_told(*one) for one in chains.items()))
        resets = rig.count(catalog.RESETS.slot)
        reconnects = rig.count(catalog.RECONNECTS["reader"])

    for session, chain in chains.items():
        publisher.check(session, chain)
    assert resets == 0
    assert reconnects >= 3
    publisher.close()


async def test_same_server_is_not_suspected_after_a_cut(
    rig: Rig, publisher: Publisher
) -> None:
    """Also where the cursor's entry was deleted or trimmed away meanwhile."""
    chain = await rig.watch("s")
    await publisher.publish("s", 3)
    await rig.until(lambda: len(chain.ids) == 3)
    await rig.end()
    await publisher.run(("XTRIM", b"broker:events:s", "MAXLEN", "=", 0))
    await publisher.publish("s", 2)
    rig.begin()
    await rig.until(lambda: publisher.is_told("s", chain))

    publisher.check("s", chain)
    assert chain.resets == 0


async def test_server_that_appears_late_is_read(start_server: StartServer) -> None:
    """The reader may be first; requests wait for the server."""
    server = start_server()
    server.kill()
    rig = Rig(server.url)
    rig.follower.start()
    rig.begin()
    token = rig.ask("s")
    await rig.until(lambda: rig.count(catalog.RECONNECTS["reader"]) > 1)
    ever_up = rig.on_board(b.REDIS_UP_EVER)
    await asyncio.to_thread(server.start)
    answer = await rig.answer(token)
    await rig.__aexit__(None, None, None)

    assert ever_up == 0
    assert answer.join is not None


async def test_cluster_node_is_refused(start_server: StartServer) -> None:
    """It is not supported, and no retry would change that."""
    bus = str(free_port())
    server = start_server("--cluster-enabled", "yes", "--cluster-port", bus)
    rig = Rig(server.url)
    with pytest.raises(ServerUnsuitable, match="Cluster"):
        await rig.source.run()
    await rig.__aexit__(None, None, None)


async def test_replica_is_not_read(start_server: StartServer) -> None:
    """A demoted primary would go on ringing for what it copies."""
    primary, server = start_server(), start_server()
    control = await Connection.open(server.url, client_name="test")
    async with Rig(server.url, sweep_s=0.2) as rig:
        await rig.watch("s")
        await control.call("REPLICAOF", "127.0.0.1", primary.port)
        await rig.until(lambda: not rig.is_up)
        await rig.until(lambda: rig.count(catalog.RECONNECTS["reader"]) > 1)
        await control.call("REPLICAOF", "NO", "ONE")
        await rig.until(lambda: rig.is_up)
    control.close()


class TestTrackingRefused:
    @pytest.fixture
    async def limited_url(self, server: EmbeddedServer) -> str:
        """A user who may do everything but track."""
        control = await Connection.open(server.url, client_name="test")
        await control.call(
            *("ACL", "SETUSER", "limited", "reset", "on", ">secret"),
            *("~*", "&*", "+@all", "-client|tracking"),
        )
        control.close()
        return server.url.replace("redis://", "redis://limited:secret@")

    async def test_auto_reads_with_blocking_commands(
        self, limited_url: str, publisher: Publisher
    ) -> None:
        """Slower and for fewer sessions, but nothing is missing."""
        async with Rig(limited_url, reader_mode="auto") as rig:
            chain = await rig.watch("s")
            await publisher.publish("s", 3)
            await rig.until(lambda: publisher.is_told("s", chain))

            assert rig.count(catalog.TRACKING.slot) == 0
            assert rig.count(catalog.TRACKING_WANTED.slot) == 1
            publisher.check("s", chain)

    async def test_tracking_does_not_pretend(self, limited_url: str) -> None:
        """Who asks for tracking only gets it or nothing."""
        rig = Rig(limited_url, reader_mode="tracking")
        rig.begin()
        await rig.until(lambda: rig.count(catalog.RECONNECTS["reader"]) > 1)

        assert not rig.is_up
        await rig.__aexit__(None, None, None)
