"""The primary dies and Sentinels put its replica in its place."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.client import Client, CommandRefused
from tests.conftest import StartBroker
from tests.fault.test_redis import EXPECTED, last_ids
from tests.harness.load import SECONDS, SESSIONS, load, until
from tests.harness.publisher import RatePublisher, connect
from tests.harness.redis_server import SentinelGroup, server_binary

REFUSED = f"{EXPECTED}|tracking_unavailable|server_changed"
LATER = 1_000_000
"""The number of the first entry that is published after a failover."""


@pytest.fixture
async def group(
    tmp_path: Path, start_broker: StartBroker
) -> AsyncIterator[SentinelGroup]:
    """A primary, its replica and three Sentinels, ready for a failover."""
    del start_broker  # its brokers must be gone first
    group = SentinelGroup(server_binary(), tmp_path, password="pw").start()
    try:
        await group.until_watched()
        yield group
    finally:
        group.stop()


async def test_failover_under_load_loses_nothing_that_was_copied(
    group: SentinelGroup, start_broker: StartBroker
) -> None:
    """The sockets stay, everybody resumes, and nothing is told to be another."""
    broker = await asyncio.to_thread(start_broker, group.url)
    broker.allowed.append(REFUSED)
    primary, _ = group.servers
    async with load(
        broker, group.url, seconds=SECONDS / 2, rate_per_s=1000, copies=1
    ) as running:
        await asyncio.sleep(SECONDS / 8)
        await asyncio.to_thread(primary.kill)
        await group.until_replaced()
    epochs = [len(account.epochs) for account in running.recorder.accounts]

    assert max(epochs) == 1
    assert running.lost == 0
    assert running.publisher.published > 1000
    assert "server_changed" in broker.log.text


async def test_failover_that_lost_writes_resets_and_goes_on(
    group: SentinelGroup, start_broker: StartBroker
) -> None:
    """Clients have read what the new primary never had: its history is told anew."""
    broker = await asyncio.to_thread(start_broker, group.url)
    broker.allowed.append(REFUSED)
    primary, replica = group.servers
    async with load(broker, group.url, seconds=SECONDS / 8, clients=60) as running:
        await running.publishing
        await cut_off(group)
        ledger = running.recorder.ledger
        await RatePublisher(group.url, ledger, SESSIONS, 1000, first=LATER).run(1)
        await running.recorder.complete()
        await asyncio.to_thread(primary.kill)
        await group.until_replaced()
        for session, last in (await last_ids(group.url_of(replica))).items():
            ledger.rewound(session, last)
        later = RatePublisher(group.url, ledger, SESSIONS, 1000, first=2 * LATER)
        await later.run(SECONDS / 8)
    epochs = [len(account.epochs) for account in running.recorder.accounts]

    assert max(epochs) == 2
    assert running.lost == 0


async def cut_off(group: SentinelGroup) -> None:
    """Let the replica stand, but copy nothing any more."""
    primary: Any
    replica: Any
    primary, replica = (connect(group.url_of(one)) for one in group.servers)

    async def is_cut() -> bool:
        state = await replica.info("replication")
        return bool(state["master_link_status"] == "down")

    await replica.config_set("masterauth", "wrong")
    await primary.client_kill_filter(_type="replica")
    await until(is_cut, 20, "cut link")
    await primary.aclose()
    await replica.aclose()


async def test_primary_that_hangs_is_left(
    group: SentinelGroup, start_broker: StartBroker
) -> None:
    """Its sockets stay open and say nothing; the next sweep is an hour away."""
    broker = await asyncio.to_thread(start_broker, group.url, sweep_s=3600)
    broker.allowed.append(REFUSED)
    primary, replica = group.servers
    async with load(broker, group.url, seconds=SECONDS / 8, clients=60) as running:
        await running.publishing
        assert primary.pid is not None
        os.kill(primary.pid, signal.SIGSTOP)
        await group.until_replaced()
        ledger = running.recorder.ledger
        later = RatePublisher(group.url_of(replica), ledger, SESSIONS, 500, first=LATER)
        await later.run(SECONDS / 8)

    assert running.lost == 0
    assert "server_changed" in broker.log.text


async def test_commands_go_on_after_a_failover(
    group: SentinelGroup, start_broker: StartBroker
) -> None:
    """They are stored where the primary is, each once."""
    broker = await asyncio.to_thread(start_broker, group.url)
    broker.allowed.append(REFUSED)
    primary, replica = group.servers
    host, port = broker.public
    async with Client(f"http://{host}:{port}", user="ann") as client:
        await client.send("s1", "before", timeout_s=20)
        await asyncio.to_thread(primary.kill)
        await group.until_replaced()
        await sent(client, "s1", "after")
    redis: Any = connect(group.url_of(replica))
    stored = [fields[b"cmd"] for _, fields in await redis.xrange("broker:commands")]
    await redis.aclose()

    assert stored == [b"before", b"after"]


async def sent(client: Client, session: str, cmd: str) -> None:
    """Say it until the broker has found the new primary, too."""

    async def is_stored() -> bool:
        try:
            await client.send(session, cmd, id="the-same-command", timeout_s=10)
        except CommandRefused:
            return False
        return True

    await until(is_stored, 40, "answer")
