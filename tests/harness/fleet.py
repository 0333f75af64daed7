"""Many clients that come and go while everything around them fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from tests.harness.accounts import Account
from tests.harness.client import (
    Address,
    ConnectionEnded,
    Frame,
    Refused,
    WebSocketClient,
)
from tests.harness.recorder import Recorder
from tests.harness.wire import ServerFault

_TERMINAL = 4500


class Roamer:
    """A client that reconnects and resumes until it is told to stay.

    Attributes:
        stays: It no longer leaves by itself (but still returns after a cut).
        refusals: How often it was refused, by HTTP status.
    """

    def __init__(
        self,
        account: Account,
        address: Callable[[], Address],
        stay_s: tuple[float, float],
        chance: random.Random,
    ) -> None:
        self.account = account
        self.stays = False
        self.refusals: dict[int, int] = {}
        self.closes: dict[int | None, int] = {}
        self.faults: list[str] = []
        self._address = address
        self._stay_s = stay_s
        self._chance = chance
        self._socket: WebSocketClient | None = None

    async def run(self) -> None:
        """Connect, listen, leave or be cut, and come back; until cancelled."""
        tries = 0
        try:
            while True:
                came = await self._visit()
                tries = 0 if came else tries + 1
                # Full jitter, as every client of ours has it.
                await asyncio.sleep(self._chance.random() * min(1.0, 0.05 * 2**tries))
        finally:
            if self._socket is not None:
                self._socket.cut()

    async def _visit(self) -> bool:
        """One connection; whether it was accepted."""
        query: dict[str, str | int] = {"last_event_id": "0"}
        if self.account.last_position is not None:
            query["last_event_id"] = self.account.last_position
        self.account.connecting()
        try:
            self._socket = await WebSocketClient.connect(
                self._address(),
                f"/v1/ws/{self.account.session}",
                query,
                on_frame=self._take,
            )
        except Refused as refused:
            self.refusals[refused.status] = self.refusals.get(refused.status, 0) + 1
            return False
        except (OSError, TimeoutError, ConnectionEnded):
            return False
        await self._listen(self._socket)
        return True

    async def _listen(self, socket: WebSocketClient) -> None:
        stay_s = self._chance.uniform(*self._stay_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(stay_s):
                await asyncio.shield(socket.ended)
        if not socket.ended.done() and self.stays:
            await asyncio.shield(socket.ended)
        socket.cut()
        ended = await socket.wait_ended()
        self.closes[ended.code] = self.closes.get(ended.code, 0) + 1
        if socket.fault is not None:
            self.faults.append(str(socket.fault))
        if ended.code is not None and ended.code >= _TERMINAL:
            self.faults.append(f"closed for good: {ended}")

    def _take(self, frame: Frame) -> None:
        if "session" in frame or "id" in frame:
            self.account.frame(frame)


class Fleet:
    """Roamers spread over sessions; an async context manager."""

    def __init__(
        self,
        recorder: Recorder,
        address: Callable[[], Address],
        sessions: list[str],
        count: int,
        *,
        stay_s: tuple[float, float] = (1.0, 5.0),
        seed: int = 1,
    ) -> None:
        chance = random.Random(seed)
        self.roamers = [
            Roamer(
                recorder.account(f"roamer-{i}", sessions[i % len(sessions)]),
                address,
                stay_s,
                random.Random(chance.random()),
            )
            for i in range(count)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(roamer.run()) for roamer in self.roamers]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def subscribed(self, timeout_s: float = 20.0) -> None:
        """Wait until every roamer has been subscribed once."""
        async with asyncio.timeout(timeout_s):
            for roamer in self.roamers:
                while roamer.account.epoch.start is None:
                    await roamer.account.changed()

    def stay(self) -> None:
        """From now on nobody leaves by itself."""
        for roamer in self.roamers:
            roamer.stays = True

    def check(self) -> None:
        """Raise what servers did wrong to any of them, and what ended a roamer."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
        faults = [fault for roamer in self.roamers for fault in roamer.faults]
        if faults:
            raise ServerFault("; ".join(faults[:10]))

    def total(self, what: str) -> dict[int | None, int]:
        """``refusals`` or ``closes`` summed over all roamers."""
        total: dict[int | None, int] = {}
        for roamer in self.roamers:
            for key, count in getattr(roamer, what).items():
                total[key] = total.get(key, 0) + count
        return total
