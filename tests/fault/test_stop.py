"""Processes that hang instead of dying."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import processes
from tests.harness.load import SECONDS, load, replaced
from tests.harness.servers import BrokerServer

HELD_S = 10.0
EXPECTED = "child_hung|child_ended|lapped|reader_lost|probe"


def pid_of(broker: BrokerServer, role: str) -> int:
    return broker.reader if role == "reader" else broker.workers[0]


@pytest.mark.parametrize("role", ["worker", "reader"])
async def test_child_that_is_held_for_ten_seconds_loses_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer, role: str
) -> None:
    """It goes on where it was, or the ring says that it was lapped."""
    broker = start_broker(own_redis.url)
    broker.allowed.append(EXPECTED)
    async with load(broker, own_redis.url, seconds=max(SECONDS, HELD_S + 5)) as running:
        await asyncio.sleep(2)
        pid = pid_of(broker, role)
        with processes.stopped(pid):
            await asyncio.sleep(HELD_S)

        assert pid in broker.pids(role), "it was killed before hang_s"

    assert running.lost == 0


@pytest.mark.parametrize("role", ["worker", "reader"])
async def test_child_that_hangs_for_too_long_is_replaced(
    start_broker: StartBroker, own_redis: EmbeddedServer, role: str
) -> None:
    """The supervisor notices by its heartbeat, not by its death."""
    broker = start_broker(own_redis.url, hang_s=3)
    broker.allowed.append(EXPECTED)
    async with load(broker, own_redis.url) as running:
        await asyncio.sleep(1)
        pid = pid_of(broker, role)
        os.kill(pid, signal.SIGSTOP)
        await replaced(broker, role, pid)

    assert "child_hung" in broker.log.text
    assert running.lost == 0
