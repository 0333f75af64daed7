"""Clients in JavaScript, run as they are installed: ``npm ci`` in this folder.

Without Node or these packages the tests that need them are not collected; with
``BROKER_TEST_ALL=1`` that is an error.
"""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

from tests.harness.tools import IS_ALL_WANTED, missing_for_node

HERE = Path(__file__).parent
NODE = shutil.which("node")
MISSING = missing_for_node()
LINE_BYTES_MAX = 16 * 1024 * 1024

if MISSING and IS_ALL_WANTED:
    raise pytest.UsageError(f"tests/clients needs {' and '.join(MISSING)}: npm ci")
NEED_PACKAGES = ["test_openhands_typescript.py", "test_socketio_client.py"]
collect_ignore = NEED_PACKAGES if MISSING else []


class Driver:
    """A client in a process of its own, which prints what happens to it as JSON lines.

    Attributes:
        happened: All lines so far.
    """

    def __init__(self, process: Process) -> None:
        self.happened: list[dict[str, Any]] = []
        self._process = process
        self._read = 0

    @classmethod
    async def start(cls, script: str, argument: object) -> Self:
        """Run *script* of this folder with one argument, which it gets as JSON."""
        assert NODE is not None
        process = await asyncio.create_subprocess_exec(
            NODE,
            HERE / script,
            orjson.dumps(argument).decode(),
            stdin=PIPE,
            stdout=PIPE,
            limit=LINE_BYTES_MAX,
            cwd=HERE,
        )
        return cls(process)

    def tell(self, command: object) -> None:
        """Send the client a line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(command) + b"\n")

    async def next(self, timeout_s: float = 20) -> dict[str, Any]:
        """What happens next.

        Raises:
            TimeoutError: Nothing happens.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            line = await self._process.stdout.readline()
        assert line, f"the client has ended after {self.happened[-5:]}"
        happened: dict[str, Any] = orjson.loads(line)
        self.happened.append(happened)
        return happened

    async def until(self, name: str, timeout_s: float = 20) -> dict[str, Any]:
        """The next line whose ``happened`` is *name*."""
        async with asyncio.timeout(timeout_s):
            while True:
                line = await self.next(timeout_s)
                if line["happened"] == name:
                    return line

    async def stop(self) -> None:
        """End the process."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        # Else the pipes are closed by the garbage collector, which is an error here.
        self._process._transport.close()  # type: ignore[attr-defined]


StartDriver = Callable[[str, object], Awaitable[Driver]]


@pytest.fixture
async def start_driver() -> AsyncIterator[StartDriver]:
    """Start clients; they are killed when the test ends."""
    drivers: list[Driver] = []

    async def start(script: str, argument: object) -> Driver:
        drivers.append(await Driver.start(script, argument))
        return drivers[-1]

    yield start
    for driver in drivers:
        await driver.stop()
