"""A client of one session whose every frame goes through the recorder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from tests.harness.accounts import Account
from tests.harness.client import (
    Address,
    ConnectionEnded,
    Ended,
    Frame,
    WebSocketClient,
)
from tests.harness.recorder import Recorder
from tests.harness.sse import SseClient

Query = Mapping[str, str | int]


class Watcher:
    """One client of one session, over WebSocket or SSE, across reconnects.

    Attributes:
        account: Its account; it resumes from there.
        frames: What came and was not taken by :meth:`next` yet.
        socket: The connection of the moment.
    """

    def __init__(
        self, address: Address, account: Account, protocol: str = "websocket"
    ) -> None:
        self.address = address
        self.account = account
        self.protocol = protocol
        self.frames: list[Frame] = []
        self.seen: list[Frame] = []
        self.socket: WebSocketClient | SseClient | None = None
        self._sockets: list[WebSocketClient | SseClient] = []
        self._waiter: asyncio.Future[None] | None = None

    async def open(
        self,
        query: Query | None = None,
        *,
        headers: Sequence[tuple[str, str]] = (),
        receive_buffer_bytes: int = 0,
    ) -> Self:
        """Connect and wait for ``subscribed``; from the second time on it resumes."""
        query = dict(query or {})
        if self.account.last_position is not None:
            query["last_event_id"] = self.account.last_position
        self.account.connecting()
        self.frames.clear()
        path = f"/v1/{'ws' if self.protocol == 'websocket' else 'sse'}/"
        path += self.account.session
        if self.protocol == "websocket":
            self.socket = await WebSocketClient.connect(
                self.address,
                path,
                query,
                on_frame=self._take,
                headers=headers,
                receive_buffer_bytes=receive_buffer_bytes,
            )
        else:
            self.socket = await SseClient.connect(
                self.address, path, query, on_frame=self._take, headers=list(headers)
            )
        self._sockets.append(self.socket)
        self.socket.ended.add_done_callback(self._wake)
        await self.next("subscribed")
        return self

    @property
    def websocket(self) -> WebSocketClient:
        assert isinstance(self.socket, WebSocketClient)
        return self.socket

    @property
    def position(self) -> str:
        """Where it would resume."""
        assert self.account.last_position is not None
        return self.account.last_position

    @property
    def events(self) -> list[Frame]:
        """Every published event that it was sent, oldest first."""
        return [frame for frame in self.seen if "id" in frame]

    def told(self, event: str) -> list[dict[str, Any]]:
        """The data of every notice with this name that it was sent."""
        return [f["data"] for f in self.seen if "id" not in f and f["event"] == event]

    async def next(self, event: str, timeout_s: float = 10.0) -> Frame:
        """The next frame with this event name; what comes before it is skipped."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    while self.frames:
                        frame = self.frames.pop(0)
                        if frame["event"] == event:
                            return frame
                    assert self.socket is not None
                    if self.socket.ended.done():
                        how = self.socket.ended.result()
                        raise ConnectionEnded(f"{how} while waiting for {event!r}")
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        except TimeoutError:
            last = self.seen[-3:]
            raise AssertionError(
                f"no {event!r} in {timeout_s} s; last {last}"
            ) from None

    async def ended(self, timeout_s: float = 10.0) -> Ended:
        """Wait until the connection is gone."""
        assert self.socket is not None
        return await self.socket.wait_ended(timeout_s)

    async def cut(self) -> None:
        """Drop the connection without a word."""
        assert self.socket is not None
        self.socket.cut()
        await self.socket.wait_ended()

    async def leave(self) -> Ended:
        """Close in order and do not come back."""
        assert self.socket is not None
        self.account.leave()
        return await self.socket.close()

    async def finish(self) -> None:
        """Free what is open, and say what a server did wrong.

        Raises:
            ServerFault: On any of its connections.
        """
        for socket in self._sockets:
            socket.cut()
            if isinstance(socket, SseClient):
                await socket.close()
        for socket in self._sockets:
            if socket.fault is not None:
                raise socket.fault

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.seen.append(frame)
        self.account.frame(frame)
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class MultiWatcher:
    """One connection to ``/v1/ws`` that reads many sessions by command."""

    def __init__(self, address: Address, recorder: Recorder, client: str) -> None:
        self.address = address
        self.seen: list[Frame] = []
        self._recorder = recorder
        self._client = client
        self._socket: WebSocketClient | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._taken = 0

    async def open(self, query: Query | None = None) -> Self:
        """Connect and wait for ``welcome``."""
        self._socket = await WebSocketClient.connect(
            self.address, "/v1/ws", query, on_frame=self._take
        )
        self._socket.ended.add_done_callback(self._wake)
        await self.next("welcome")
        return self

    @property
    def websocket(self) -> WebSocketClient:
        assert self._socket is not None
        return self._socket

    async def command(self, cmd: str, ref: str, **data: object) -> Frame:
        """Send a command; its answer, whatever that is."""
        self.websocket.send({"cmd": cmd, "id": ref, "data": data})
        return await self._where(lambda f: _ref(f) == ref, f"an answer to {ref}")

    async def subscribe(self, session: str, ref: str = "c1", **data: object) -> Frame:
        """Subscribe, counting in the session's account from here on."""
        self._recorder.account(self._client, session).connecting()
        return await self.command("subscribe", ref, session=session, **data)

    async def next(self, event: str) -> Frame:
        """The next frame with this event name that was not looked at yet."""
        return await self._where(lambda f: f["event"] == event, repr(event))

    def events(self, session: str) -> list[Frame]:
        return [f for f in self.seen if "id" in f and f["session"] == session]

    async def finish(self) -> None:
        """Free the connection, and say what the server did wrong."""
        if self._socket is not None:
            self._socket.cut()
            if self._socket.fault is not None:
                raise self._socket.fault

    async def _where(self, wanted: Callable[[Frame], bool], name: str) -> Frame:
        try:
            async with asyncio.timeout(10):
                while True:
                    while self._taken < len(self.seen):
                        self._taken += 1
                        if wanted(self.seen[self._taken - 1]):
                            return self.seen[self._taken - 1]
                    if self.websocket.ended.done():
                        raise ConnectionEnded(f"ended while waiting for {name}")
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        except TimeoutError:
            raise AssertionError(f"no {name} in 10 s; last {self.seen[-3:]}") from None

    def _take(self, frame: Frame) -> None:
        self.seen.append(frame)
        is_answer = frame["event"] in ("error", "unsubscribed")
        if "session" in frame and not is_answer:
            self._recorder.account(self._client, frame["session"]).frame(frame)
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _ref(frame: Frame) -> object:
    data = frame.get("data")
    return data.get("ref") if isinstance(data, dict) and "id" not in frame else None
