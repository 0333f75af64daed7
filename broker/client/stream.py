"""The events of one session as an asynchronous iterator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from broker.client.flow import Flow
from broker.client.items import Gap, Item, Notice, Reset, read_item
from broker.client.wire import Frame, Place

# This runs in other programs, whose own logging decides what becomes of it.
log = logging.getLogger(__name__)

_PRESENCE = frozenset(("present", "joined", "left"))


class Stream:
    """What `Client.events` returns; iterate over it in one task.

    Asking for the next item says that the one before is finished with. Waiting for an
    item can be cancelled, also by a time limit, and asked again: nothing is lost by it.

    ``break``, an exception or a cancellation leave the loop with an item in hand that
    is not finished. Who keeps the stream may go on iterating. Else its connection is
    closed soon, and at the end of the client's ``async with`` for sure. To know when::

        async with client.events("s1") as events:
            async for event in events:
                ...

    Attributes:
        session: Which session.
    """

    def __init__(self, flow: Flow, begin: Callable[[Flow], None]) -> None:
        self.session = flow.reading.session
        self._flow = flow
        self._begin: Callable[[Flow], None] | None = begin
        self._hand: Frame | None = None
        self._finished = Place(flow.reading.last_event_id)

    @property
    def position(self) -> str | None:
        """Behind the last item that is finished: where a new stream would go on.

        What `Client.events` takes as ``last_event_id``: then the item in hand comes
        again. To leave that out use its own ``id``. None: nothing has come yet.
        """
        return self._finished.position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """The next item; waits for it, over as many connections as it takes.

        Raises:
            StopAsyncIteration: The stream was closed here.
            ClosedByServer: The server has closed it and coming back is of no use.
            Exception: What the provider of tokens raised.
        """
        self._finish()
        if self._begin is not None:
            self._begin(self._flow)
            self._begin = None
        inbox = self._flow.inbox
        while True:
            await inbox.wait()
            if not inbox:
                error, self._flow.error = self._flow.error, None
                raise error or StopAsyncIteration
            self._hand = inbox.take()
            item = read_item(self._hand)
            if self._is_wanted(item):
                self._tell(item)
                return item
            self._finish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; the iteration ends."""
        self._begin = None
        await self._flow.close()

    def __del__(self) -> None:
        self._flow.leave()

    def _is_wanted(self, item: Item) -> bool:
        if not isinstance(item, Notice):
            return True
        reading = self._flow.reading
        return reading.everything or (reading.presence and item.event in _PRESENCE)

    def _finish(self) -> None:
        """The item in hand is done."""
        frame, self._hand = self._hand, None
        if frame is None:
            return
        self._finished.note(frame)
        if frame.id is not None and self._flow.reading.ack == "auto":
            self._flow.acks.note(frame.id)

    def _tell(self, item: Item) -> None:
        """Whoever looks only at names of events would overlook these."""
        match item:
            case Gap(reason="trimmed"):
                lost = "nobody knows how many" if item.lost is None else item.lost
                log.warning("%s: events are lost: %s", self.session, lost)
            case Reset():
                self._flow.acks.take_reset()
                log.warning("%s: the stream is another one", self.session)
            case _:
                pass
