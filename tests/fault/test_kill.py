"""kill -9 of each process: the sum closes, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import processes
from tests.harness.load import SECONDS, load, replaced
from tests.harness.servers import BrokerServer

ROUNDS = 3
EXPECTED = "child_ended|reader_lost|probe"


def victim(broker: BrokerServer, place: int) -> tuple[str, int]:
    """The reader for place 0, else a worker."""
    if place == 0:
        return "reader", broker.reader
    return "worker", broker.workers[place - 1]


async def test_kill_of_each_child_in_turn_loses_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Three rounds of reader and workers, while clients come and go."""
    broker = start_broker(own_redis.url)
    broker.allowed.append(EXPECTED)
    async with load(broker, own_redis.url) as running:
        for _ in range(ROUNDS):
            for place in range(3):
                role, pid = victim(broker, place)
                os.kill(pid, signal.SIGKILL)
                await replaced(broker, role, pid)
                await asyncio.sleep(SECONDS / 20)

    assert running.publisher.published > 1500 * SECONDS
    assert running.lost == 0


async def test_kill_of_all_children_at_once_loses_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Nothing that resume needs is in a child's memory."""
    broker = start_broker(own_redis.url)
    broker.allowed.append(EXPECTED)
    async with load(broker, own_redis.url, seconds=SECONDS / 2) as running:
        await asyncio.sleep(SECONDS / 8)
        dead = [("reader", broker.reader), *(("worker", pid) for pid in broker.workers)]
        for _, pid in dead:
            os.kill(pid, signal.SIGKILL)
        for role, pid in dead:
            await replaced(broker, role, pid)

    assert running.lost == 0


async def test_kill_of_the_reader_again_and_again_loses_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Every generation of the ring makes the old positions invalid."""
    broker = start_broker(own_redis.url)
    broker.allowed.append(EXPECTED)
    async with load(broker, own_redis.url, stay_s=(60.0, 90.0)) as running:
        for _ in range(5):
            pid = broker.reader
            os.kill(pid, signal.SIGKILL)
            await replaced(broker, "reader", pid)
            await asyncio.sleep(SECONDS / 20)

    assert running.lost == 0
    # The sockets stay: a dead reader is a pause and nothing else.
    assert running.fleet.total("closes") == {}


async def test_children_do_not_outlive_the_supervisor(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """A child whose supervisor is gone leaves by itself."""
    broker = start_broker(own_redis.url, drain_s=0.5)
    broker.allowed.append(".")
    children = [broker.reader, *broker.workers]
    os.kill(broker.pid, signal.SIGKILL)
    left = await asyncio.to_thread(processes.wait_gone, children, 15.0)
    broker.destroy()

    assert left == []
