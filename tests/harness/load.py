"""The common load of the fault tests: what must not be lost while something dies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.harness.fleet import Fleet
from tests.harness.publisher import RatePublisher
from tests.harness.recorder import Recorder, Sum
from tests.harness.servers import BrokerServer

SECONDS = float(os.environ.get("BROKER_TEST_FAULT_SECONDS", "20"))
"""How long each fault test publishes."""
SESSIONS = [f"fault-{i}" for i in range(20)]
CLIENTS = 200
RATE_PER_S = 2000.0
_CATCH_UP_S = 40.0


@dataclass(slots=True)
class Load:
    """A running load.

    Attributes:
        publishing: Ends when the publisher has.
        sums: The closed accounts, once the load has ended.
    """

    fleet: Fleet
    publisher: RatePublisher
    recorder: Recorder
    publishing: asyncio.Task[None]
    sums: list[Sum]

    @property
    def lost(self) -> int:
        return sum(total.lost for total in self.sums)


@asynccontextmanager
async def load(
    broker: BrokerServer,
    redis_url: str,
    *,
    seconds: float = SECONDS,
    rate_per_s: float = RATE_PER_S,
    clients: int = CLIENTS,
    stay_s: tuple[float, float] = (1.0, 5.0),
    payload_bytes: int = 200,
    maxlen: int | None = None,
    burst: int = 1,
    copies: int = 0,
) -> AsyncIterator[Load]:
    """Publish for *seconds* to clients that come and go; the faults go inside.

    At the end it waits until everybody has everything and closes all accounts.

    Raises:
        AccountingError: Something is missing, twice, or in the wrong place.
        ServerFault: A server broke the protocol.
    """
    recorder = Recorder()
    publisher = RatePublisher(
        redis_url,
        recorder.ledger,
        SESSIONS,
        rate_per_s,
        payload_bytes=payload_bytes,
        maxlen=maxlen,
        burst=burst,
        copies=copies,
    )
    fleet = Fleet(recorder, lambda: broker.public, SESSIONS, clients, stay_s=stay_s)
    async with fleet:
        await fleet.subscribed()
        publishing = asyncio.create_task(publisher.run(seconds))
        running = Load(fleet, publisher, recorder, publishing, [])
        try:
            yield running
            await publishing
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        fleet.stay()
        await recorder.complete(_CATCH_UP_S)
        fleet.check()
        running.sums = recorder.settle()


async def replaced(
    broker: BrokerServer, role: str, dead: int, timeout_s: float = 30.0
) -> None:
    """Wait until the supervisor has put another child in the place of *dead*."""
    count = 1 if role == "reader" else 2

    def is_replaced() -> bool:
        pids = broker.pids(role)
        return dead not in pids and len(pids) == count

    await until(is_replaced, timeout_s, f"another {role}")


async def until(
    holds: Callable[[], bool | Awaitable[bool]], timeout_s: float, what: str
) -> None:
    """Ask again and again until it holds; the answer is another process's state."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = holds()
                if isinstance(answer, bool):
                    if answer:
                        return
                elif await answer:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"no {what} in {timeout_s} s") from None
