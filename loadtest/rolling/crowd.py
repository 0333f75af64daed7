"""Clients that do what they are told: leave when the server says so, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import cast

import msgspec
import orjson

from loadtest import payload
from loadtest.fleet import wire

AT_ONCE = 200
"""Connections that may be on the way at once while the crowd gathers."""
GATHER_S = 120.0
BACKOFF_S = 1.0
LOOK_S = 0.05
_ID = re.compile(rb'"id":"([^"]+)"')


class Notes(msgspec.Struct):
    """What the whole crowd has seen.

    Attributes:
        delivered: Events received.
        missing: Events that ordinals say should have come and did not.
        doubled: Events that came again.
        behind_ns: The longest time between publishing and receiving.
        late: Clients that were ever more than ``LATE_NS`` behind.
        latencies: Events by milliseconds.
        connects: Loop times of all upgrades.
        closings: Goodbyes by the server, by code.
        resumes: Answers to coming back.
        refused: Answers other than 101, by status.
        cut: Connections that ended without a goodbye.
        trouble: Gaps, resets and errors that were told.
    """

    delivered: int = 0
    missing: int = 0
    doubled: int = 0
    behind_ns: int = 0
    late: set[int] = msgspec.field(default_factory=set)
    latencies: Counter[int] = msgspec.field(default_factory=Counter)
    connects: list[float] = msgspec.field(default_factory=list)
    closings: Counter[int] = msgspec.field(default_factory=Counter)
    resumes: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[int] = msgspec.field(default_factory=Counter)
    cut: int = 0
    trouble: Counter[str] = msgspec.field(default_factory=Counter)


LATE_NS = 2_000_000_000


class Traveller(asyncio.Protocol):
    """One client of one session, across its connections."""

    def __init__(self, number: int, session: str, port: int, notes: Notes) -> None:
        self._number = number
        self._session = session
        self._port = port
        self._notes = notes
        self._ordinal = 0
        self._frame = b""  # The last event, in which its position stands.
        self._position = ""
        self._rest = b""
        self._upgraded = False
        self._delay_s: float | None = None
        self._transport: asyncio.Transport | None = None
        self._subscribed = asyncio.Event()
        self._ended = asyncio.Event()

    async def visit(self, gate: asyncio.Semaphore) -> None:
        """Connect for the first time, one of not too many at once."""
        async with gate:
            await self._connect()
            await self._subscribed.wait()

    async def run(self) -> None:
        """Stay, and come back whenever the connection ends; until cancelled."""
        while True:
            await self._ended.wait()
            delay_s = self._delay_s
            if delay_s is None:
                delay_s = random.uniform(0, BACKOFF_S)
            await asyncio.sleep(delay_s)
            with contextlib.suppress(OSError):
                await self._connect()

    def leave(self) -> None:
        """Drop the connection; it was not cut by anybody else."""
        self._delay_s = 0.0
        if self._transport is not None:
            self._transport.abort()

    async def _connect(self) -> None:
        self._ended.clear()
        self._rest, self._upgraded, self._delay_s = b"", False, None
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        except OSError:
            self._ended.set()
            raise

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for everything after the last event."""
        self._transport = cast("asyncio.Transport", transport)
        if self._frame:
            found = _ID.search(self._frame)
            assert found is not None
            self._position = found[1].decode()
        query = f"?last_event_id={self._position}" if self._position else ""
        path = f"/v1/ws/{self._session}{query}"
        request = wire.upgrade_request(f"127.0.0.1:{self._port}", path)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take the answer to the upgrade, then frames."""
        self._rest += data
        if not self._upgraded and not self._take_head():
            return
        now_ns = time.monotonic_ns()
        frames, self._rest = wire.split_frames(self._rest)
        for opcode, frame in frames:
            if opcode == wire.TEXT:
                self._take(frame, now_ns)
            elif opcode == wire.PING:
                self._send(wire.PONG, frame)
            elif opcode == wire.CLOSE:
                self._notes.closings[int.from_bytes(frame[:2], "big")] += 1
                self._send(wire.CLOSE, frame[:2])

    def connection_lost(self, exc: Exception | None) -> None:
        """Come back, after the delay that was told if there was one."""
        self._transport = None
        self._notes.cut += self._upgraded and self._delay_s is None
        self._ended.set()

    def _take_head(self) -> bool:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            return False
        status = wire.status_of(head)
        if status != 101:
            self._notes.refused[status] += 1
            if self._transport is not None:
                self._transport.abort()
            return False
        self._rest, self._upgraded = rest, True
        self._notes.connects.append(time.monotonic())
        return True

    def _send(self, opcode: int, content: bytes) -> None:
        if self._transport is not None:
            self._transport.write(wire.masked_frame(opcode, content))

    # What the server says.

    def _take(self, frame: bytes, now_ns: int) -> None:
        marker = frame.find(payload.MARKER)
        if marker < 0:
            self._take_notice(orjson.loads(frame))
            return
        notes = self._notes
        notes.delivered += 1
        step = payload.ordinal_at(frame, marker) - self._ordinal
        if step < 1:
            notes.doubled += 1
            return
        notes.missing += step - 1
        self._ordinal += step
        self._frame = frame
        behind_ns = now_ns - payload.time_ns_at(frame, marker)
        notes.latencies[behind_ns // 1_000_000] += 1
        if behind_ns > notes.behind_ns:
            notes.behind_ns = behind_ns
        if behind_ns > LATE_NS:
            notes.late.add(self._number)

    def _take_notice(self, notice: dict[str, object]) -> None:
        data = cast("dict[str, object]", notice.get("data", {}))
        match notice["event"]:
            case "subscribed":
                self._position = self._position or str(data["from"])
                self._notes.resumes[str(data["resume"])] += 1
                self._subscribed.set()
            case "closing":
                self._delay_s = cast("int", data.get("delay_ms", 0)) / 1000
            case "gap" | "reset" | "error" as trouble:
                self._notes.trouble[trouble] += 1
            case _:
                pass


class Crowd:
    """Travellers, a number of them for each session.

    Attributes:
        notes: What they have seen.
    """

    def __init__(self, port: int, sessions: Sequence[str], copies: int) -> None:
        self.notes = Notes()
        names = [name for _ in range(copies) for name in sessions]
        self._travellers = [
            Traveller(number, name, port, self.notes)
            for number, name in enumerate(names)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def gather(self) -> None:
        """Connect everybody, and let everybody come back from now on."""
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.timeout(GATHER_S):
            await asyncio.gather(*(one.visit(gate) for one in self._travellers))
        self._tasks = [asyncio.create_task(one.run()) for one in self._travellers]

    async def wait_delivered(self, expected: int, timeout_s: float) -> None:
        """Wait for so many events, or until *timeout_s* has passed."""
        # Nobody is woken by each event: there are thousands each second.
        for _ in range(int(timeout_s / LOOK_S)):
            if self.notes.delivered >= expected:
                return
            await asyncio.sleep(LOOK_S)

    async def disperse(self) -> None:
        """Drop all connections.

        Raises:
            Exception: What ended one of the clients.
        """
        for task in self._tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self._travellers:
            one.leave()
        await asyncio.sleep(0)


def busiest_second(times: Sequence[float]) -> int:
    """The most of *times* (ascending, in seconds) that lie within one second."""
    window: deque[float] = deque()
    most = 0
    for moment in times:
        window.append(moment)
        while window[0] <= moment - 1:
            window.popleft()
        most = max(most, len(window))
    return most
