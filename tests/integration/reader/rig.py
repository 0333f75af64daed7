"""The reader's own parts in this process, and somebody who follows what they write."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from broker.config import load_settings
from broker.metrics.slots import Slots
from broker.model import Position
from broker.reader.chain import Chains
from broker.reader.opening import Openings
from broker.reader.pump import Pump
from broker.reader.source import READER_ROW, Source
from broker.reader.watched import Watched
from broker.reader.watches import Watches
from broker.ring import board as b
from broker.ring.doorbell import Doorbell
from broker.ring.records import seq_word
from broker.ring.requests import Unwatch, Watch
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from broker.store.keys import event_key_pattern
from tests.integration.reader.follower import Answer, Chain, Follower

PATIENCE_S = 10.0
RING_BYTES = 16 * 1024 * 1024
WORKERS = 2


class Rig:
    """A reader without its process: begin it, end it, ask it.

    Attributes:
        follower: What came through the ring.
        source: The reader's connection; replaced by `restart`.
        watches: What it watches; replaced by `restart`.
    """

    watches: Watches
    source: Source

    def __init__(self, url: str, **settings: object) -> None:
        given = {"redis_url": url, "sweep_s": 60, "linger_s": 60, **settings}
        named = {f"BROKER_{name.upper()}": str(value) for name, value in given.items()}
        self._settings = load_settings(named, env_file=None)
        self._segment = Segment.create(RING_BYTES)
        self._board = b.Board.create(WORKERS)
        self._slots = Slots.create(WORKERS)
        self._bell = Doorbell.create()
        self.follower = Follower(self._segment, self._board, self._bell)
        self._running: asyncio.Task[None] | None = None
        self._token = 0
        self._build()

    def _build(self) -> None:
        settings, values = self._settings, self._slots.row(READER_ROW)
        keys = event_key_pattern(settings.event_stream)
        self.watches = Watches(keys, settings.linger_s, settings.sweep_s)
        chains = Chains(Transmitter(self._segment, [self._bell]))
        self.openings = Openings(
            self.watches, chains, values, settings.max_subscriptions
        )
        self.pump = Pump(self.watches, chains, values, settings.max_event_bytes)
        self.source = Source(
            settings,
            "test",
            self.watches,
            chains,
            self.openings,
            self.pump,
            self._board,
            values,
            self._segment.size,
        )

    async def __aenter__(self) -> Self:
        self.follower.start()
        self.begin()
        await self.until(lambda: self.is_up)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.end()
        finally:
            self._release()

    def _release(self) -> None:
        self.follower.stop()
        self._board.close()
        self._slots.close()
        for fd in (self._bell.fd, self._board.fd, self._slots.fd, self._segment.fd):
            os.close(fd)

    @property
    def is_up(self) -> bool:
        return bool(self._board.get(READER_ROW, b.REDIS_UP))

    def on_board(self, word: int) -> int:
        """What the reader says of itself."""
        return self._board.get(READER_ROW, word)

    def count(self, slot: int) -> float:
        """One of the reader's numbers."""
        return self._slots.row(READER_ROW)[slot]

    def begin(self) -> None:
        """Let it read; not needed after entering the context."""
        self._running = asyncio.create_task(self.source.run())

    async def end(self) -> None:
        """Stop reading; what it knows stays."""
        running, self._running = self._running, None
        if running is None:
            return
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def restart(self) -> None:
        """As if the process had died: another one knows nothing and owns the ring."""
        await self.end()
        self._build()
        self.begin()
        await self.until(lambda: self.is_up)

    async def until(
        self, condition: Callable[[], bool], patience_s: float = PATIENCE_S
    ) -> None:
        """Wait until *condition* holds, which is asked whenever something moved.

        Raises:
            TimeoutError: It did not hold in time.
            AssertionError: The ring said something impossible.
        """
        async with asyncio.timeout(patience_s):
            while not condition():
                self._check()
                await self.follower.moved(0.02)
        self._check()

    def _check(self) -> None:
        self.follower.check()
        if self._running is not None and self._running.done():
            self._running.result()

    def watched(self, session: str) -> Watched:
        """What the reader knows of a session that it watches."""
        found = self.watches.get(session)
        assert found is not None
        return found

    def ask(
        self,
        session: str,
        *,
        have: Position | None = None,
        channel: int = 0,
        worker: int = 1,
    ) -> int:
        """Request a watch; returns the token of the request."""
        self._token += 1
        words = None if have is None else (*have.id, seq_word(have.seq))
        request = Watch(self._token, session, words, channel)
        self.openings.handle_watch(worker, request)
        self.openings.handle_end_of_batch()
        return self._token

    async def answer(self, token: int) -> Answer:
        """The JOIN or REFUSED record for the request of *token*."""
        await self.until(lambda: token in self.follower.answers)
        return self.follower.answers[token]

    async def watch(
        self,
        session: str,
        *,
        have: Position | None = None,
        channel: int = 0,
        worker: int = 1,
    ) -> Chain:
        """Watch a session and wait for the answer; returns what follows of it."""
        token = self.ask(session, have=have, channel=channel, worker=worker)
        answer = await self.answer(token)
        assert answer.join is not None, answer.refused
        return self.follower.chains[answer.channel]

    def unwatch(self, session: str, worker: int = 1) -> None:
        """Say that the worker needs the session no longer."""
        self.openings.handle_unwatch(worker, Unwatch(session))
        self.openings.handle_end_of_batch()
