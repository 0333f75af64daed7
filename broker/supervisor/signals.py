"""Requests to stop: the handlers only queue, the supervisor's loop acts."""

from __future__ import annotations

import asyncio
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalQueue:
    """Collects SIGTERM and SIGINT until the loop asks for them."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._queued: list[signal.Signals] = []

    def install(self) -> None:
        """Take the signals over; only in the main thread."""
        # Where it is ignored (a parent may have left it so) the kernel collects
        # children by itself, and nobody could know that a reader is really gone.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._queue, number)

    def remove(self) -> None:
        """Give the signals back."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    def take(self) -> list[signal.Signals]:
        """Everything since the last call, oldest first."""
        taken, self._queued = self._queued, []
        return taken

    def _queue(self, number: signal.Signals) -> None:
        self._queued.append(number)
        self._wake.set()
