"""Reads one session over its connections into an inbox, until it is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress

import aiohttp
from yarl import URL

from broker.client.acks import Acks
from broker.client.errors import ClosedByServer
from broker.client.follow import Follower
from broker.client.inbox import Inbox
from broker.client.link import CLOSE_TIMEOUT_S, Ending, Link
from broker.client.reading import Reading
from broker.client.tokens import Tokens
from broker.client.wire import Frame, Place, is_reset, read_details

# This runs in other programs, whose own logging decides what becomes of it.
log = logging.getLogger(__name__)


class Flow:
    """The connections of one session, at work from `start` to `close`.

    It knows nothing of the iterator that takes from it: if that is dropped, as by a
    ``break``, it can say so here.

    Attributes:
        inbox: What has come.
        acks: What is done, if there is a consumer.
        error: Why it has ended, if not because somebody closed it.
        closed: Nobody wants any more of it.
    """

    def __init__(self, url: URL, tokens: Tokens, reading: Reading) -> None:
        self.reading = reading
        self.inbox = Inbox()
        self.acks = Acks()
        self.error: BaseException | None = None
        self.closed = False
        self._place = Place(reading.last_event_id)
        self._was_open = False
        self._follower = Follower(url, tokens, self)
        self._task: asyncio.Task[Ending] | None = None
        self._closing: asyncio.Task[None] | None = None

    def start(self, http: aiohttp.ClientSession) -> asyncio.Task[Ending]:
        """Begin, in a task of its own."""
        self._task = asyncio.create_task(self._follower.run(http))
        self._task.add_done_callback(self._end)
        return self._task

    async def close(self) -> None:
        """See that what is done is stored, and close; takes some seconds at most."""
        self.closed = True
        self.inbox.close()
        task = self._task
        if task is None:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.acks.finish()
        finally:
            task.cancel()
        await asyncio.wait((task,))

    def leave(self) -> None:
        """The iterator is gone; comes from any thread, or after the loop's end."""
        task = self._task
        self.closed = True
        if task is not None and not task.done():
            with suppress(RuntimeError):
                task.get_loop().call_soon_threadsafe(self._close_soon)

    def _close_soon(self) -> None:
        if self._task is not None and not self._task.done():
            self._closing = asyncio.create_task(self.close())

    def _end(self, task: asyncio.Task[Ending]) -> None:
        self.closed = True
        if not task.cancelled():
            self.error = task.exception()
            if self.error is None:
                ending = task.result()
                self.error = ClosedByServer(ending.code, ending.reason)
        self.inbox.end()

    # What the follower asks.

    def query(self) -> dict[str, str]:
        """Where to resume, and how."""
        return self.reading.query(self._place, again=self._was_open)

    def handle_frame(
        self, link: Link, frame: Frame, text: str
    ) -> Awaitable[object] | None:
        """Put it into the inbox."""
        if frame.id is None:
            if frame.event == "heartbeat" and not self.reading.everything:
                return None
            self._handle_control(link, frame)
        self._place.note(frame)
        return self.inbox.put(frame, len(text))

    def _handle_control(self, link: Link, frame: Frame) -> None:
        match frame.event:
            case "subscribed":
                self._handle_subscribed(link)
            case "caught_up":
                self.acks.remind()
            case "ack" | "error":
                self.acks.handle_answer(frame.event, read_details(frame.data))
            case _:
                pass
        if is_reset(frame):
            self.acks.read_reset()

    def _handle_subscribed(self, link: Link) -> None:
        self._was_open = True
        if self.reading.consumer is not None:
            self.acks.begin(link)

    def handle_end(self, ending: Ending) -> bool:
        """There is always more to read."""
        self.acks.cut()
        self.inbox.cut()
        return True

    def handle_pause(self, ending: Ending, delay_s: float) -> None:
        """Tell whoever looks after the program."""
        name = self.reading.session
        log.warning("%s: %s; again in %.1f s", name, ending.reason, delay_s)
