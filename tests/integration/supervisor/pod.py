"""A pod of stand-ins, as a test sees it: its log, its admin server, its processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.harness.http import Response, get
from tests.harness.processes import children

ROOT = Path(__file__).parents[3]
NOBODY = "redis://127.0.0.1:1/0"
"""No server answers there."""

SETTINGS: dict[str, object] = {
    "port": 0,
    "admin_port": 0,
    "workers": 2,
    "max_event_bytes": 65536,
    "ring_bytes": 1 << 20,
    "redis_url": NOBODY,
    "log_format": "json",
    "drain_delay_s": 0,
    "drain_s": 5,
}


class Pod:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._is_over = False
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._news:
                with contextlib.suppress(json.JSONDecodeError):
                    self.lines.append(json.loads(line))
                self._news.notify_all()
        self._is_over = True
        async with self._news:
            self._news.notify_all()

    async def _wait(self, is_there: Callable[[], object]) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: is_there() or self._is_over)
        assert is_there(), "the pod ended before that"

    async def logged(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the *count*-th line of *event*."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if line.get("event") == event]

        await self._wait(lambda: len(found()) >= count)
        return found()[count - 1]

    async def announced(self) -> tuple[int, int]:
        """Wait until all workers are ready; returns the public and the admin port."""
        await self._wait(self._ports)
        public, admin = self._ports()
        return public, admin

    def _ports(self) -> list[int]:
        return next((x["announced"] for x in self.lines if "announced" in x), [])

    async def ask(self, path: str) -> Response:
        """One request to the admin server; also before the pod is ready."""
        (_, admin) = await self.announced()
        return await get(("127.0.0.1", admin), path)

    async def reasons(self) -> list[str]:
        reasons: list[str] = (await self.ask("/readyz")).json()["reasons"]
        return reasons

    async def is_ready(self) -> bool:
        return (await self.ask("/readyz")).status == 200

    async def child(self, name: str) -> dict[str, Any]:
        body = (await self.ask("/healthz")).json()
        found: dict[str, Any] = next(x for x in body["children"] if x["name"] == name)
        return found

    async def is_state(self, name: str, state: str) -> bool:
        """Whether a child's state on the board is *state*."""
        return bool((await self.child(name))["state"] == state)

    async def metric(self, name: str, **labels: str) -> float:
        text = (await self.ask("/metrics")).body.decode()
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        )

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the supervisor; returns its exit status."""
        async with asyncio.timeout(20):
            status = await self._process.wait()
            await self._reading
        return status

    async def close(self) -> None:
        if self._process.returncode is None:
            pids = children(self._process.pid)
            self._process.kill()
            await self._process.wait()
            # One that a test stopped would not see the end of its lifeline.
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await self._reading


@contextlib.asynccontextmanager
async def running_pod(
    settings: Mapping[str, object] | None = None,
    probe: Mapping[str, float] | None = None,
    **behaviour: str,
) -> AsyncIterator[Pod]:
    """Start a pod; children that are not mentioned do nothing special."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.supervisor.run_pod",
        json.dumps({**SETTINGS, **(settings or {})}),
        json.dumps({"reader": "plain", "worker": "plain"} | behaviour),
        json.dumps(probe or {}),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    pod = Pod(process)
    try:
        yield pod
    finally:
        await pod.close()


async def eventually(
    is_true: Callable[[], Awaitable[object]], within_s: float = 15
) -> None:
    """Ask again and again until it is so."""
    async with asyncio.timeout(within_s):
        # Other processes are asked here: there is nothing to wait on.
        while not await is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
