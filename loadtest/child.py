"""The controller's end: processes on chosen cores, asked by JSON lines."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

import orjson


class ChildFailed(Exception):
    """A process of the run ended, or did not answer in time."""


def wait_until(
    ready: Callable[[], bool], what: str, timeout_s: float, period_s: float = 0.02
) -> None:
    """Ask *ready* every *period_s* until it says yes.

    Raises:
        ChildFailed: It did not within *timeout_s*; the message names *what*.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise ChildFailed(f"{what}: not within {timeout_s:g} s")
        time.sleep(period_s)


def spawn(
    argv: Sequence[str],
    cores: Iterable[int],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    pipes: bool = False,
    output: IO[bytes] | None = None,
    cwd: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that runs on *cores* only.

    It inherits the affinity of this thread at the fork: set afterwards it would be
    too late for programs that size themselves by it when they start.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        return subprocess.Popen(
            argv,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=pass_fds,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, before)


def end(process: subprocess.Popen[bytes], timeout_s: float = 15) -> None:
    """End a process that we started: SIGTERM, and SIGKILL when it does not go."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class Child:
    """A Python module of the load test that takes commands."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        cores: Iterable[int],
        pass_fds: Sequence[int] = (),
    ) -> None:
        argv = [sys.executable, "-m", module, *arguments]
        self.name = module
        self.process = spawn(argv, cores, pass_fds=pass_fds, pipes=True)
        self._received = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def send(self, **command: object) -> None:
        """Send one command.

        Raises:
            ChildFailed: The process has ended.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(orjson.dumps(command) + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(f"{self.name} has ended") from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            ChildFailed: None came in time, or the process has ended.
        """
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise ChildFailed(f"{self.name}: no answer in {timeout_s:g} s")
                part = os.read(self.process.stdout.fileno(), 1 << 20)
                if not part:
                    raise ChildFailed(f"{self.name} has ended")
                self._received += part
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def ask(self, timeout_s: float = 10, **command: object) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self.send(**command)
        return self.receive(timeout_s)

    def stop(self) -> None:
        """End the process; it goes by itself when its stdin closes."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        end(self.process, 2)
