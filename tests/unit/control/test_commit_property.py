"""Committed positions under any order of connects, acks, crashes and lost writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from broker.control.commits import CommitResult, Outcome
from broker.model import Position
from broker.store.offsets import Mode
from tests.harness.patience import examples
from tests.unit.control.commit_world import (
    CONSUMER,
    Broken,
    Reading,
    Rules,
    Store,
    Worker,
    World,
)
from tests.unit.control.store_models import ModelOffsets

WORKERS = st.integers(0, 1)
COUNTS = st.integers(1, 4)

MANY = settings(
    max_examples=examples(400),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
UNTIL_BROKEN = settings(
    MANY, max_examples=3000, phases=[Phase.generate], derandomize=True
)


class Schedule(RuleBasedStateMachine):
    """Everything that can happen, in any order.

    A step that is impossible now does nothing.
    """

    def __init__(self, new_store: Callable[[], Store], rules: Rules) -> None:
        super().__init__()
        self.world = World(new_store(), rules)

    def _reading(self, place: int) -> Reading | None:
        readings = self.world.readings
        return readings[place] if place < len(readings) else None

    def _worker(self, place: int) -> Worker:
        return self.world.workers[place]

    @rule(count=COUNTS)
    def publish(self, count: int) -> None:
        self.world.publish(count)

    @rule(place=WORKERS, by_hand=st.booleans(), answers=st.integers(0, 2))
    def connect(self, place: int, by_hand: bool, answers: int) -> None:
        self.world.connect(self._worker(place), by_hand=by_hand)
        self._worker(place).serve(answers)

    @rule(place=WORKERS, count=COUNTS)
    def deliver(self, place: int, count: int) -> None:
        reading = self._reading(place)
        if reading is not None:
            self.world.deliver(reading, count)

    @rule(place=WORKERS, back=st.integers(0, 3), late=st.booleans())
    def acknowledge(self, place: int, back: int, late: bool) -> None:
        reading = self._reading(place)
        if reading is not None:
            self.world.acknowledge(reading, back, late=late)

    @rule(place=WORKERS, count=COUNTS, back=st.integers(0, 1))
    def work(self, place: int, count: int, back: int) -> None:
        """What happens most of the time, so that the schedules get somewhere."""
        self.world.publish(1)
        reading = self._reading(place)
        if reading is not None:
            self.world.notice_reset(reading)
            self.world.deliver(reading, count)
            self.world.acknowledge(reading, back, late=False)
            self.world.flush(reading.worker)
            reading.worker.serve(9)

    @rule(place=WORKERS)
    def notice_reset(self, place: int) -> None:
        reading = self._reading(place)
        if reading is not None:
            self.world.notice_reset(reading)

    @rule(place=WORKERS)
    def look(self, place: int) -> None:
        self.world.look(self._worker(place))

    @rule(place=WORKERS)
    def flush(self, place: int) -> None:
        self.world.flush(self._worker(place))

    @rule(place=WORKERS)
    def write(self, place: int) -> None:
        self.world.flush(self._worker(place))
        self._worker(place).serve(9)

    @rule(place=WORKERS, steps=st.lists(st.booleans(), min_size=1, max_size=4))
    def serve(self, place: int, steps: list[bool]) -> None:
        worker = self._worker(place)
        for is_reply in steps:
            if is_reply:
                worker.wire.receive()
                worker.loop.settle()
            else:
                worker.wire.execute()

    @rule(place=WORKERS, leave=st.booleans())
    def go(self, place: int, leave: bool) -> None:
        reading = self._reading(place)
        if reading is not None and leave:
            self.world.disconnect(reading)
        elif not leave:
            self.world.give_up(self._worker(place))

    @rule(
        fault=st.sampled_from(
            ["kill", "cut", "lose writes", "lower stream", "higher stream"]
        ),
        place=WORKERS,
        count=COUNTS,
    )
    def fail(self, fault: str, place: int, count: int) -> None:
        match fault:
            case "kill":
                self.world.kill(place)
            case "cut":
                self._worker(place).connect()
            case "lose writes":
                self.world.lose_writes(count)
            case _:
                self.world.replace_stream(lower=fault == "lower stream")

    @invariant()
    def nothing_is_skipped(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        event(f"resumed: {self.world.resumes > 0}, again: {self.world.repeats > 0}")
        self.world.close()


def run(new_store: Callable[[], Store], rules: Rules, how: settings = MANY) -> None:
    """Run schedules until one breaks the promise."""

    class Bound(Schedule):
        def __init__(self) -> None:
            super().__init__(new_store, rules)

    run_state_machine_as_test(Bound, settings=how)


def test_no_event_is_skipped_whatever_happens() -> None:
    """And events come again only behind the last commit that was stored."""
    run(ModelOffsets, Rules())


class CommitsTheUndelivered(Rules):
    """A subscription names the tip instead of what it was given."""

    def handed_over(self, reading: Reading) -> Position | None:
        return reading._world.tip


class StoresNoBeginning(Rules):
    """The position of a new consumer is stored with its first commit."""

    async def begin(self, worker: Worker, position: Position) -> CommitResult:
        return CommitResult(Outcome.STORED, position=position)


class DeletesOnReset(Rules):
    """After a reset the consumer has no position instead of the start."""

    def forget(self, worker: Worker) -> None:
        worker.commits.forget(CONSUMER)
        pending = worker.commits._pending.pop(CONSUMER)
        pending.answer(CommitResult(Outcome.STORED))
        snapshot = worker.store.snapshot()
        snapshot.get(CONSUMER.key, {}).pop(CONSUMER.name, None)
        worker.store.restore(snapshot)


class ForgetsNothing(Rules):
    """A reset leaves what is stored as it is."""

    def forget(self, worker: Worker) -> None:
        pass


class MovesBack(ModelOffsets):
    """Stores whatever comes."""

    def execute(self, command: Any) -> Any:
        words = [
            Mode.REPLACE.value if word == Mode.FORWARD.value else word
            for word in command
        ]
        return super().execute(tuple(words))


class BeginsAgain(ModelOffsets):
    """Stores the beginning although there is a position."""

    def execute(self, command: Any) -> Any:
        words = [
            Mode.REPLACE.value if word == Mode.BEGIN.value else word for word in command
        ]
        return super().execute(tuple(words))


@pytest.mark.parametrize(
    ("store", "rules"),
    [
        (ModelOffsets, CommitsTheUndelivered()),
        (ModelOffsets, StoresNoBeginning()),
        (ModelOffsets, DeletesOnReset()),
        (ModelOffsets, ForgetsNothing()),
        (MovesBack, Rules()),
        (BeginsAgain, Rules()),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_broken_rules_are_found_out(store: Callable[[], Store], rules: Rules) -> None:
    """The schedules are hard enough: each rule that is left out is missed."""
    with pytest.raises(Broken):
        run(store, rules, UNTIL_BROKEN)
