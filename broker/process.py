"""What the supervisor and its children agree on: how one starts and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from enum import IntEnum

import msgspec


class ExitStatus(IntEnum):
    """What a child's exit status tells the supervisor."""

    DONE = 0
    """Drained and left as told."""
    FAILED = 1
    """An unexpected error: start another one."""
    UNUSABLE = 3
    """Starting again would fail the same way; the supervisor stops as a whole."""
    ORPHANED = 4
    """The supervisor is gone."""


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process is given; sent as one JSON line over its lifeline pipe.

    File descriptors are inherited under the same numbers. The write end of the
    lifeline stays open in the supervisor for as long as it lives: end of file on
    ``lifeline_fd`` means that the supervisor is gone.

    Attributes:
        role: ``reader`` or ``worker``.
        index: The row on the board and in the metric slots: 0 for the reader,
            1 to ``worker_count`` for workers.
        worker_count: How many workers the pod has.
        pod: A name of this start of the pod, unique among pods: 16 hexadecimal digits.
        settings: The effective settings by field name, secrets included: never log it.
        ring_fd: Anonymous memory of the ring.
        board_fd: Anonymous memory of the board.
        metrics_fd: Anonymous memory of the metric slots.
        doorbell_fds: One eventfd per worker; worker ``index`` owns ``index - 1``.
        requests_fd: Reader only: the listening Unix socket for the workers' requests.
        requests_address: Worker only: the address of that socket.
        public_port: The port that all workers share by ``SO_REUSEPORT``.
    """

    role: str
    index: int
    worker_count: int
    pod: str
    settings: dict[str, object]
    ring_fd: int
    board_fd: int
    metrics_fd: int
    doorbell_fds: list[int]
    requests_fd: int = -1
    requests_address: str = ""
    public_port: int = 0
    lifeline_fd: int = -1


def read_boot(lifeline_fd: int) -> Boot:
    """Read the boot line from *lifeline_fd* and remember that descriptor in it.

    Raises:
        EOFError: The supervisor went away before it had sent the line.
        msgspec.ValidationError: The line is no boot line.
    """
    received = bytearray()
    while not received.endswith(b"\n"):
        part = os.read(lifeline_fd, 65536)
        if not part:
            raise EOFError("the supervisor closed the lifeline")
        received += part
    boot = msgspec.json.decode(received, type=Boot)
    return msgspec.structs.replace(boot, lifeline_fd=lifeline_fd)


def watch_for_end(boot: Boot, stop: asyncio.Future[ExitStatus]) -> None:
    """Resolve *stop* when the supervisor asks for the end, by SIGTERM, or is gone."""
    loop = asyncio.get_running_loop()

    def end(status: ExitStatus) -> None:
        if not stop.done():
            stop.set_result(status)

    def look_at_lifeline() -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(boot.lifeline_fd, 1):
                loop.remove_reader(boot.lifeline_fd)
                end(ExitStatus.ORPHANED)

    os.set_blocking(boot.lifeline_fd, False)
    loop.add_reader(boot.lifeline_fd, look_at_lifeline)
    loop.add_signal_handler(signal.SIGTERM, end, ExitStatus.DONE)
    # A terminal sends it to the whole group; the supervisor decides when we go.
    loop.add_signal_handler(signal.SIGINT, lambda: None)


def ignore_from_now_on(*numbers: signal.Signals) -> None:
    """Ignore signals that the running loop handles, until the process ends.

    The loop gives its handlers back when it closes: a late signal would end the
    process, which leaves as it was told, with a status that says that it has failed.
    """
    # For the moment in which the default is back; other threads would not heed it.
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
