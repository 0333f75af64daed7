"""What an event costs the reader itself: ``python -m tests.bench.bench_reader``.

Rings and answers are bytes that were made before, so there is no server and no socket.
Prints microseconds of CPU per event: without a pause, which repeats within 2 %, and
with sleep before each burst, as under load, which costs more. Asserts nothing.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Iterator
from typing import Any, cast

import uvloop

from broker.metrics import catalog
from broker.model import START
from broker.reader.main import GC_THRESHOLD
from broker.reader.watched import GLANCE_AFTER
from broker.store.connection import Connection
from broker.store.loss import Anchor
from tests.integration.reader.publisher import key
from tests.integration.reader.rig import Rig

SESSIONS, BURST, BURSTS, WARM = 500, 40, 1500, 100
NAPS_S = (0.0, 0.0005, 0.002)
FIRST_MS = 1_763_700_000_000
DATA = b'{"chunk":"' + b"x" * 180 + b'"}'


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def entry(stream_id: bytes) -> bytes:
    fields = map(bulk, (b"event", b"token_stream", b"data", DATA))
    return b"*2\r\n" + bulk(stream_id) + b"*4\r\n" + b"".join(fields)


def ring(session: str) -> bytes:
    return b">2\r\n" + bulk(b"invalidate") + b"*1\r\n" + bulk(key(session))


def xinfo(ms: int, added: int) -> bytes:
    """As Redis 7.0 answers."""
    first, last = b"%d-0" % FIRST_MS, b"%d-0" % ms
    answer = {
        b"length": b":1000\r\n",
        b"radix-tree-keys": b":10\r\n",
        b"radix-tree-nodes": b":20\r\n",
        b"last-generated-id": bulk(last),
        b"max-deleted-entry-id": bulk(b"0-0"),
        b"entries-added": b":%d\r\n" % added,
        b"recorded-first-entry-id": bulk(first),
        b"groups": b":0\r\n",
        b"first-entry": entry(first),
        b"last-entry": entry(last),
    }
    parts = [bulk(name) + value for name, value in answer.items()]
    return b"%%%d\r\n" % len(parts) + b"".join(parts)


def bursts(sessions: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """The rings for one entry in each of ``BURST`` streams, and the answers."""
    for number in range(BURSTS):
        at = number * BURST
        rung = [sessions[(at + i) % SESSIONS] for i in range(BURST)]
        added = [2 + (at + i) // SESSIONS for i in range(BURST)]
        answers = [xinfo(FIRST_MS + number + 1, one) for one in added]
        yield b"".join(map(ring, rung)), b"".join(answers)


class Wire:
    """In the place of a transport: what is asked is answered in the next step."""

    def __init__(self, connection: Connection) -> None:
        self.answers = b""
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    def write(self, _request: bytes) -> None:
        self._loop.call_soon(self._connection.data_received, self.answers)


async def measure(nap_s: float) -> None:
    """Print what an event costs with so much sleep before each burst."""
    rig = Rig("redis://127.0.0.1:1")
    sessions = [f"session-{number:04}" for number in range(SESSIONS)]
    for session in sessions:
        watched = rig.watches.add(session)
        rig.pump._chains.open(watched, START)
        watched.anchor = Anchor((FIRST_MS, 0), 1, (FIRST_MS, 0), 0)
        watched.first, watched.singles = b"%d-0" % FIRST_MS, GLANCE_AFTER
    connection = Connection(asyncio.get_running_loop(), command_timeout_s=5)
    wire = Wire(connection)
    connection._transport = cast("Any", wire)
    connection.on_push = rig.source._handle_push
    prepared = list(bursts(sessions))
    costs_us = []
    for rings, wire.answers in prepared:
        time.sleep(nap_s)  # noqa: ASYNC251  the process itself sleeps
        began_ns = time.thread_time_ns()
        connection.data_received(rings)
        while rig.watches.work:
            await rig.openings.do_work(connection)
            await rig.pump.do_work(connection)
        costs_us.append((time.thread_time_ns() - began_ns) / 1e3 / BURST)
        rig._bell.clear()
    if rig.count(catalog.EVENTS_READ.slot) != BURSTS * BURST:
        raise RuntimeError("not every event was read")
    print(  # noqa: T201
        f"an event, {nap_s * 1e3:.1f} ms of sleep before each burst of {BURST:<12}"
        f"{statistics.median(costs_us[WARM:]):8.2f} us"
    )


def main() -> None:
    """Print the costs."""
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    for nap_s in NAPS_S:
        uvloop.run(measure(nap_s))


if __name__ == "__main__":
    main()
