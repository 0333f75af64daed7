"""The broker as users run it: a process with BROKER_* settings, and its log."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from tests.harness import processes
from tests.harness.client import Address

TROUBLE = re.compile(
    r'Traceback|"level": ?"(error|critical)"|\b(ERROR|CRITICAL)\b|Warning:'
    r"|never awaited|Task exception was never|Segmentation|Fatal Python"
)
"""What must not stand in a log unless a test provokes it."""

# Sets PR_SET_PDEATHSIG and becomes the command, so that nothing outlives a test run
# that was killed itself.
_DIE_WITH_TESTS = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the tests are gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
_START_S = 20.0
_STOP_S = 20.0
_TEST_SETTINGS = {
    "BROKER_PORT": "0",
    "BROKER_ADMIN_PORT": "0",
    "BROKER_WORKERS": "2",
    "BROKER_LOG_FORMAT": "json",
    "BROKER_RING_BYTES": "16MiB",
    "BROKER_DRAIN_DELAY_S": "0",
    "BROKER_DRAIN_S": "0.2",
}


class BrokerFailed(AssertionError):
    """The broker did not start, did not stop, left something or logged trouble."""


class Log:
    """Everything a process printed, line by line, read by a thread of its own."""

    def __init__(self, stream: Any) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: Any) -> None:
        with stream:
            for raw in stream:
                with self._changed:
                    self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def tail(self, count: int = 40) -> str:
        return "\n".join(self.lines[-count:])

    def wait_for(
        self, wanted: Callable[[str], bool], timeout_s: float, start: int = 0
    ) -> str | None:
        """The first line from *start* on that is *wanted*, or None."""
        deadline = time.monotonic() + timeout_s
        place = start
        with self._changed:
            while True:
                for line in self.lines[place:]:
                    if wanted(line):
                        return line
                place = max(place, len(self.lines))
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._changed.wait(left)

    def join(self) -> None:
        self._thread.join(10)


class BrokerServer:
    """One ``broker serve`` with its reader and workers.

    Attributes:
        public: Where clients connect.
        admin: Where health and metrics are.
        allowed: Patterns of log lines that are no trouble in this test.
    """

    def __init__(
        self, redis_url: str, directory: Path, settings: dict[str, object]
    ) -> None:
        self.log: Log
        self.public: Address = ("", 0)
        self.admin: Address = ("", 0)
        self.allowed: list[str] = []
        self._checked = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = directory
        self._environment = environment(redis_url, settings)

    def spawn(self, *command: str) -> Self:
        """Start the process without waiting for anything."""
        # The broker is started as a user would, from a directory without .env.
        wrapper = [sys.executable, "-I", "-S", "-c", _DIE_WITH_TESTS, str(os.getpid())]
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "broker", *(command or ("serve",))],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.log = Log(self._process.stdout)
        return self

    def start(self) -> Self:
        """Start and wait until all workers serve."""
        self.spawn()
        try:
            self.wait_ready()
        except BaseException:
            self.destroy()
            raise
        return self

    def wait_ready(self, timeout_s: float = _START_S) -> None:
        """Wait for the log line that names the addresses."""
        line = self.log.wait_for(_is_ready, timeout_s)
        if line is None:
            raise BrokerFailed(f"not ready in {timeout_s} s:\n{self.log.tail()}")
        fields = json.loads(line)
        self.public = _address(fields["public"])
        self.admin = _address(fields["admin"])
        self._wait_readyz(timeout_s)

    def _wait_readyz(self, timeout_s: float) -> None:
        """Wait until it would let clients in: Redis has answered, too."""
        deadline = time.monotonic() + timeout_s
        url = f"http://{self.admin[0]}:{self.admin[1]}/readyz"
        while True:
            try:
                with urlopen(url, timeout=5):
                    return
            except HTTPError as answer:
                with answer:
                    reasons = answer.read()
                if time.monotonic() > deadline:
                    raise BrokerFailed(f"{reasons!r}:\n{self.log.tail()}") from None
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def pids(self, role: str) -> list[int]:
        """The living children with *role* ``reader`` or ``worker``, oldest first."""
        return sorted(
            pid
            for pid in processes.children(self.pid)
            if processes.is_alive(pid) and f"broker.{role}" in processes.command(pid)
        )

    @property
    def reader(self) -> int:
        (pid,) = self.pids("reader")
        return pid

    @property
    def workers(self) -> list[int]:
        return self.pids("worker")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = _STOP_S) -> int:
        """Wait for the end; its exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BrokerFailed(
                f"still running after {timeout_s} s:\n{self.log.tail()}"
            ) from None
        self.log.join()
        return status

    def stop(self) -> None:
        """SIGTERM, and everything that must hold when a broker has ended."""
        try:
            if self.returncode is None:
                self.signal(signal.SIGTERM)
                status = self.wait()
                if status != 0:
                    raise BrokerFailed(f"exit status {status}:\n{self.log.tail()}")
            left = processes.wait_gone(processes.group(self.pid), 2.0)
            if left:
                names = [processes.command(pid) for pid in left]
                raise BrokerFailed(f"processes left behind: {names}")
            self.check_log()
        finally:
            self.destroy()

    def destroy(self) -> None:
        """Kill whatever is left of it."""
        assert self._process is not None
        processes.kill_group(self.pid)
        self._process.kill()
        self._process.wait()
        self.log.join()

    def check_log(self) -> None:
        """Look at what was logged since the last check.

        Raises:
            BrokerFailed: There is an error, a traceback or a warning of Python's.
        """
        start, self._checked = self._checked, len(self.log.lines)
        fresh = self.log.lines[start:]
        bad = [line for line in fresh if TROUBLE.search(line) and not self._is_ok(line)]
        if bad:
            context = "\n".join(fresh[-60:])
            raise BrokerFailed(f"trouble in the log: {bad[:5]}\n--- log:\n{context}")

    def _is_ok(self, line: str) -> bool:
        return any(re.search(pattern, line) for pattern in self.allowed)


def environment(redis_url: str, settings: dict[str, object]) -> dict[str, str]:
    """This process's environment with the settings of a test and no others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BROKER_")}
    given = {f"BROKER_{k.upper()}": str(v) for k, v in settings.items()}
    return (
        kept
        | {"PYTHONUNBUFFERED": "1", "BROKER_REDIS_URL": redis_url}
        | _TEST_SETTINGS
        | given
    )


def _is_ready(line: str) -> bool:
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.get("event") == "ready"


def _address(url: str) -> Address:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
