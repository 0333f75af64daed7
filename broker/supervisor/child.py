"""One child process: started, watched, ended, and started again later each time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from broker.process import Boot

log = structlog.get_logger(__name__)

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 10.0
HEALTHY_S = 30.0
ABORT_GRACE_S = 2.0
"""Time that a hung process gets to write its stacks before it is killed."""


class Backoff:
    """How long to wait before the next start.

    The first restart comes at once; each one after that doubles the wait, from
    ``FIRST_DELAY_S`` to ``MAX_DELAY_S``. A life of ``HEALTHY_S`` makes it forget.
    """

    def __init__(self) -> None:
        self._delay_s = 0.0

    def next_delay_s(self, lived_s: float) -> float:
        """The wait after a process that lived for *lived_s*."""
        if lived_s >= HEALTHY_S:
            self._delay_s = 0.0
        delay_s = self._delay_s
        self._delay_s = min(max(2 * delay_s, FIRST_DELAY_S), MAX_DELAY_S)
        return delay_s


class ChildProcess:
    """The reader or one worker, over all the processes that it is in turn.

    There is never more than one process at a time: `spawn` refuses until `reap` has
    collected the one before from the kernel. Belongs to the main thread.

    Attributes:
        role: ``reader`` or ``worker``.
        index: Its row on the board and in the metric slots.
        starts: How many processes were started so far.
        started_at: When the last one was started (``time.monotonic``).
        due_at: When the next one may be started.
    """

    def __init__(
        self,
        boot: Boot,
        on_exit: Callable[[], None],
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe the process without starting it.

        Args:
            boot: What it is told.
            on_exit: Called by the event loop when the process has ended.
            command: What to run instead of the role's module; the number of the
                lifeline's descriptor is added.
            clock: Seconds that only rise.
        """
        self.role = boot.role
        self.index = boot.index
        self.starts = 0
        self.started_at = clock()
        self.due_at = self.started_at
        self._boot = boot
        self._on_exit = on_exit
        self._clock = clock
        self._backoff = Backoff()
        # With the fault handler SIGABRT prints the stacks of a hung process.
        module = ["-X", "faulthandler", "-m", f"broker.{boot.role}"]
        self._command = list(command or [sys.executable, *module])
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._lifeline = -1
        self._kill_at: float | None = None

    @property
    def name(self) -> str:
        """``reader`` or ``worker_<index>``."""
        return self.role if self.role == "reader" else f"{self.role}_{self.index}"

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def is_being_killed(self) -> bool:
        """Whether `abort` has begun to end the present process."""
        return self._kill_at is not None

    @property
    def next_event_at(self) -> float | None:
        """When this child next needs `spawn` or `kill_overdue`."""
        return self.due_at if self._process is None else self._kill_at

    def spawn(self) -> None:
        """Start a process and tell it what it is.

        Raises:
            RuntimeError: The one before has not been collected.
            OSError: The operating system has no room for another process.
        """
        if self._process is not None:
            raise RuntimeError(f"{self.name} {self.pid} has not been reaped")
        receiving, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own modules
                [*self._command, str(receiving)],
                pass_fds=[*_inherited(self._boot), receiving],
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            os.close(self._lifeline)
            self._lifeline = -1
            raise
        finally:
            os.close(receiving)
        self.starts += 1
        self.started_at = self._clock()
        self._tell()
        self._watch(self._process)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError as error:
            # No descriptor left, say. The supervisor looks by itself every second.
            log.warning("child_not_watched", child=self.name, error=str(error))
        else:
            asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _tell(self) -> None:
        # A pipe takes 64 KiB at once, the line is a few. Nothing else is ever sent:
        # the open end says that the supervisor lives.
        try:
            os.write(self._lifeline, msgspec.json.encode(self._boot) + b"\n")
        except BrokenPipeError:
            log.warning("child_died_at_start", child=self.name, pid=self.pid)

    def postpone(self) -> None:
        """Let the next start wait as if a process had died at once."""
        self.due_at = self._clock() + self._backoff.next_delay_s(0.0)

    def reap(self) -> int | None:
        """Collect the process from the kernel if it has ended.

        Returns:
            Its exit status, negative for a signal; None if there is nothing to
            collect. The next `spawn` is due at ``due_at``.
        """
        if self._process is None or (status := self._process.poll()) is None:
            return None
        self._forget()
        lived_s = self._clock() - self.started_at
        self.due_at = self._clock() + self._backoff.next_delay_s(lived_s)
        return status

    def _forget(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        os.close(self._lifeline)
        self._pidfd = self._lifeline = -1
        self._process = None
        self._kill_at = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process."""
        # The process cannot have been replaced by another of the same number: only
        # `reap` gives the number free.
        if self._process is not None:
            self._process.send_signal(number)

    def abort(self) -> None:
        """Make a hung process print its stacks and end; `kill_overdue` insists."""
        self.send(signal.SIGABRT)
        self._kill_at = self._clock() + ABORT_GRACE_S

    def kill_overdue(self) -> None:
        """Kill a process that `abort` did not end in time: a stopped one, say."""
        if self._kill_at is not None and self._clock() >= self._kill_at:
            self.send(signal.SIGKILL)

    def kill_and_wait(self) -> None:
        """End the process at once and collect it; blocks for that moment."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()


def _inherited(boot: Boot) -> list[int]:
    fds = [boot.ring_fd, boot.board_fd, boot.metrics_fd, *boot.doorbell_fds]
    return fds if boot.requests_fd < 0 else [*fds, boot.requests_fd]
