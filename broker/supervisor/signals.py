"""Requests to stop: the handlers only queue, the supervisor's loop acts."""

from __future__ import annotations

import asyncio
import signal

from broker.process import ignore_from_now_on

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalQueue:
    """Collects SIGTERM and SIGINT until the loop asks for them."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._queued: list[signal.Signals] = []
        self._was_asked = False

    def install(self) -> None:
        """Take the signals over; only in the main thread."""
        # Where it is ignored (a parent may have left it so) the kernel collects
        # children by itself, and nobody could know that a reader is really gone.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._queue, number)

    def remove(self) -> None:
        """Give the signals back; but who was asked to stop hears SIGTERM no more."""
        if self._was_asked:
            ignore_from_now_on(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    def take(self) -> list[signal.Signals]:
        """Everything since the last call, oldest first."""
        taken, self._queued = self._queued, []
        return taken

    def _queue(self, number: signal.Signals) -> None:
        self._queued.append(number)
        self._was_asked = True
        self._wake.set()
