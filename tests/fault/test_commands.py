"""Commands reach services whole although services and workers are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson
import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartBroker
from tests.fault.command_consumer import DONE
from tests.harness.client import ConnectionEnded, Refused, WebSocketClient
from tests.harness.load import until
from tests.harness.servers import BrokerServer

CLIENTS, EACH = 200, 100
UNANSWERED = 20
"""Commands that a client says before it waits for an answer."""


class Talker:
    """One user who says numbered commands, and again what was not acknowledged."""

    def __init__(self, broker: BrokerServer, number: int) -> None:
        self.user = f"user{number}"
        self.acked: dict[int, str] = {}
        self._broker = broker
        self._answers: asyncio.Semaphore

    async def run(self) -> None:
        """Talk until everything is acknowledged, on as many connections as it takes."""
        while len(self.acked) < EACH:
            with contextlib.suppress(ConnectionEnded, Refused, OSError, TimeoutError):
                await self._talk()
            await asyncio.sleep(random.uniform(0, 0.2))

    async def _talk(self) -> None:
        client = await WebSocketClient.connect(
            self._broker.public, "/v1/ws", {"user": self.user}
        )
        try:
            said = waiting = 0
            for number in range(EACH):
                if number in self.acked:
                    continue
                client.send(self._command(number))
                said += 1
                waiting += 1
                while waiting > UNANSWERED:
                    waiting -= await self._listen(client)
            while waiting:
                waiting -= await self._listen(client)
        finally:
            client.cut()

    def _command(self, number: int) -> dict[str, Any]:
        return {
            "cmd": "say",
            "session": f"s.{self.user}",
            "id": f"{self.user}-command-{number}",
            "data": {"n": number},
        }

    async def _listen(self, client: WebSocketClient) -> int:
        frame = await client.frame()
        if frame["event"] == "error":
            raise ConnectionEnded(str(frame["data"]))  # Said again from there on.
        if frame["event"] != "ack":
            return 0
        number = int(frame["data"]["ref"].rpartition("-")[2])
        self.acked[number] = frame["data"]["id"]
        return 1


@pytest.fixture
def consumer(own_redis: EmbeddedServer) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The service; the list has its process of the moment."""
    running = [start_consumer(own_redis.url)]
    yield running
    running[0].kill()
    running[0].wait()


def start_consumer(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.fault.command_consumer", url])


def is_acked(talkers: list[Talker], share: float) -> bool:
    """Whether that share of everything is acknowledged."""
    return sum(len(one.acked) for one in talkers) > share * CLIENTS * EACH


async def test_twenty_thousand_commands_survive_crashes(
    start_broker: StartBroker,
    own_redis: EmbeddedServer,
    redis_at: RedisAt,
    consumer: list[subprocess.Popen[bytes]],
) -> None:
    """Each is stored once and done at least once, in order per connection.

    A client that goes on talking before it has said again what was not taken changes
    its order itself: over several connections none is promised.
    """
    broker = start_broker(
        own_redis.url,
        command_rate_per_s=100_000,
        command_rate_per_user_per_s=100_000,
        max_sessions_per_user=0,
    )
    broker.allowed.append("child_ended|probe")
    redis = redis_at(own_redis.url)
    talkers = [Talker(broker, number) for number in range(CLIENTS)]
    talking = asyncio.gather(*(talker.run() for talker in talkers))
    for share in (0.2, 0.4, 0.6):
        await until(partial(is_acked, talkers, share), 60, "progress")
        consumer[0].kill()
        consumer[0].wait()
        os.kill(broker.workers[0], signal.SIGKILL)
        consumer[0] = start_consumer(own_redis.url)
    await talking

    async def are_done() -> bool:
        return len(set(await redis.lrange(DONE, 0, -1))) == CLIENTS * EACH

    await until(are_done, 60, "end of the work")
    entries: Any = await redis.xrange("broker:commands")
    stored: dict[str, list[int]] = {}
    ids: dict[str, dict[int, str]] = {}
    for entry_id, fields in entries:
        user, number = fields[b"user"].decode(), orjson.loads(fields[b"data"])["n"]
        stored.setdefault(fields[b"connection"].decode(), []).append(number)
        ids.setdefault(user, {})[number] = entry_id.decode()
    done: dict[str, dict[int, None]] = {}
    notes: Any = await redis.lrange(DONE, 0, -1)
    for note in notes:
        connection, _user, number = note.decode().split()
        done.setdefault(connection, {})[int(number)] = None

    assert len(entries) == CLIENTS * EACH
    assert [t.user for t in talkers if ids[t.user] != t.acked] == []
    assert [one for one in stored.values() if one != sorted(one)] == []
    assert {c: list(numbers) for c, numbers in done.items()} == stored
