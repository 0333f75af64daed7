"""Who is hung, and when the pod is ready."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from broker.process import Boot
from broker.ring import board as b
from broker.supervisor.child import ChildProcess
from broker.supervisor.health import (
    BOOT_S,
    HOPELESS_FACTOR,
    WORKER_KILL_PAUSE_S,
    Health,
)
from broker.supervisor.probe import ProbeLog
from tests.unit.supervisor.clock import FakeClock

HANG_S = 15.0
WORKERS = 3


class Child(ChildProcess):
    """A child that has a number without having a process."""

    def __init__(self, index: int, clock: FakeClock) -> None:
        role = "worker" if index else "reader"
        super().__init__(
            Boot(
                role=role,
                index=index,
                worker_count=WORKERS,
                pod="pod",
                settings={},
                ring_fd=-1,
                board_fd=-1,
                metrics_fd=-1,
                doorbell_fds=[],
            ),
            lambda: None,
            clock=clock,
        )

    @property
    def pid(self) -> int:
        return 1


class World:
    """A board with a reader and three workers under a clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.board = b.Board.create(WORKERS)
        self.probes = ProbeLog(self.clock)
        self.health = Health(self.board, self.probes, HANG_S, self.clock)
        self.children = [Child(row, self.clock) for row in range(WORKERS + 1)]

    def beat(self, *rows: int) -> None:
        for row in rows:
            self.board.set(row, b.HEARTBEAT_NS, int(self.clock.now * 1e9))

    def get_ready(self, *rows: int) -> None:
        for row in rows:
            self.board.set(row, b.STATE, b.READY)

    def run(self, seconds: float, *beating: int) -> None:
        """Let time pass second by second; only *beating* rows live."""
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.beat(*beating)
            self.health.look()

    def hung(self) -> list[str]:
        return [child.name for child in self.health.choose_hung(self.children)]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.get_ready(0, 1, 2, 3)
    made.beat(0, 1, 2, 3)
    made.board.set(0, b.REDIS_UP_EVER, 1)
    made.health.look()
    yield made
    made.board.close()
    os.close(made.board.fd)


def test_worker_without_heartbeat_is_hung_after_hang_s(world: World) -> None:
    """Not before, and nobody else."""
    world.run(HANG_S, 0, 1, 3)
    assert world.hung() == []

    world.run(1, 0, 1, 3)
    assert world.hung() == ["worker_2"]


def test_reader_is_hung_like_a_worker(world: World) -> None:
    """A reader that stands still stops the whole pod."""
    world.run(HANG_S + 1, 1, 2, 3)

    assert world.hung() == ["reader"]


def test_one_worker_at_a_time_is_killed(world: World) -> None:
    """Two of four hang: the second one waits for half a minute."""
    world.run(HANG_S + 1, 0, 1)
    assert world.hung() == ["worker_2"]
    assert world.hung() == []

    world.run(WORKER_KILL_PAUSE_S, 0, 1)
    assert world.hung() == ["worker_2"]


def test_nobody_is_killed_while_more_than_half_are_late(world: World) -> None:
    """Short processor time makes all late at once; killing would add to it."""
    world.run(HANG_S + 1, 0)

    assert world.hung() == []


def test_hopeless_workers_are_killed_even_if_all_hang(world: World) -> None:
    """A pod in which every loop stands still does not stay so for ever."""
    world.run(HANG_S * HOPELESS_FACTOR + 1, 0)

    assert world.hung() == ["worker_1"]


def test_supervisor_that_was_stopped_itself_gives_everybody_time(world: World) -> None:
    """After a pause of the machine all heartbeats are old and nobody is hung."""
    world.clock.now += 3600
    world.health.look()
    assert world.hung() == []

    world.run(HANG_S + 1, 0, 1, 2)
    assert world.hung() == ["worker_3"]


def test_process_gets_time_until_its_first_heartbeat(world: World) -> None:
    """Imports take long on a busy machine."""
    world.board.clear(1)
    world.children[1].started_at = world.clock.now
    world.run(BOOT_S, 0, 2, 3)
    assert world.hung() == []

    world.run(1, 0, 2, 3)
    assert world.hung() == ["worker_1"]


def test_pod_is_ready_when_all_beat_and_redis_was_there(world: World) -> None:
    """No reason, no refusal."""
    assert world.health.reasons() == []


def test_pod_is_not_ready_before_redis_was_there() -> None:
    """A wrong address of Redis must show."""
    world = World()
    world.beat(0, 1, 2, 3)

    assert world.health.reasons() == ["redis_never_up"]


def test_redis_going_away_later_is_no_reason(world: World) -> None:
    """All pods would leave at once; a restarted reader changes nothing about it."""
    world.board.clear(0)
    world.run(1, 0, 1, 2, 3)

    assert world.health.reasons() == []


def test_silent_processes_are_named_long_before_they_are_killed(world: World) -> None:
    """The load balancer hears of it within seconds."""
    world.run(6, 1, 3)

    assert world.health.reasons() == ["reader_silent", "worker_2_silent"]


def test_quick_restart_of_a_worker_is_no_reason(world: World) -> None:
    """Its clients have gone elsewhere already, and the others serve."""
    world.board.clear(1)
    world.run(2, 0, 2, 3)
    assert world.health.reasons() == []

    world.get_ready(1)
    world.run(9, 0, 1, 2, 3)
    assert world.health.reasons() == []


def test_worker_that_beats_and_never_gets_ready_is_named(world: World) -> None:
    """A loop that turns is not yet a worker that serves."""
    world.board.set(3, b.STATE, b.STARTING)
    world.run(6, 0, 1, 2, 3)

    assert world.health.reasons() == ["worker_3_silent"]


def test_one_deaf_worker_of_three_is_a_reason(world: World) -> None:
    """Its loop turns and its connections are open, but nothing arrives."""
    for ms in range(1000, 9000, 1000):
        world.probes.note(ms)
        world.board.set(1, b.PROBE_MS, ms)
        world.board.set(3, b.PROBE_MS, ms)

    assert world.health.reasons() == ["worker_2_deaf"]
