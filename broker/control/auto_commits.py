"""Commits what was handed over, without a word from the client.

Handed over is not received: what lies in the buffers of a socket that dies was
committed and does not come again. Who cannot afford that acknowledges by hand.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Protocol

from broker.config import Settings
from broker.control.commits import CommitResult, Commits, Outcome
from broker.model import Position
from broker.store.connection import Connection
from broker.store.offsets import Consumer
from broker.store.standing import StandingConnection

LOOK_S = 1.0
SLOTS = 10
"""A part of the sources is asked at a time: no turn of the loop takes long."""


class Source(Protocol):
    """A subscription of a consumer, as long as it is open."""

    @property
    def consumer(self) -> Consumer:
        """Whose position it is."""

    def handed_over(self) -> Position | None:
        """Up to where the consumer is done; None if that is not known just now.

        With automatic commits, what has been handed to the socket; with commits by
        hand, what was acknowledged last.
        """


class _Known:
    """What is stored of a source, as far as we know."""

    __slots__ = ("epoch", "position", "until")

    def __init__(self) -> None:
        self.position: Position | None = None
        self.epoch = 0
        self.until = 0.0

    def is_stored(self, position: Position, epoch: int, now: float) -> bool:
        """Whether there is nothing to do about *position*."""
        return position == self.position and epoch == self.epoch and now < self.until


class AutoCommits:
    """Asks each source once a second, and commits what has moved.

    What has not moved is committed again after a reconnect, since Redis may have lost
    it, and long before its time to live has passed.

    Args:
        settings: How long positions are kept.
        commits: Where to.
        standing: The connection that they are written on.
    """

    def __init__(
        self, settings: Settings, commits: Commits, standing: StandingConnection
    ) -> None:
        self._commits = commits
        self._standing = standing
        self._connection: Connection | None = None
        self._epoch = 0
        self._refresh_s = settings.offset_ttl_s / 3
        self._slots: list[dict[Source, _Known]] = [{} for _ in range(SLOTS)]
        self._slot_of: dict[Source, int] = {}

    def add(self, source: Source) -> None:
        """Ask it from now on."""
        slot = random.randrange(SLOTS)  # noqa: S311 - spreading load
        self._slot_of[source] = slot
        self._slots[slot][source] = _Known()

    def remove(self, source: Source) -> None:
        """Ask it a last time; one that was not added is nothing to do."""
        slot = self._slot_of.pop(source, None)
        if slot is not None:
            known = self._slots[slot].pop(source)
            self._ask(source, known)

    async def run(self) -> None:
        """Go around all sources each second; never returns."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for slot in range(SLOTS):
                due += LOOK_S / SLOTS
                await asyncio.sleep(max(0.0, due - loop.time()))
                self.look(slot)

    def look(self, slot: int) -> None:
        """Commit what has moved of the sources in one slot."""
        self._notice_reconnect()
        for source, known in self._slots[slot].items():
            self._ask(source, known)

    def _ask(self, source: Source, known: _Known) -> None:
        position = source.handed_over()
        now = asyncio.get_running_loop().time()
        if position is None or known.is_stored(position, self._epoch, now):
            return
        done = partial(self._note, known, position, self._epoch)
        self._commits.commit(source.consumer, position, done)

    def _notice_reconnect(self) -> None:
        if self._standing.up and self._standing.use() is not self._connection:
            self._connection = self._standing.use()
            self._epoch += 1

    def _note(
        self, known: _Known, position: Position, epoch: int, result: CommitResult
    ) -> None:
        if result.outcome is Outcome.STORED:
            known.position = position
            known.epoch = epoch
            known.until = asyncio.get_running_loop().time() + self._refresh_s
