"""One connection to the broker, from the request to its end.

A side task keeps its pulse. Three heartbeats without a word mean that the server is
gone. While the owner takes nothing, nothing is read, so that the server sees a slow
socket; its pings then lie unread behind events, and the client says by itself that it
lives: a pong that nobody asked for (RFC 6455 section 5.5.3).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

from broker.client.tokens import Tokens
from broker.client.wire import (
    SUBPROTOCOL,
    Details,
    Frame,
    command_text,
    read_details,
    read_frame,
)
from broker.disconnect import Disconnect

# This runs in other programs, whose own logging decides what becomes of it.
log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
"""How long connecting may take, and then again the first frame."""
CLOSE_TIMEOUT_S = 2.0
MAX_FRAME_BYTES = 256 * 1024 * 1024
SILENT_HALF_BEATS = 6
"""Two heartbeats may be late; the third may be on its way."""

ABNORMAL_CLOSURE = 1006
FIRST_TERMINAL_CODE = 4500
_TERMINAL_CODES = frozenset(reason.code for reason in Disconnect if not reason.retry)
_RETRIED_STATUSES = frozenset(
    (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
)
_NOTED = frozenset(("welcome", "closing", "token_expiring", "error"))
_REFRESH = "refresh"


class Ending(msgspec.Struct, frozen=True):
    """How one connection ended.

    Attributes:
        reason: For a person.
        retry: Whether to connect again and resume.
        code: The close code, the HTTP status of a refusal, or 1006.
        delay_s: How long the server asked this client to wait; None if it did not.
    """

    reason: str
    retry: bool
    code: int = ABNORMAL_CLOSURE
    delay_s: float | None = None


class Reader(Protocol):
    """What a connection needs of whoever reads it."""

    def query(self) -> dict[str, str]:
        """What the next connection asks for."""

    def handle_frame(
        self, link: Link, frame: Frame, text: str
    ) -> Awaitable[object] | None:
        """Take a frame; nothing more is read until what is returned is done."""


class Link:
    """One connection; used once.

    Attributes:
        token: What it has last said who it is with; empty for none.
        welcome: What the server said of the connection; None before that.
    """

    def __init__(self, tokens: Tokens, reader: Reader) -> None:
        self.token = ""
        self.welcome: Details | None = None
        self._tokens = tokens
        self._reader = reader
        self._socket: aiohttp.ClientWebSocketResponse
        self._limit: asyncio.Timeout
        self._side: list[asyncio.Task[None]] = []
        self._delay_s: float | None = None
        self._heard = False
        self._waits = False
        self._waited = False

    async def run(self, http: aiohttp.ClientSession, url: URL) -> Ending:
        """Connect, hand on what comes, close.

        Raises:
            Exception: Whatever the reader or the provider of tokens raises.
        """
        self.token = await self._tokens.current()
        try:
            self._socket = await self._connect(http, url)
        except aiohttp.WSServerHandshakeError as error:
            return _refusal(error)
        except TimeoutError:
            return Ending("the server did not answer in time", retry=True)
        except (aiohttp.ClientError, OSError) as error:
            return Ending(str(error) or type(error).__name__, retry=True)
        try:
            return await self._listen()
        finally:
            try:
                await self._end_side_tasks()
            finally:
                await self._close()

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run *work* beside the reading; it ends with the connection at the latest."""
        self._side = [task for task in self._side if not _is_over(task)]
        self._side.append(asyncio.create_task(work))

    async def send(self, text: str) -> None:
        """Say what `command_text` has made; sent in the order of the calls.

        Raises:
            aiohttp.ClientError: The connection is gone.
            OSError: Likewise.
        """
        await self._socket.send_str(text)

    async def _connect(
        self, http: aiohttp.ClientSession, url: URL
    ) -> aiohttp.ClientWebSocketResponse:
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await http.ws_connect(
                url.update_query(self._reader.query()),
                headers=bearer,
                protocols=(SUBPROTOCOL,),
                max_msg_size=MAX_FRAME_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            )

    async def _listen(self) -> Ending:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as self._limit:
                while True:
                    message = await self._socket.receive()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        return self._ending(message)
                    self._heard = True
                    await self._hand_on(message.data)
        except TimeoutError:
            return Ending("the server was silent for too long", retry=True)
        except aiohttp.ClientError as error:
            return Ending(str(error) or type(error).__name__, retry=True)
        except (msgspec.DecodeError, ValueError) as error:
            return Ending(f"the server sent no frame of ours: {error}", retry=False)

    async def _hand_on(self, text: str) -> None:
        frame = read_frame(text)
        if frame.id is None and frame.event in _NOTED:
            self._note(frame.event, read_details(frame.data))
        wait = self._reader.handle_frame(self, frame, text)
        if wait is not None:
            self._waits = self._waited = True
            await wait
            self._waits = False

    def _note(self, event: str, details: Details) -> None:
        match event:
            case "welcome":
                self.welcome = details
                self._limit.reschedule(None)
                self.start(self._keep_pulse(details.heartbeat_s / 2))
            case "closing" if details.delay_ms is not None:
                self._delay_s = details.delay_ms / 1000
            case "token_expiring" if self._tokens.renewable:
                self.start(self._refresh())
            case "error" if details.ref == _REFRESH:
                log.warning("the new token was refused: %s", details.code)
            case _:
                pass

    def _ending(self, message: aiohttp.WSMessage) -> Ending:
        if message.type is aiohttp.WSMsgType.BINARY:
            return Ending("the server sent no frame of ours: binary", retry=False)
        if message.type is not aiohttp.WSMsgType.CLOSE:
            reason = str(message.data or "the connection was cut")
            return Ending(reason, retry=True, delay_s=self._delay_s)
        code = message.data or ABNORMAL_CLOSURE
        reason = f"{message.extra or 'no reason given'} ({code})"
        return Ending(reason, _is_retried(code), code, self._delay_s)

    async def _keep_pulse(self, half_beat_s: float) -> None:
        """Leave a server that is silent; be heard by one that is not read.

        The silence is counted in waits and not in time: a loop that was blocked has
        had one long wait, and what came meanwhile is read before the next.
        """
        silent = 0
        while silent < SILENT_HALF_BEATS:
            self._heard = False
            await asyncio.sleep(half_beat_s)
            if self._waited:
                self._waited = self._waits
                # Where the server does not read it may hang, and be of no use.
                with suppress(TimeoutError):
                    async with asyncio.timeout(half_beat_s):
                        await self._socket.pong()
            silent = 0 if self._heard or self._waits else silent + 1
        self._limit.reschedule(asyncio.get_running_loop().time())

    async def _refresh(self) -> None:
        try:
            self.token = await self._tokens.renew(self.token, "expiring")
        except Exception as error:  # noqa: BLE001 - the provider is the program's own
            # The former token is good for a while; after its end it is asked once more.
            log.warning("no new token: %s", type(error).__name__)
            return
        await self.send(command_text("refresh", _REFRESH, {"token": self.token}))

    async def _end_side_tasks(self) -> None:
        for task in self._side:
            task.cancel()
        if self._side:
            await asyncio.wait(self._side)
        for task in self._side:
            if not _is_over(task):
                await task

    async def _close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()


def _is_over(task: asyncio.Task[None]) -> bool:
    """Whether nobody needs to know more of it."""
    if not task.done() or task.cancelled():
        return task.done()
    # That the connection is gone its reader finds out as well.
    return isinstance(task.exception(), aiohttp.ClientError | OSError | None)


def _is_retried(code: int) -> bool:
    return code < FIRST_TERMINAL_CODE and code not in _TERMINAL_CODES


def _refusal(error: aiohttp.WSServerHandshakeError) -> Ending:
    """What an HTTP answer instead of the upgrade means."""
    is_temporary = error.status >= 500 or error.status in _RETRIED_STATUSES
    asked = error.headers.get("Retry-After", "") if error.headers else ""
    # Everybody else was told the same number, so it is a floor to jitter from.
    delay_s = float(asked) * random.uniform(1, 1.5) if asked.isdecimal() else None  # noqa: S311
    return Ending(
        f"refused with HTTP status {error.status}", is_temporary, error.status, delay_s
    )
