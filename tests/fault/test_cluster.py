"""A cluster: several primaries, slots that move, primaries that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import ClusterDownError

from broker.client import CommandConsumer, Publisher
from broker.model import parse_stream_id
from broker.store.cluster import open_connection
from broker.store.embedded import EmbeddedServer
from broker.store.slots import slot_of
from tests.conftest import NewWatcher, StartBroker
from tests.harness.client import WebSocketClient
from tests.harness.http import get
from tests.harness.ledger import Ledger
from tests.harness.load import SESSIONS, load, until
from tests.harness.publisher import CLIENT_NAME, key_of
from tests.harness.redis_cluster import RedisCluster, said, session_at, slot_at
from tests.harness.servers import BrokerServer

TROUBLE = "cluster_unavailable|redis_unavailable|probe|server_changed|stream_reset"
SECONDS = 6.0
COMMANDS = 200
REWRITE = """
redis.call('XADD', KEYS[1], '1-1', 'event', 'tick', 'data', '2')
redis.call('XADD', KEYS[1], '*', 'event', 'tick', 'data', '3')
"""
"""Makes a stream of two entries, of which one lies behind those of just now."""
AddTick = Callable[[str], Awaitable[None]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries for all tests that leave them alive."""
    running = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="module")
def module_broker(
    cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerServer]:
    """A broker on that cluster, with short leases."""
    settings: dict[str, object] = {
        "max_sessions_per_user": 2,
        "session_lease_s": 4,
        "session_linger_s": 1,
        "sweep_s": 600,  # So that no sweep finds what should have been heard.
        "command_rate_per_s": 10_000,
        "command_rate_per_user_per_s": 10_000,
    }
    directory = tmp_path_factory.mktemp("broker")
    server = BrokerServer(cluster.url, directory, settings).start()
    yield server
    server.stop()


@pytest.fixture
def pod(module_broker: BrokerServer) -> Iterator[BrokerServer]:
    """The same; the test fails if it makes the broker log an error."""
    yield module_broker
    module_broker.check_log()


@pytest.fixture
async def add_tick(cluster: RedisCluster, ledger: Ledger) -> AsyncIterator[AddTick]:
    """Adds an entry as any service may, by plain ``XADD``."""
    connection = await open_connection(cluster.url, client_name=CLIENT_NAME)

    async def add(session: str) -> None:
        added = await connection.call("XADD", key_of(session), "*", "event", "tick")
        ledger.published(session, parse_stream_id(added))

    yield add
    connection.close()


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[RedisCluster]:
    """Three primaries with a replica each, for one test."""
    running = RedisCluster(tmp_path, replicated=True)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """Three primaries for one test."""
    running = RedisCluster(tmp_path)
    try:
        yield running.start()
    finally:
        running.stop()


async def enter(
    server: BrokerServer, session: str, user: str, **query: str
) -> WebSocketClient:
    client = await WebSocketClient.connect(
        server.public, f"/v1/ws/{session}", {"user": user, **query}
    )
    await client.until("subscribed")
    return client


async def test_slots_that_move_under_load_lose_and_double_nothing(
    cluster: RedisCluster, start_broker: StartBroker
) -> None:
    """Sessions on all nodes; their slots move to the next one, with pauses halfway."""
    broker = start_broker(cluster.url)
    async with load(
        broker, cluster.url, seconds=SECONDS, rate_per_s=500, clients=40
    ) as running:
        for session in SESSIONS[:10]:
            await cluster.move_on(slot_at(session), pause_s=0.1)

    assert running.lost == 0
    assert "stream_reset" not in broker.log.text
    assert "doorbell_missed" not in broker.log.text


async def test_a_stream_is_heard_while_its_slot_is_halfway(
    cluster: RedisCluster, pod: BrokerServer, add_tick: AddTick, watch: NewWatcher
) -> None:
    """On its old node, on the new one that has no slots yet, and when it has."""
    target = cluster.add()
    session = session_at(cluster, cluster.primaries[0], "halfway")
    watcher = await watch(pod, session).open()
    await add_tick(session)
    await watcher.next("tick")
    await cluster.begin_move(slot_at(session), target)
    await add_tick(session)
    await watcher.next("tick")
    await cluster.move_keys(slot_at(session), target)
    await add_tick(session)
    await watcher.next("tick")
    late = await watch(pod, session).open({"last_event_id": "0"})
    await cluster.end_move(slot_at(session), target)
    await add_tick(session)
    await watcher.next("tick")
    await late.next("tick")

    assert cluster.owner(slot_at(session)) is target
    assert watcher.told("reset") == watcher.told("gap") == []
    assert [event["seq"] for event in watcher.events] == [1, 2, 3, 4]


async def test_a_session_opened_halfway_is_heard(
    cluster: RedisCluster, pod: BrokerServer, add_tick: AddTick, watch: NewWatcher
) -> None:
    """Its stream is at the new node, or is going to begin there."""
    source, target = cluster.primaries[1:3]
    session = session_at(cluster, source, "opened-halfway")
    await cluster.begin_move(slot_at(session), target)
    watcher = await watch(pod, session).open()
    await add_tick(session)
    await watcher.next("tick")
    await cluster.end_move(slot_at(session), target)
    await add_tick(session)
    await watcher.next("tick")

    assert [event["seq"] for event in watcher.events] == [1, 2]


async def test_a_stream_that_begins_after_its_slot_moved_is_heard(
    cluster: RedisCluster, pod: BrokerServer, add_tick: AddTick, watch: NewWatcher
) -> None:
    """No key has moved, so nothing rang."""
    source, target = cluster.primaries[1:3]
    session = session_at(cluster, source, "begins-later")
    watcher = await watch(pod, session).open()
    await cluster.move(slot_at(session), target)
    await add_tick(session)

    assert (await watcher.next("tick"))["seq"] == 1


async def test_commands_keep_their_order_while_their_slot_moves(
    cluster: RedisCluster, pod: BrokerServer
) -> None:
    """Each is stored once, and a service gets them as they were said."""
    client = await enter(pod, "talk", "ada")
    slot = slot_of(b"broker:commands")
    got: list[int] = []
    async with CommandConsumer(cluster.url, group="services") as consumer:
        moving = asyncio.create_task(cluster.move_on(slot, pause_s=0.3))
        for number in range(COMMANDS):
            command_id = f"in-order-{number}" if number % 2 else ""
            client.send({"cmd": "n", "data": {"n": number}, **ref_of(command_id)})
            await asyncio.sleep(0.01)
        await moving
        async for command in consumer:
            got.append(command.data["n"])
            await command.done()
            if len(got) == COMMANDS:
                break

    assert got == list(range(COMMANDS))
    client.cut()


def ref_of(command_id: str) -> dict[str, str]:
    """Without an id a command is one ``XADD``; with one it is a script of two keys."""
    return {"id": command_id} if command_id else {}


async def test_one_session_too_many_evicts_the_oldest_on_another_node(
    cluster: RedisCluster, pod: BrokerServer
) -> None:
    """The keys of a user are in one slot, whichever streams the sessions have."""
    names = [session_at(cluster, node, "limited") for node in cluster.primaries[:3]]
    clients = [await enter(pod, name, "grace") for name in names]
    closing = await clients[0].until("closing")
    listed = await get(pod.admin, "/v1/users/grace/sessions")

    assert closing["data"]["reason"] == "session_evicted"
    assert closing["data"]["replaced_by"] == names[2]
    assert {one["session"]: one["state"] for one in listed.json()["sessions"]} == {
        names[0]: "evicted",
        names[1]: "open",
        names[2]: "open",
    }
    for client in clients:
        client.cut()


async def test_presence_and_notices_reach_every_worker(pod: BrokerServer) -> None:
    """Subscribers are on one node, and the keys that change are on all of them."""
    watcher = await enter(pod, "who-is-here", "ada", presence="1")
    await watcher.until("present")
    guest = await enter(pod, "who-is-here", "bob")
    joined = await watcher.until("joined")
    asked = await get(pod.admin, "/v1/connections")

    assert joined["data"]["users"] == ["bob"]
    assert asked.json()["answered"] == asked.json()["workers"] == 2
    guest.cut()
    watcher.cut()


async def test_a_replica_that_takes_over_goes_on_with_the_stream(
    replicated: RedisCluster, start_broker: StartBroker
) -> None:
    """Of a primary that is killed nothing is lost that its replica has."""
    broker = start_broker(replicated.url)
    broker.allowed.append(TROUBLE)
    session = session_at(replicated, replicated.primaries[0], "taken-over")
    client = await enter(broker, session, "ada")
    async with Publisher(replicated.url) as publish:
        await publish(session, "tick", 1)
        await client.until("tick")
        said(replicated.primaries[0], "WAIT", 1, 10_000)
        replicated.primaries[0].kill()
        await publish(session, "tick", 2)
    event = await client.until("tick", timeout_s=30)

    assert replicated.owner(slot_at(session)) in replicated.replicas
    assert (event["data"], event["seq"]) == (2, 2)
    client.cut()


async def test_a_replica_that_lacks_writes_resets_the_stream(
    replicated: RedisCluster, start_broker: StartBroker
) -> None:
    """What clients were sent and no longer exists is followed by the new history."""
    broker = start_broker(replicated.url)
    broker.allowed.append(TROUBLE)
    primary = replicated.primaries[0]
    session = session_at(replicated, primary, "lacking")
    client = await enter(broker, session, "ada")
    async with Publisher(replicated.url) as publish:
        await publish(session, "tick", 1)
        said(primary, "WAIT", 1, 10_000)
        replicated.cut_off_replica(primary)
        await publish(session, "tick", 2)
        before = [await client.until("tick") for _ in range(2)]
        primary.kill()
        await publish(session, "tick", 3)
    reset = await client.until("reset", timeout_s=30)
    after = [await client.until("tick") for _ in range(2)]

    assert [event["data"] for event in before] == [1, 2]
    assert reset["session"] == session
    assert [(event["data"], event["seq"]) for event in after] == [(1, 1), (3, 2)]
    client.cut()


async def test_a_primary_that_comes_back_empty_resets_only_its_own_streams(
    own_cluster: RedisCluster, start_broker: StartBroker
) -> None:
    """Also one whose numbers would fit: only what was read last is not in it."""
    broker = start_broker(own_cluster.url)
    broker.allowed.append(TROUBLE)
    primary, other = own_cluster.primaries[:2]
    lost, kept = (session_at(own_cluster, node, "back") for node in (primary, other))
    clients = [await enter(broker, name, "ada") for name in (lost, kept)]
    async with Publisher(own_cluster.url) as publish:
        for name, client in zip((lost, kept), clients, strict=True):
            await publish(name, "tick", 1)
            await client.until("tick")
        primary.kill()
        await asyncio.to_thread(primary.start)
        await until(
            lambda: is_done(primary, "EVAL", REWRITE, 1, key_of(lost)), 30, "OK"
        )
        await publish(kept, "tick", 2)
    reset = await clients[0].until("reset", timeout_s=30)
    events = [await client.until("tick", timeout_s=30) for client in clients]

    assert reset["session"] == lost
    assert [event["data"] for event in events] == [2, 2]
    assert [event["seq"] for event in events] == [1, 2]
    for client in clients:
        client.cut()


def is_done(node: EmbeddedServer, *command: object) -> bool:
    """Whether *node* did it; right after its start it says that the cluster is down."""
    try:
        said(node, *command)
    except ClusterDownError:
        return False
    return True


async def test_nothing_is_read_by_blocking(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    """It would take a connection for each slot, so the setting is refused."""
    broker = BrokerServer(cluster.url, tmp_path, {"reader_mode": "blocking"}).spawn()
    try:
        await asyncio.to_thread(broker.wait, 30)
    finally:
        broker.destroy()

    assert broker.returncode
    assert "cannot be used with a cluster" in broker.log.text
