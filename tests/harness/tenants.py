"""Users who open sessions at random on many pods, and what becomes of each session."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field

from tests.harness.client import ConnectionEnded, Refused, WebSocketClient
from tests.harness.servers import BrokerServer

PATIENCE_S = 20.0
"""How long a client that is to come back keeps trying."""


@dataclass(slots=True)
class Stay:
    """One session as the client in it sees it.

    Attributes:
        user: Whose.
        session: Which; used once.
        opened: How often it was let in.
        replaced_by: The session for which it was evicted, as it was told.
        how: ``open``, ``evicted``, ``left``, or what went wrong.
    """

    user: str
    session: str
    opened: int = 0
    replaced_by: str = ""
    how: str = "opening"


@dataclass(slots=True)
class Crowd:
    """How many sessions of a user have an open connection, and for how long too many.

    Attributes:
        limit: How many may.
        worst_s: The longest time that a user had more.
    """

    limit: int
    worst_s: float = 0.0
    _open: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _since: dict[str, float] = field(default_factory=dict)

    def came(self, stay: Stay) -> None:
        """A client has been let in."""
        those = self._open[stay.user]
        those.add(stay.session)
        if len(those) > self.limit:
            self._since.setdefault(stay.user, time.monotonic())

    def went(self, stay: Stay) -> None:
        """Its connection has ended."""
        those = self._open[stay.user]
        those.discard(stay.session)
        since = self._since.get(stay.user)
        if since is not None and len(those) <= self.limit:
            self.worst_s = max(self.worst_s, time.monotonic() - since)
            del self._since[stay.user]

    def end(self) -> None:
        """Count those who are over the limit still."""
        for since in self._since.values():
            self.worst_s = max(self.worst_s, time.monotonic() - since)


class Tenants:
    """Users that each open one session after the other and stay in all of them.

    Args:
        pods: Where to connect; those that do not answer are tried again.
        users: How many.
        limit: Sessions that a user may have.
        seed: Decides everything that is random here.
    """

    def __init__(
        self, pods: list[BrokerServer], users: int, limit: int, seed: int
    ) -> None:
        self._pods = pods
        self._random = random.Random(seed)
        self._users = [f"user{number}" for number in range(users)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False
        self.crowd = Crowd(limit)
        self.stays: list[Stay] = []

    async def run(self, seconds: float, pause_s: tuple[float, float]) -> None:
        """Let every user open sessions for so long, then leave everything."""
        ends = time.monotonic() + seconds
        async with asyncio.TaskGroup() as openers:
            for user in self._users:
                openers.create_task(self._open_some(user, ends, pause_s))

    async def leave(self) -> None:
        """End all connections."""
        self._over = True
        self.crowd.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open_some(
        self, user: str, ends: float, pause_s: tuple[float, float]
    ) -> None:
        number = 0
        while time.monotonic() < ends:
            await asyncio.sleep(self._random.uniform(*pause_s))
            stay = Stay(user, f"{user}.s{number}")
            self.stays.append(stay)
            number += 1
            task = asyncio.create_task(self._stay(stay))
            self._tasks.add(task)

    async def _stay(self, stay: Stay) -> None:
        """Connect, and come back until told not to."""
        while not self._over and stay.how in ("opening", "open"):
            client = await self._enter(stay)
            if client is None:
                return
            stay.opened += 1
            stay.how = "open"
            self.crowd.came(stay)
            try:
                await self._listen(stay, client)
            finally:
                self.crowd.went(stay)
                client.cut()

    async def _enter(self, stay: Stay) -> WebSocketClient | None:
        last: object = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    pod = self._random.choice(self._pods)
                    try:
                        client = await WebSocketClient.connect(
                            pod.public,
                            f"/v1/ws/{stay.session}",
                            {"user": stay.user},
                            subprotocols=(),
                            timeout_s=5,
                        )
                        await client.until("subscribed")
                    except Refused as refused:
                        if refused.status == 409:
                            self._take_refusal(stay, refused)
                            return None
                        last = refused.status
                    except (ConnectionEnded, OSError, TimeoutError) as error:
                        last = error
                    else:
                        return client
                    await asyncio.sleep(self._random.uniform(0.02, 0.1))
        stay.how = f"not let in: {last}"
        return None

    def _take_refusal(self, stay: Stay, refused: Refused) -> None:
        stay.how = refused.json()["error"]["code"].removeprefix("session_")

    async def _listen(self, stay: Stay, client: WebSocketClient) -> None:
        try:
            while True:
                frame = await client.frame(3600)
                if frame["event"] == "closing":
                    data = frame["data"]
                    if data["reason"] == "session_evicted":
                        stay.how = "evicted"
                        stay.replaced_by = data["replaced_by"]
                    elif not data["retry"]:
                        stay.how = str(data["reason"])
        except ConnectionEnded:
            ended = client.ended.result()
            if ended.code is not None and ended.code >= 4500 and stay.how == "open":
                stay.how = f"closed with {ended.code} and no reason"
