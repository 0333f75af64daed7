"""Says to the broker how far a consumer is done."""

from __future__ import annotations

import asyncio

from broker.client.link import Link
from broker.client.wire import Details, command_text
from broker.model import FIRST_ID, parse_position

REF = "ack "
"""Before the position, in the id of what is said."""
SAY_EVERY_S = 0.2
"""The broker writes commits together at this interval, so more would be of no use."""


class Acks:
    """What is done, said again until it is stored.

    A position of a former history means nothing in the present one. The reader comes
    to a reset before the loop does, so in between nothing is said.
    """

    def __init__(self) -> None:
        self._is_connected = False
        self._done: str | None = None
        self._done_id = FIRST_ID
        self._stored: str | None = None
        self._refused: str | None = None
        self._resets_read = 0
        self._resets_taken = 0
        self._news = asyncio.Event()
        self._answered = asyncio.Event()

    def note(self, position: str) -> None:
        """Everything up to *position* is done; a lower one changes nothing."""
        entry_id = parse_position(position).id
        if entry_id <= self._done_id or self._resets_taken < self._resets_read:
            return
        self._done = position
        self._done_id = entry_id
        self._news.set()

    def read_reset(self) -> None:
        """The connection has brought a reset."""
        self._resets_read += 1
        self._done = None
        self._done_id = FIRST_ID

    def take_reset(self) -> None:
        """The loop has come to it."""
        self._resets_taken += 1

    async def finish(self) -> None:
        """Wait until what is done is stored or refused, or the connection ends."""
        while self._is_connected and self._is_open:
            self._answered.clear()
            await self._answered.wait()

    # What the connection has to say.

    def begin(self, link: Link) -> None:
        """The subscription on *link* has begun."""
        self._is_connected = True
        link.start(self._keep_saying(link))

    def remind(self) -> None:
        """The broker knows by now what this connection has been sent: say it again."""
        self._refused = None
        self._news.set()

    def handle_answer(self, event: str, answer: Details) -> None:
        """Take what the broker said to an ack."""
        position = (answer.ref or "").removeprefix(REF)
        if event == "ack":
            self._stored = position
        elif answer.retry:
            self._news.set()
        else:
            self._refused = position
        self._answered.set()

    def cut(self) -> None:
        """The connection has ended."""
        self._is_connected = False
        self._answered.set()

    async def _keep_saying(self, link: Link) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._say(link)
            await asyncio.sleep(SAY_EVERY_S)

    async def _say(self, link: Link) -> None:
        if self._is_open:
            name = f"{REF}{self._done}"
            await link.send(command_text("ack", name, {"position": self._done}))

    @property
    def _is_open(self) -> bool:
        return self._done not in (None, self._stored, self._refused)
