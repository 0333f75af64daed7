"""A client that must miss nothing, workers that commit for it, and all that can fail.

The workers' commits are the real ones. Only Redis is exchangeable: in memory here, a
real server in the integration tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

from broker.config import Settings, load_settings
from broker.control.auto_commits import SLOTS, AutoCommits
from broker.control.commits import FLUSH_S, CommitResult, Commits, Outcome
from broker.errors import StoreUnavailable
from broker.model import FIRST_ID, START, Position, StreamId
from broker.store.connection import Command
from broker.store.offsets import Consumer, Mode
from tests.fakes import FakeClock
from tests.unit.control.store_models import Standing, TimedLoop, Wire

CONSUMER = Consumer("s1", "ann", "phone")


class Broken(AssertionError):
    """The promise does not hold."""


class Store(Protocol):
    """Redis, which can be set back to what it was."""

    def execute(self, command: Command) -> Any: ...

    def snapshot(self) -> dict[str, dict[str, str]]: ...

    def restore(self, snapshot: dict[str, dict[str, str]]) -> None: ...


class Rules:
    """What a worker does; the tests break it to see that they can fail."""

    def begin(self, worker: Worker, position: Position) -> Awaitable[CommitResult]:
        """Store where a new consumer begins, before anything is delivered."""
        return worker.commits.begin(CONSUMER, position)

    def forget(self, worker: Worker) -> None:
        """Begin the new history."""
        worker.commits.forget(CONSUMER)

    def handed_over(self, reading: Reading) -> Position | None:
        """What is committed of a subscription."""
        return reading.done


class Worker:
    """One process: what it has not stored dies with it."""

    def __init__(self, clock: FakeClock, store: Store, settings: Settings) -> None:
        self.store = store
        self.loop = TimedLoop(clock)
        with self.loop.running():
            self.standing = Standing()
            self.commits = Commits(settings, self.standing)
            self.auto = AutoCommits(settings, self.commits, self.standing)
        self.flushing: asyncio.Task[int] | None = None
        self.opening: list[asyncio.Task[None]] = []
        self.connect()

    @property
    def wire(self) -> Wire:
        assert self.standing.wire is not None
        return self.standing.wire

    @property
    def is_forgetting(self) -> bool:
        """Whether it still has to store that the new history begins."""
        commits = self.commits
        pending = (commits._writing.get(CONSUMER), commits._pending.get(CONSUMER))
        return any(one is not None and one.mode is Mode.REPLACE for one in pending)

    def connect(self) -> None:
        if self.standing.wire is not None:
            self.wire.lose()
        self.standing.wire = Wire(self.loop, self.store, prompt=False)
        self.loop.settle()

    def flush(self) -> None:
        if self.flushing is None or self.flushing.done():
            self.flushing = self.loop.create_task(self.commits.flush())
        self.loop.settle()

    def serve(self, answers: int) -> None:
        """Let Redis run and answer the next questions."""
        self.loop.settle()
        for _ in range(answers):
            self.wire.execute()
            self.wire.receive()
            self.loop.settle()

    def check(self) -> None:
        """Raise what was raised while a subscription was opened."""
        done, self.opening = (
            [task for task in self.opening if task.done()],
            [task for task in self.opening if not task.done()],
        )
        for task in done:
            if not task.cancelled():
                task.result()

    def kill(self) -> None:
        self.wire.lose()
        self.loop.close()


class Reading:
    """One subscription.

    Attributes:
        history: Which stream it reads; the worker may not have noticed a newer one.
        given: Up to where it was delivered.
        done: Up to where the client is done: with automatic commits all it was given.
    """

    def __init__(self, world: World, worker: Worker, *, by_hand: bool) -> None:
        self._world = world
        self.worker = worker
        self.by_hand = by_hand
        self.history = world.history
        self.given = START
        self.done: Position | None = None

    @property
    def consumer(self) -> Consumer:
        return CONSUMER

    def handed_over(self) -> Position | None:
        return self._world.rules.handed_over(self)


class World:
    """Streams, workers and one consumer, which may have two connections at a time.

    Attributes:
        histories: The ids of each stream there was; the last one is there now.
        done: What the client is done with.
        began: The first history that it reads and the id behind which it began, None
            as long as it has not.
        floor: Up to where the client was told that its commit is stored.
        is_forgotten: Redis has lost all it knew of the consumer: it is a new one.
        is_muddled: A position of an old history may have been stored since the new
            one was begun. Then commits do not move it until the next resume.
        resumes: How often it was connected to a stream that it had begun.
        repeats: How often it got events again.
    """

    def __init__(self, store: Store, rules: Rules) -> None:
        self.rules = rules
        self.histories: list[list[StreamId]] = [[]]
        self.done: set[StreamId] = set()
        self.began: tuple[int, StreamId] | None = None
        self.floor = START
        self.is_forgotten = self.is_muddled = False
        self.complaint = ""
        self.resumes = self.repeats = 0
        self._store = store
        self._clock = FakeClock()
        self._settings = load_settings({}, env_file=None)
        self._snapshots = [store.snapshot()]
        self._next_ms = 1
        self.readings: list[Reading] = []
        self.workers = [self._new_worker(), self._new_worker()]

    def _new_worker(self) -> Worker:
        return Worker(self._clock, self, self._settings)

    # The server, which remembers what it was before each write.

    def execute(self, command: Command) -> Any:
        before, stored = self._store.snapshot(), self.stored
        reply = self._store.execute(command)
        if self._store.snapshot() != before:
            self._snapshots.append(before)
        if command[0] == b"EVALSHA":
            self._note_write(stored, next(mode for mode in Mode if mode in command))
        return reply

    def _note_write(self, before: str | None, mode: Mode) -> None:
        assert self.stored is not None
        now = _read(self.stored)
        if self.is_forgotten and mode is Mode.BEGIN:
            self.began = self._place(now)
        self.is_forgotten = False
        if mode is Mode.REPLACE:
            self.is_muddled = not self._belongs(now)
            self._lower_floor()
            return
        if before is not None and now.id < _read(before).id:
            raise Broken(f"{before} was moved back to {now}")
        if self.stored != before and not self._belongs(now):
            self.is_muddled = True

    def _lower_floor(self) -> None:
        """What is stored lies further back now, and was allowed to."""
        stored = self.stored
        if stored is None:
            self.floor = START
        elif self._belongs(_read(stored)):
            self.floor = min(self.floor, _read(stored), key=lambda one: one.id)

    def snapshot(self) -> dict[str, dict[str, str]]:
        return self._store.snapshot()

    def restore(self, snapshot: dict[str, dict[str, str]]) -> None:
        self._store.restore(snapshot)

    @property
    def stored(self) -> str | None:
        return self._store.snapshot().get(CONSUMER.key, {}).get(CONSUMER.name)

    # Streams.

    @property
    def history(self) -> int:
        return len(self.histories) - 1

    @property
    def ids(self) -> list[StreamId]:
        return self.histories[-1]

    @property
    def tip(self) -> Position:
        return Position(self.ids[-1], len(self.ids)) if self.ids else START

    def publish(self, count: int) -> None:
        for _ in range(count):
            # The second number tells the histories apart: no id is used twice.
            self.ids.append((self._next_ms, self.history))
            self._next_ms += 1

    def replace_stream(self, *, lower: bool) -> None:
        """The stream is deleted and begun anew; nobody has noticed yet."""
        self.histories.append([])
        self.floor = START
        if lower:
            self._next_ms = 1

    # The client.

    def connect(self, worker: Worker, *, by_hand: bool) -> None:
        """Connect without a position; the third connection ends the first."""
        if len(self.readings) == 2:
            self.disconnect(self.readings[0])
        opening = self._open(worker, self.floor, by_hand=by_hand)
        worker.opening.append(worker.loop.create_task(opening))
        worker.loop.settle()

    def give_up(self, worker: Worker) -> None:
        """Clients go away while Redis is asked; what was asked may still be run."""
        with worker.loop.running():
            for task in worker.opening:
                task.cancel()
        worker.loop.settle()

    async def _open(self, worker: Worker, floor: Position, *, by_hand: bool) -> None:
        """What a worker does for a subscription with a consumer."""
        if worker.is_forgetting:
            floor = START
        try:
            start = await worker.commits.read(CONSUMER)
        except StoreUnavailable:
            return
        if start is None:
            result = await self.rules.begin(worker, self.tip)
            if result.outcome is not Outcome.STORED:
                return
            assert result.position is not None
            start = result.position
        self.began = self.began or self._place(start)
        reading = Reading(self, worker, by_hand=by_hand)
        self.readings.append(reading)
        if self._belongs(start):
            self._check_start(start, floor)
            reading.given = reading.done = start
        else:
            self._reset(reading)
        worker.auto.add(reading)

    def _place(self, position: Position) -> tuple[int, StreamId]:
        return self.history, position.id if self._belongs(position) else FIRST_ID

    def _belongs(self, position: Position) -> bool:
        return position.id == FIRST_ID or position.id in self.ids

    def _check_start(self, start: Position, floor: Position) -> None:
        """All that lies before its start is done, and no stored commit behind it."""
        assert self.began is not None
        history, after = self.began
        first = after if history == self.history else FIRST_ID
        owed = [one for one in self.ids if first < one and one not in self.done]
        skipped = [one for one in owed if one <= start.id]
        if skipped:
            raise Broken(f"skipped {skipped}: resumed at {start}, began {self.began}")
        if start.id < min(floor.id, self.floor.id):
            raise Broken(f"{self.floor} was stored, and it resumed at {start}")
        self.resumes += 1
        self.repeats += any(one in self.done for one in self.ids if one > start.id)

    def disconnect(self, reading: Reading) -> None:
        """The connection ends, and its worker notices."""
        self.readings.remove(reading)
        with reading.worker.loop.running():
            reading.worker.auto.remove(reading)

    def deliver(self, reading: Reading, count: int) -> None:
        if reading.history != self.history:
            return
        for one in [one for one in self.ids if one > reading.given.id][:count]:
            reading.given = Position(one, self.ids.index(one) + 1)
            if not reading.by_hand:
                reading.done = reading.given
                self.done.add(one)

    def acknowledge(self, reading: Reading, back: int, *, late: bool) -> None:
        """The client is done up to some place that it was given.

        Args:
            reading: On which connection.
            back: How many entries before the last one it was given.
            late: It is a place of the history before, which the client read until now.
        """
        if not reading.by_hand or reading.given == START:
            return
        ids = self.histories[reading.history]
        place = max(0, ids.index(reading.given.id) - back)
        position = Position(ids[place], place + 1)
        if late and reading.history:
            former = self.histories[reading.history - 1]
            allowed = [one for one in former if one <= reading.given.id]
            position = Position(allowed[-1]) if allowed else START
        else:
            self.done.update(ids[: place + 1])
            reading.done = position

        def note(result: CommitResult) -> None:
            if result.outcome is Outcome.STORED and reading.history == self.history:
                self._note_stored(position)

        with reading.worker.loop.running():
            reading.worker.commits.commit(CONSUMER, position, note)

    def _note_stored(self, position: Position) -> None:
        """The client was told, so it must be there."""
        stored = self.stored
        if stored is not None and self._belongs(_read(stored)):
            self.floor = max(self.floor, position, key=lambda one: one.id)
        elif not self.is_muddled:
            self.complaint = f"{position} is said to be stored, but {stored} is"

    def check(self) -> None:
        """Raise what was found out where it could not be raised."""
        if self.complaint:
            raise Broken(self.complaint)
        for worker in self.workers:
            worker.check()

    def notice_reset(self, reading: Reading) -> None:
        """The worker learns that the stream is another one."""
        if reading.history != self.history:
            self._reset(reading)

    def _reset(self, reading: Reading) -> None:
        reading.history = self.history
        reading.given = reading.done = START
        self.floor = START
        with reading.worker.loop.running():
            self.rules.forget(reading.worker)

    # What workers do by the clock, and what fails.

    def look(self, worker: Worker) -> None:
        with worker.loop.running():
            for slot in range(SLOTS):
                worker.auto.look(slot)

    def flush(self, worker: Worker) -> None:
        self._clock.advance(FLUSH_S)
        worker.flush()

    def kill(self, index: int) -> None:
        dead = self.workers[index]
        dead.kill()
        self.readings = [one for one in self.readings if one.worker is not dead]
        self.workers[index] = self._new_worker()

    def lose_writes(self, count: int) -> None:
        """Redis fails over to a replica that has not got the last writes."""
        for worker in self.workers:
            worker.wire.lose()
        for _ in range(min(count, len(self._snapshots) - 1)):
            self._store.restore(self._snapshots.pop())
        for worker in self.workers:
            worker.connect()
        self.is_forgotten = self.stored is None
        self.is_muddled = True
        # What is stored now may be of a former history: then everything comes again.
        self.floor = START

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()


def _read(text: str) -> Position:
    ids, _, _seq = text.partition("@")
    ms, _, n = ids.partition("-")
    return Position((int(ms), int(n)))
