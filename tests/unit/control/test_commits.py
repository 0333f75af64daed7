"""Commits of one worker: batches, answers, and what an outage does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import pytest
from hiredis import ReplyError

from broker.config import Settings, load_settings
from broker.control import commits as module
from broker.control.auto_commits import SLOTS, AutoCommits
from broker.control.commits import CommitResult, Commits, Outcome
from broker.errors import StoreUnavailable
from broker.model import START, Position
from broker.store.offsets import CONSUMERS_MAX, Consumer
from tests.fakes import FakeClock
from tests.unit.control.store_models import ModelOffsets, Standing, TimedLoop, Wire

T = TypeVar("T")

ANN = Consumer("s1", "ann", "phone")
BOB = Consumer("s1", "bob", "phone")
UNAVAILABLE = CommitResult(Outcome.UNAVAILABLE, "unavailable")


def at(ms: int, seq: int | None = None) -> Position:
    return Position((ms, 0), seq)


def stored(ms: int) -> CommitResult:
    return CommitResult(Outcome.STORED, position=at(ms))


class Reading:
    """A source whose place a test sets."""

    def __init__(self, consumer: Consumer, position: Position | None) -> None:
        self.consumer = consumer
        self.position = position

    def handed_over(self) -> Position | None:
        return self.position


class Rig:
    """Commits on a loop and a server that a test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = TimedLoop(self.clock)
        self.server = ModelOffsets()
        self.settings: Settings = load_settings({}, env_file=None)
        with self.loop.running():
            self.standing = Standing(Wire(self.loop, self.server))
            self.commits = Commits(self.settings, self.standing)
            self.auto = AutoCommits(self.settings, self.commits, self.standing)
        self.answers: list[tuple[int, CommitResult]] = []

    @property
    def wire(self) -> Wire:
        assert self.standing.wire is not None
        return self.standing.wire

    def commit(self, consumer: Consumer, *places: int) -> None:
        with self.loop.running():
            for ms in places:
                self.commits.commit(consumer, at(ms), self.taking(ms))

    def taking(self, ms: int) -> Any:
        return lambda result: self.answers.append((ms, result))

    def start(self, work: Awaitable[T]) -> asyncio.Future[T]:
        task: asyncio.Future[T] = self.loop.create_task(work)
        self.loop.settle()
        return task

    def go(self, work: Awaitable[T]) -> None:
        """Start what nobody waits for."""
        self.start(work).add_done_callback(lambda _: None)

    def finish(self, work: Awaitable[T]) -> T:
        return self.start(work).result()

    def flush(self) -> int:
        return self.finish(self.commits.flush())

    def look(self) -> None:
        with self.loop.running():
            for slot in range(SLOTS):
                self.auto.look(slot)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.loop.settle()

    def reconnect(self) -> None:
        """The connection is lost, and there is another one at once."""
        if self.standing.wire is not None:
            self.wire.lose()
        self.standing.wire = Wire(self.loop, self.server)

    def go_away(self) -> None:
        self.wire.lose()
        self.standing.wire = None

    def at(self, consumer: Consumer) -> str | None:
        return self.server.stored(consumer.key, consumer.name)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.loop.close()


def test_the_highest_of_a_batch_is_written_once(rig: Rig) -> None:
    """Who committed less is answered as well: all of that is done."""
    rig.commit(ANN, 3, 5, 4)
    rig.commit(BOB, 2)
    assert rig.flush() == 0
    assert (rig.at(ANN), rig.at(BOB)) == ("5-0", "2-0")
    assert rig.server.calls == 2
    done = [(3, stored(5)), (5, stored(5)), (4, stored(5)), (2, stored(2))]
    assert rig.answers == done


def test_a_lower_commit_is_answered_with_what_is_stored(rig: Rig) -> None:
    """Late commits move nothing back, and are no error."""
    rig.commit(ANN, 9)
    rig.flush()
    rig.commit(ANN, 4)
    rig.flush()
    assert rig.at(ANN) == "9-0"
    assert rig.answers[-1] == (4, stored(9))


def test_an_ordinal_is_added_within_a_batch(rig: Rig) -> None:
    """The same place with its number says more."""
    with rig.loop.running():
        rig.commits.commit(ANN, at(3))
        rig.commits.commit(ANN, at(3, 7))
        rig.commits.commit(ANN, at(3))
    rig.flush()
    assert rig.at(ANN) == "3-0@7"


def test_a_write_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush writes everything, a bounded number at a time."""
    monkeypatch.setattr(module, "WRITE_MAX", 2)
    rig.wire.prompt = False
    everybody = [Consumer("s1", f"u{n}", "c") for n in range(5)]
    for consumer in everybody:
        rig.commit(consumer, 1)
    task = rig.start(rig.commits.flush())
    counts = []
    while not task.done():
        rig.wire.execute()
        rig.wire.receive()
        counts.append(rig.server.calls)
        rig.loop.settle()
    assert counts == [2, 4, 5]
    assert len(rig.answers) == 5


def test_one_consumer_too_many_is_refused(rig: Rig) -> None:
    """Others of the same batch are stored."""
    for n in range(CONSUMERS_MAX):
        rig.commit(Consumer("s1", "ann", f"c{n}"), 1)
    rig.flush()
    rig.answers.clear()
    rig.commit(ANN, 5)
    rig.commit(BOB, 6)
    rig.flush()
    refused = CommitResult(Outcome.REFUSED, "too_many_consumers")
    assert rig.answers == [(5, refused), (6, stored(6))]


def test_a_short_outage_is_not_noticed(rig: Rig) -> None:
    """The commit waits for the next connection, and is answered then."""
    rig.go_away()
    rig.commit(ANN, 5)
    assert rig.flush() == 1
    assert rig.answers == []
    rig.reconnect()
    assert rig.flush() == 0
    assert rig.answers == [(5, stored(5))]


def test_a_long_outage_is_answered_in_time_and_the_position_kept(rig: Rig) -> None:
    """Nobody waits for ever, and Redis gets it when it is back."""
    rig.go_away()
    rig.commit(ANN, 5)
    rig.wait(rig.settings.command_timeout_s)
    rig.flush()
    assert rig.answers == [(5, UNAVAILABLE)]
    rig.commit(ANN, 4)
    rig.reconnect()
    rig.flush()
    assert rig.at(ANN) == "5-0"
    assert rig.answers == [(5, UNAVAILABLE), (4, stored(5))]


def test_a_server_that_hangs_is_answered_in_time(rig: Rig) -> None:
    """The write that is under way ends with the timeout, and is repeated."""
    rig.wire.prompt = False
    rig.commit(ANN, 5)
    task = rig.start(rig.commits.flush())
    rig.wait(rig.settings.command_timeout_s)
    assert task.result() == 1
    assert rig.answers == [(5, UNAVAILABLE)]
    rig.reconnect()
    rig.flush()
    assert rig.at(ANN) == "5-0"


def test_a_server_that_is_not_ready_is_asked_again(rig: Rig) -> None:
    """BUSY and the like are no refusal."""
    rig.server.refusal = ReplyError("BUSY a script runs")
    rig.commit(ANN, 5)
    assert rig.flush() == 1
    rig.server.refusal = None
    rig.flush()
    assert rig.answers == [(5, stored(5))]


def test_a_key_that_cannot_be_written_is_not_tried_for_ever(rig: Rig) -> None:
    """The client may try again; what is pending does not pile up."""
    rig.server.refusal = ReplyError("WRONGTYPE no hash")
    rig.commit(ANN, 5)
    assert rig.flush() == 0
    assert rig.answers == [(5, UNAVAILABLE)]


def test_a_server_that_forgot_the_script_gets_a_new_connection(rig: Rig) -> None:
    """Somebody ran SCRIPT FLUSH: a new connection loads it, nothing is lost."""
    rig.server.refusal = ReplyError("NOSCRIPT No matching script")
    rig.commit(ANN, 5)
    assert rig.flush() == 1
    assert rig.standing.drops == 1


def test_what_came_during_a_lost_write_is_kept_with_it(rig: Rig) -> None:
    """The higher one is written, and both are answered."""
    rig.wire.prompt = False
    rig.commit(ANN, 5)
    task = rig.start(rig.commits.flush())
    rig.commit(ANN, 4)
    rig.reconnect()
    rig.loop.settle()
    assert task.result() == 1
    rig.flush()
    assert rig.at(ANN) == "5-0"
    assert rig.answers == [(5, stored(5)), (4, stored(5))]


def test_a_flush_that_is_cancelled_loses_nothing(rig: Rig) -> None:
    """The loop is stopped at shutdown, and the last flush finds everything."""
    rig.wire.prompt = False
    rig.commit(ANN, 5)
    task = rig.start(rig.commits.flush())
    with rig.loop.running():
        task.cancel()
    rig.loop.settle()
    assert task.cancelled()
    rig.wire.prompt = True
    assert rig.flush() == 0
    assert rig.answers == [(5, stored(5))]


def test_what_is_pending_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis is away, a new consumer beyond the bound is told at once."""
    monkeypatch.setattr(module, "PENDING_MAX", 2)
    rig.go_away()
    rig.commit(ANN, 1)
    rig.commit(ANN, 2)
    rig.commit(ANN, 3)
    rig.commit(BOB, 1)
    third = Consumer("s2", "", "c")
    rig.commit(third, 1)
    assert rig.answers == [(3, UNAVAILABLE), (1, UNAVAILABLE), (1, UNAVAILABLE)]
    rig.reconnect()
    rig.flush()
    assert (rig.at(ANN), rig.at(BOB), rig.at(third)) == ("3-0", "1-0", None)


def test_run_flushes_again_and_again(rig: Rig) -> None:
    """Whatever is committed is stored a moment later."""
    rig.go(rig.commits.run())
    rig.commit(ANN, 5)
    assert rig.at(ANN) is None
    rig.wait(module.FLUSH_S)
    assert rig.at(ANN) == "5-0"
    rig.commit(ANN, 6)
    rig.wait(module.FLUSH_S)
    assert rig.at(ANN) == "6-0"


def test_begin_stores_the_first_position_only(rig: Rig) -> None:
    """Who begins second is told where the first one did."""
    assert rig.finish(rig.commits.begin(ANN, at(7))) == stored(7)
    assert rig.finish(rig.commits.begin(ANN, at(9))) == stored(7)
    assert rig.at(ANN) == "7-0"


def test_begin_without_redis_is_unavailable(rig: Rig) -> None:
    """At once if it is away, and in time if it hangs."""
    rig.wire.prompt = False
    task = rig.start(rig.commits.begin(ANN, at(7)))
    rig.wait(rig.settings.command_timeout_s)
    assert task.result() == UNAVAILABLE
    rig.go_away()
    assert rig.finish(rig.commits.begin(ANN, at(7))) == UNAVAILABLE


def test_read_gives_what_is_stored(rig: Rig) -> None:
    """Nothing, before the consumer has begun."""
    assert rig.finish(rig.commits.read(ANN)) is None
    rig.commit(ANN, 5)
    rig.flush()
    assert rig.finish(rig.commits.read(ANN)) == at(5)


def test_read_without_redis_raises(rig: Rig) -> None:
    """Nobody may take silence for a consumer that has never begun."""
    rig.go_away()
    with pytest.raises(StoreUnavailable):
        rig.finish(rig.commits.read(ANN))
    rig.reconnect()
    rig.wire.prompt = False
    task = rig.start(rig.commits.read(ANN))
    rig.wait(rig.settings.command_timeout_s)
    with pytest.raises(StoreUnavailable):
        task.result()


def test_read_knows_what_is_not_stored_yet(rig: Rig) -> None:
    """A server that came back empty does not make a consumer a new one."""
    rig.commit(ANN, 5)
    assert rig.finish(rig.commits.read(ANN)) == at(5)
    rig.wire.prompt = False
    rig.go(rig.commits.flush())
    task = rig.start(rig.commits.read(ANN))
    rig.wire.execute()
    rig.server.restore({})
    rig.wire.execute()
    rig.wire._replies.rotate(1)
    rig.wire.receive()
    rig.loop.settle()
    assert task.result() == at(5)


def test_forget_starts_the_new_history(rig: Rig) -> None:
    """Lower ids count again, and what waited of the old history is dropped."""
    rig.commit(ANN, 50)
    rig.flush()
    rig.commit(ANN, 60)
    with rig.loop.running():
        rig.commits.forget(ANN)
    assert rig.answers[-1] == (60, CommitResult(Outcome.REFUSED, "reset"))
    assert rig.finish(rig.commits.read(ANN)) == START
    rig.flush()
    assert rig.at(ANN) == "0-0@0"
    rig.commit(ANN, 3)
    rig.flush()
    assert rig.at(ANN) == "3-0"


def test_forget_and_the_next_commit_are_one_write(rig: Rig) -> None:
    """It is stored although what is stored is higher."""
    rig.commit(ANN, 50)
    rig.flush()
    with rig.loop.running():
        rig.commits.forget(ANN)
    rig.commit(ANN, 3)
    rig.flush()
    assert rig.at(ANN) == "3-0"
    assert rig.server.calls == 2


def test_forget_during_a_write_does_not_lose_to_it(rig: Rig) -> None:
    """The write was sent before, and whether it fails or not, the start is stored."""
    rig.wire.prompt = False
    rig.commit(ANN, 50)
    rig.go(rig.commits.flush())
    with rig.loop.running():
        rig.commits.forget(ANN)
    assert rig.answers == [(50, CommitResult(Outcome.REFUSED, "reset"))]
    rig.reconnect()
    rig.loop.settle()
    rig.flush()
    assert rig.at(ANN) == "0-0@0"


def test_forget_survives_a_lost_write(rig: Rig) -> None:
    """It is repeated together with what was committed since."""
    rig.commit(ANN, 50)
    rig.flush()
    rig.wire.prompt = False
    with rig.loop.running():
        rig.commits.forget(ANN)
    rig.go(rig.commits.flush())
    rig.commit(ANN, 3)
    rig.reconnect()
    rig.loop.settle()
    rig.flush()
    assert rig.at(ANN) == "3-0"


def test_a_source_is_committed_when_it_has_moved(rig: Rig) -> None:
    """One that stands still costs nothing."""
    source = Reading(ANN, at(3))
    rig.auto.add(source)
    rig.look()
    rig.flush()
    assert rig.at(ANN) == "3-0"
    rig.look()
    assert rig.commits.pending == 0
    source.position = at(4)
    rig.look()
    rig.flush()
    assert rig.at(ANN) == "4-0"


def test_a_source_that_does_not_know_is_left_alone(rig: Rig) -> None:
    """It is asked again the next time."""
    source = Reading(ANN, None)
    rig.auto.add(source)
    rig.look()
    assert rig.commits.pending == 0


def test_a_source_that_could_not_be_stored_is_committed_again(rig: Rig) -> None:
    """Until it is stored, it counts as moved."""
    rig.server.refusal = ReplyError("OOM command not allowed")
    rig.auto.add(Reading(ANN, at(3)))
    rig.look()
    rig.flush()
    rig.server.refusal = None
    rig.look()
    rig.flush()
    assert rig.at(ANN) == "3-0"


def test_all_sources_are_committed_again_after_a_reconnect(rig: Rig) -> None:
    """Redis came back without what it had, and nobody moved."""
    rig.auto.add(Reading(ANN, at(3)))
    rig.look()
    rig.flush()
    rig.server.restore({})
    rig.reconnect()
    rig.look()
    rig.flush()
    assert rig.at(ANN) == "3-0"


def test_a_source_that_stands_still_does_not_expire(rig: Rig) -> None:
    """It is committed again before its time to live has passed."""
    rig.auto.add(Reading(ANN, at(3)))
    rig.look()
    rig.flush()
    rig.wait(rig.settings.offset_ttl_s / 2)
    rig.look()
    assert rig.commits.pending == 1


def test_a_source_that_goes_is_asked_a_last_time(rig: Rig) -> None:
    """What was handed over since the last look is committed."""
    source = Reading(ANN, at(3))
    rig.auto.add(source)
    rig.look()
    rig.flush()
    source.position = at(8)
    with rig.loop.running():
        rig.auto.remove(source)
        rig.auto.remove(source)
    rig.flush()
    assert rig.at(ANN) == "8-0"
    source.position = at(9)
    rig.look()
    assert rig.commits.pending == 0


def test_run_looks_at_every_source_each_second(rig: Rig) -> None:
    """Whatever its slot is."""
    sources = [Reading(Consumer("s1", f"u{n}", "c"), at(1)) for n in range(50)]
    for source in sources:
        rig.auto.add(source)
    rig.go(rig.auto.run())
    for _ in range(SLOTS):
        rig.wait(0.1001)
    assert rig.commits.pending == 50
