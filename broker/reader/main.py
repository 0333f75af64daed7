"""The reader process, put together."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import structlog
import uvloop

from broker.config import Settings
from broker.errors import ServerUnsuitable
from broker.logs import configure_logs
from broker.metrics import catalog
from broker.metrics.pulse import Growth, LoopLag
from broker.metrics.slots import Row, Slots
from broker.process import (
    Boot,
    ExitStatus,
    ignore_from_now_on,
    read_boot,
    watch_for_end,
)
from broker.reader.chain import Chains
from broker.reader.cluster import ClusterReader
from broker.reader.desk import Clerk, open_desk
from broker.reader.opening import Openings
from broker.reader.pump import Pump
from broker.reader.source import READER_ROW, Source
from broker.reader.watches import Watches
from broker.ring import board as b
from broker.ring.doorbell import Doorbell
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from broker.store.address import parse_url
from broker.store.connection import traffic
from broker.store.keys import event_key_pattern

log = structlog.get_logger(__name__)

HEARTBEAT_S = 0.25
GC_THRESHOLD = 50_000


def main() -> int:
    """Run the reader until the supervisor ends it; returns the exit status."""
    boot = read_boot(int(sys.argv[1]))
    settings = Settings.from_boot(boot.settings)
    configure_logs(settings, process="reader")
    # Thousands of long-lived watches: looking through them for garbage finds nothing.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    try:
        return uvloop.run(_run(boot, settings))
    except ServerUnsuitable as error:
        log.error("server_unsuitable", why=str(error))  # noqa: TRY400 - no traceback
        return ExitStatus.UNUSABLE


async def _run(boot: Boot, settings: Settings) -> int:
    segment = Segment(boot.ring_fd)
    board = b.Board(boot.board_fd, boot.worker_count)
    values = Slots(boot.metrics_fd, boot.worker_count).row(READER_ROW)
    transmitter = Transmitter(segment, [Doorbell(fd) for fd in boot.doorbell_fds])
    chains = Chains(transmitter)
    clerk, reading = _make_reading(boot, settings, chains, board, values, segment.size)
    stop: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
    watch_for_end(boot, stop)
    desk = await open_desk(clerk, boot.requests_fd)
    board.set(READER_ROW, b.PID, os.getpid())
    board.set(READER_ROW, b.STATE, b.READY)
    tasks = [
        asyncio.create_task(reading, name="source"),
        asyncio.create_task(_beat(board, chains, values), name="beat"),
    ]
    ends: list[asyncio.Future[Any]] = [stop, *tasks]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    desk.close()
    for task in tasks:
        if task.done():
            task.result()
            raise RuntimeError(f"the task {task.get_name()} ended")
        task.cancel()
    ignore_from_now_on(signal.SIGTERM)
    return stop.result()


def _make_reading(
    boot: Boot,
    settings: Settings,
    chains: Chains,
    board: b.Board,
    values: Row,
    ring_size: int,
) -> tuple[Clerk, Coroutine[Any, Any, None]]:
    """Who handles the workers' requests, and what reads."""
    # Each worker may have as many sessions, all of them different; one is the probe's.
    limit = settings.max_subscriptions * boot.worker_count + 1
    address = parse_url(settings.redis_url.get_secret_value())
    common = (board, values)
    if address.kind == "cluster":
        cluster = ClusterReader(
            settings, boot.pod, address, chains, *common, limit, ring_size
        )
        return cluster, cluster.run()
    keys = event_key_pattern(settings.event_stream)
    watches = Watches(keys, settings.linger_s, settings.sweep_s)
    openings = Openings(watches, chains, values, limit)
    pump = Pump(watches, chains, values, settings.max_event_bytes)
    source = Source(
        settings, boot.pod, watches, chains, openings, pump, *common, ring_size
    )
    return openings, source.run()


async def _beat(board: b.Board, chains: Chains, values: Row) -> None:
    loop = asyncio.get_running_loop()
    lag = LoopLag(values, catalog.READER_LOOP_LAG.slot)
    asked = Growth(values, catalog.REDIS_COMMANDS["reader"], lambda: traffic.commands)
    while True:
        board.beat(READER_ROW)
        board.set(READER_ROW, b.CURSOR, chains.head)
        asked.take()
        due = loop.time() + HEARTBEAT_S
        await asyncio.sleep(HEARTBEAT_S)
        lag.note(due, loop.time())
