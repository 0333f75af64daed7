"""Committed positions: collected, written in batches, answered when they are stored.

The one promise: no event is skipped. Whatever is lost on the way, a commit or the news
of it, makes events come again. So everything here may be repeated and may come late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from itertools import islice
from typing import TypeVar

import msgspec

from broker.config import Settings
from broker.errors import StoreError, StoreRefused, StoreUnavailable
from broker.model import START, Position
from broker.store import offsets
from broker.store.connection import Connection
from broker.store.offsets import Consumer, Mode, Write
from broker.store.standing import StandingConnection

T = TypeVar("T")

FLUSH_S = 0.2
WRITE_MAX = 500
"""Positions in one write: about 5 ms of Redis."""
PENDING_MAX = 50_000
"""Positions that wait for Redis, and callers who wait to be answered, at most."""
WAITERS_MAX = 10_000
"""Those who wait for the same consumer: one cannot have all the places."""


class Outcome(StrEnum):
    """What became of a commit."""

    STORED = "stored"
    """Redis has this position or one further ahead."""
    REFUSED = "refused"
    """It never will, see the code."""
    UNAVAILABLE = "unavailable"
    """Redis did not take it in time; it may still be stored later."""


class CommitResult(msgspec.Struct, frozen=True):
    """The answer to a commit.

    Attributes:
        outcome: What became of it.
        code: ``too_many_consumers``; ``reset`` if the stream has become another one
            meanwhile; ``unavailable``; empty if it was stored.
        position: What is stored now, if it was stored.
    """

    outcome: Outcome
    code: str = ""
    position: Position | None = None


OnDone = Callable[[CommitResult], None]
"""Must not raise."""

TOO_MANY_CONSUMERS = CommitResult(Outcome.REFUSED, "too_many_consumers")
RESET = CommitResult(Outcome.REFUSED, "reset")
UNAVAILABLE = CommitResult(Outcome.UNAVAILABLE, "unavailable")


class _Waiter:
    """Somebody who wants an answer, once and by the deadline."""

    __slots__ = ("_on_done", "deadline")

    def __init__(self, deadline: float, on_done: OnDone) -> None:
        self.deadline = deadline
        self._on_done: OnDone | None = on_done

    @property
    def is_answered(self) -> bool:
        return self._on_done is None

    def answer(self, result: CommitResult) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(result)


class _Pending:
    """The highest position of a consumer that is not stored yet."""

    __slots__ = ("mode", "position", "waiters")

    def __init__(self, position: Position, mode: Mode = Mode.FORWARD) -> None:
        self.position = position
        self.mode = mode
        self.waiters: list[_Waiter] = []

    def raise_to(self, position: Position) -> None:
        """Take *position* if it says more."""
        if position.id > self.position.id or (
            position.id == self.position.id and self.position.seq is None
        ):
            self.position = position

    def over(self, stored: Position | None) -> Position:
        """What would be stored instead of *stored*."""
        if self.mode is Mode.REPLACE or stored is None:
            return self.position
        return max(self.position, stored, key=lambda position: position.id)

    def follow(self, former: _Pending) -> None:
        """Become what *former*, which was not stored, and this are together."""
        self.waiters = former.waiters + self.waiters
        if self.mode is Mode.FORWARD:
            self.mode = former.mode
            self.raise_to(former.position)

    def answer(self, result: CommitResult) -> None:
        """Tell everybody who waits."""
        for waiter in self.waiters:
            waiter.answer(result)
        self.waiters.clear()


class Commits:
    """Writes the positions of one worker's consumers.

    While Redis is away the highest position of each consumer is kept, and stored when
    it is back; who waits for the answer is told after ``command_timeout_s``.

    Args:
        settings: How long positions are kept, and how long somebody waits.
        standing: Its connections have loaded `offsets.SCRIPTS`.
    """

    def __init__(self, settings: Settings, standing: StandingConnection) -> None:
        self._standing = standing
        self._ttl_s = settings.offset_ttl_s
        self._timeout_s = settings.command_timeout_s
        self._pending: dict[Consumer, _Pending] = {}
        self._writing: dict[Consumer, _Pending] = {}
        self._waiters: deque[_Waiter] = deque()
        self._turn = asyncio.Lock()

    @property
    def pending(self) -> int:
        """How many consumers have a position that is not stored yet."""
        return len(self._pending) + len(self._writing)

    def commit(
        self, consumer: Consumer, position: Position, on_done: OnDone | None = None
    ) -> None:
        """Store with the next write that *consumer* is done up to *position*.

        Only positions that were handed to this consumer may come here: that is for
        the caller to see to, who knows what was.

        Args:
            consumer: Whose.
            position: Of the stream as it is now; see `forget`.
            on_done: Called once, at the latest soon after ``command_timeout_s``.
        """
        pending = self._pending.get(consumer)
        if pending is not None:
            pending.raise_to(position)
        elif len(self._pending) < PENDING_MAX:
            pending = self._pending[consumer] = _Pending(position)
        if on_done is None:
            return
        while self._waiters and self._waiters[0].is_answered:
            self._waiters.popleft()
        full = len(self._waiters) >= PENDING_MAX
        if pending is None or full or len(pending.waiters) >= WAITERS_MAX:
            on_done(UNAVAILABLE)
            return
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        waiter = _Waiter(deadline, on_done)
        pending.waiters.append(waiter)
        self._waiters.append(waiter)

    def forget(self, consumer: Consumer) -> None:
        """The stream has become another one: what is stored means nothing any more.

        The start of the new history is stored in its place, whatever was there. It is
        not just deleted: a consumer without a position begins at the tip, and would
        skip what came since. Now the lower ids of the new history can be committed.

        Call it in the turn in which the subscription begins anew: a source that goes
        on naming positions of the old history undoes it. A worker that notices the
        reset later than others may put the consumer back to the start, or store a
        position of the old history once more. That is of no entry of the new one: the
        next resume finds it out and replays everything. Either way events come again,
        and none is skipped.
        """
        for former in (
            self._writing.pop(consumer, None),
            self._pending.pop(consumer, None),
        ):
            if former is not None:
                former.answer(RESET)
        if len(self._pending) < PENDING_MAX:
            self._pending[consumer] = _Pending(START, Mode.REPLACE)

    async def begin(self, consumer: Consumer, position: Position) -> CommitResult:
        """Store at once where a consumer begins that has no position yet.

        Events may be delivered only after that, and from the position in the answer,
        which is another one if somebody else began first. A crash before the first
        commit then resumes there; else it would resume at the tip of that time.
        """
        write = Write(consumer, position, Mode.BEGIN)
        try:
            (answer,) = await self._ask(
                lambda connection: offsets.commit_many(connection, [write], self._ttl_s)
            )
        except StoreError:
            return UNAVAILABLE
        return _result(answer)

    async def read(self, consumer: Consumer) -> Position | None:
        """Where *consumer* goes on; None if it has never begun.

        Raises:
            StoreUnavailable: Redis does not answer, or not in time.
            StoreRefused: The key cannot be read.
        """
        newest = await self._ask(lambda connection: offsets.read(connection, consumer))
        # What waits to be stored counts: a server that came back empty has nothing.
        for pending in (self._writing.get(consumer), self._pending.get(consumer)):
            if pending is not None:
                newest = pending.over(newest)
        return newest

    async def run(self) -> None:
        """Write what was committed, again and again; never returns."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> int:
        """Write everything that is pending now; returns how many are left.

        There are some left if Redis does not answer.
        """
        async with self._turn:
            for _ in range(0, len(self._pending), WRITE_MAX):
                if not await self._write():
                    break
                self._expire()
            self._expire()
        return self.pending

    async def _write(self) -> bool:
        """Write one batch; whether Redis answered."""
        for consumer in list(islice(self._pending, WRITE_MAX)):
            self._writing[consumer] = self._pending.pop(consumer)
        batch = [Write(c, p.position, p.mode) for c, p in self._writing.items()]
        try:
            answers = await self._ask(
                lambda connection: offsets.commit_many(connection, batch, self._ttl_s)
            )
            for write, answer in zip(batch, answers, strict=True):
                written = self._writing.pop(write.consumer, None)
                if written is not None:  # It was not forgotten meanwhile.
                    written.answer(_result(answer))
        except StoreError:
            return False
        finally:
            self._put_back()
        return True

    def _put_back(self) -> None:
        """Keep what was not answered; who is stopped in between loses nothing."""
        writing, self._writing = self._writing, {}
        for consumer, former in writing.items():
            newer = self._pending.setdefault(consumer, former)
            if newer is not former:
                newer.follow(former)

    async def _ask(self, ask: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await ask(self._standing.use())
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._timeout_s} s") from None
        except StoreRefused as error:
            if error.kind == "NOSCRIPT":
                # Somebody made the server forget. A new connection loads them.
                self._standing.drop()
                raise StoreUnavailable(str(error)) from error
            raise

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._waiters and self._waiters[0].deadline <= now:
            self._waiters.popleft().answer(UNAVAILABLE)


def _result(answer: Position | StoreRefused | None) -> CommitResult:
    if answer is None:
        return TOO_MANY_CONSUMERS
    if isinstance(answer, StoreRefused):
        # Full, read-only or a key of another kind: not the client's fault.
        return UNAVAILABLE
    return CommitResult(Outcome.STORED, position=answer)
