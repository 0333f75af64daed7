"""The worker process, put together."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import structlog
import uvloop

from broker.config import Settings
from broker.logs import configure_logs
from broker.metrics.slots import Slots
from broker.process import (
    Boot,
    ExitStatus,
    ignore_from_now_on,
    read_boot,
    watch_for_end,
)
from broker.ring import board as b
from broker.ring.doorbell import Doorbell
from broker.ring.receiver import Receiver
from broker.ring.segment import Segment
from broker.worker.connection import prepare_listening
from broker.worker.server import Server
from broker.worker.worker import Worker

log = structlog.get_logger(__name__)

BACKLOG = 4096
GC_THRESHOLD = 50_000
CONNECT_S = 1.0
"""How long a worker waits for its connections to Redis before it says it is ready."""


def main() -> int:
    """Run a worker until it is drained; returns the exit status."""
    boot = read_boot(int(sys.argv[1]))
    settings = Settings.from_boot(boot.settings)
    configure_logs(settings, process="worker", index=boot.index)
    # Thousands of long-lived connections: collecting them often finds nothing and
    # shows in the tail of accepts.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    return uvloop.run(_run(boot, settings))


async def _run(boot: Boot, settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    board = b.Board(boot.board_fd, boot.worker_count)
    values = Slots(boot.metrics_fd, boot.worker_count).row(boot.index)
    receiver = Receiver(Segment(boot.ring_fd))
    doorbell = Doorbell(boot.doorbell_fds[boot.index - 1])
    worker = Worker(boot, settings, receiver, board, values)
    server = Server(settings, values, worker.edges)
    listening = _listen(settings, boot.public_port)
    accepting = await loop.create_server(
        server.protocol, sock=listening, backlog=BACKLOG
    )

    def wake() -> None:
        doorbell.clear()
        worker.dispatcher.wake()

    loop.add_reader(doorbell.fileno(), wake)
    stop: asyncio.Future[ExitStatus] = loop.create_future()
    hurry = asyncio.Event()
    watch_for_end(boot, stop)
    # A signal of its own: two of one kind may arrive as one.
    loop.add_signal_handler(signal.SIGUSR1, hurry.set)
    tasks = worker.start()
    board.set(boot.index, b.PID, os.getpid())
    ends: list[asyncio.Future[Any]] = [stop, *tasks]
    await _connect(worker, ends)
    board.set(boot.index, b.STATE, b.READY)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
            raise RuntimeError(f"the task {task.get_name()} ended")
    board.set(boot.index, b.STATE, b.DRAINING)
    accepting.close()
    if stop.result() is ExitStatus.DONE:
        await worker.drain(hurry)
    for task in tasks:
        task.cancel()
    ignore_from_now_on(signal.SIGTERM, signal.SIGUSR1)
    return stop.result()


async def _connect(worker: Worker, ends: Sequence[asyncio.Future[Any]]) -> None:
    """Wait a moment for Redis: who comes first should find it."""
    connecting = asyncio.create_task(worker.wait_connected())
    await asyncio.wait(
        [connecting, *ends], timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED
    )
    connecting.cancel()


def _listen(settings: Settings, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    prepare_listening(listening, settings.notsent_lowat_bytes)
    listening.setblocking(False)
    listening.bind((settings.host, port))
    return listening
