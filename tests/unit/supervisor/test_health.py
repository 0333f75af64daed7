"""Who is hung, and when the pod is ready."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from broker.process import Boot
from broker.ring import board as b
from broker.supervisor.child import ChildProcess
from broker.supervisor.health import (
    BLAME_AGAIN_S,
    BOOT_S,
    DEAD_S,
    HOPELESS_FACTOR,
    WORKER_KILL_PAUSE_S,
    Health,
)
from broker.supervisor.probe import RETURN_S, ProbeLog
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


def test_pod_waits_for_each_process_and_for_redis_once() -> None:
    """What is missing is named; what was there once is not waited for again."""
    world = World()
    world.get_ready(0, 2)
    world.health.look()
    assert world.health.starting() == [
        "worker_1_starting",
        "worker_3_starting",
        "redis_never_up",
    ]
    world.get_ready(1, 3)
    world.board.set(0, b.REDIS_UP_EVER, 1)
    world.health.look()
    assert world.health.starting() == []

    world.board.clear(1)
    world.health.look()
    assert world.health.starting() == []


def test_who_cannot_be_started_for_minutes_is_dead(world: World) -> None:
    """Until then it is started again and again."""
    world.run(DEAD_S - 1, 0, 1, 3)
    assert world.health.dead() == []

    world.run(1, 0, 1, 3)
    assert world.health.dead() == ["worker_2_dead"]


def test_redis_and_deafness_are_nothing_that_a_new_pod_mends(world: World) -> None:
    """Restarting all pods for a fault of Redis would make an outage of it."""
    world.board.set(0, b.REDIS_UP, 0)
    sound(world, 20)
    world.run(DEAD_S + 1, 0, 1, 2, 3)

    assert world.health.dead() == []


def test_supervisor_that_was_stopped_itself_is_not_dead(world: World) -> None:
    """After a pause of the machine all heartbeats are old."""
    world.clock.now += 10 * DEAD_S
    world.health.look()

    assert world.health.dead() == []


def sound(world: World, count: int, *hearing: int) -> None:
    """Probes that *hearing* rows take, one each second."""
    for _ in range(count):
        world.clock.now += 1
        ms = int(world.clock.now * 1000)
        world.probes.note(ms)
        for row in hearing:
            world.board.set(row, b.PROBE_MS, ms)
        world.beat(0, 1, 2, 3)
        world.health.look()


@pytest.fixture
def hearing(world: World) -> World:
    """A pod that has been connected to Redis for a while."""
    world.board.set(0, b.REDIS_UP, 1)
    world.run(RETURN_S, 0, 1, 2, 3)
    return world


def deaf(world: World) -> list[str]:
    """Who is to be killed for it; a new process takes the place at once."""
    chosen = world.health.choose_deaf(world.children)
    for child in chosen:
        world.health.expect(child.index)
    return [child.name for child in chosen]


def test_deaf_worker_is_replaced_once(hearing: World) -> None:
    """The new one gets as long as the first one had."""
    sound(hearing, 6, 1, 3)
    assert deaf(hearing) == []

    sound(hearing, 1, 1, 3)
    assert deaf(hearing) == ["worker_2"]
    sound(hearing, 6, 1, 3)
    assert deaf(hearing) == []


def test_deaf_worker_is_named_until_its_successor_has_heard_a_probe(
    hearing: World,
) -> None:
    """A new process is no proof; while Redis is away there can be none."""
    sound(hearing, 7, 1, 3)
    assert deaf(hearing) == ["worker_2"]
    sound(hearing, 1, 1, 3)
    assert hearing.health.reasons() == ["worker_2_deaf"]

    hearing.probes.note_failure()
    assert hearing.health.reasons() == []
    sound(hearing, 70, 1, 3)
    assert hearing.health.reasons() == ["worker_2_deaf"]
    sound(hearing, 1, 1, 2, 3)
    assert hearing.health.reasons() == []


def test_one_deaf_worker_at_a_time_is_replaced(hearing: World) -> None:
    """The clients of half a pod are enough at once."""
    sound(hearing, 7, 1)
    assert deaf(hearing) == ["worker_2"]
    assert deaf(hearing) == []

    sound(hearing, int(WORKER_KILL_PAUSE_S), 1, 2)
    assert deaf(hearing) == ["worker_3"]


def test_the_reader_is_to_blame_if_all_are_deaf(hearing: World) -> None:
    """It stayed with a server that is no primary any more, say."""
    sound(hearing, 7)
    assert deaf(hearing) == ["reader"]

    sound(hearing, 6)
    assert deaf(hearing) == []
    assert len(hearing.health.reasons()) == WORKERS
    sound(hearing, 1, 1, 2, 3)
    assert hearing.health.reasons() == []


def test_workers_are_replaced_if_a_new_reader_changes_nothing(hearing: World) -> None:
    """Then it was not the reader; some minutes later it may be it again."""
    sound(hearing, 7)
    assert deaf(hearing) == ["reader"]

    sound(hearing, int(RETURN_S))
    assert deaf(hearing) == ["worker_1"]
    sound(hearing, int(BLAME_AGAIN_S))
    assert deaf(hearing) == ["reader"]


def test_the_reader_is_blamed_again_if_that_helped_before(hearing: World) -> None:
    """It is the same fault once more, and the same remedy."""
    sound(hearing, 7)
    assert deaf(hearing) == ["reader"]

    sound(hearing, int(RETURN_S), 1, 2, 3)
    sound(hearing, 7)
    assert deaf(hearing) == ["reader"]


def test_nobody_is_replaced_while_a_new_reader_takes_up_its_sessions(
    hearing: World,
) -> None:
    """There may be a hundred thousand of them, and the probe is one."""
    hearing.health.expect(0)
    sound(hearing, int(RETURN_S) - 1)
    assert deaf(hearing) == []

    sound(hearing, 1)
    assert deaf(hearing) == ["reader"]


def test_nobody_is_replaced_while_the_reader_knows_that_redis_is_away(
    hearing: World,
) -> None:
    """It is connecting again already, and a new one could do no more."""
    hearing.board.set(0, b.REDIS_UP, 0)
    sound(hearing, 7)

    assert deaf(hearing) == []


def test_a_reader_that_comes_back_gets_time_to_read_again(hearing: World) -> None:
    """Its connection alone was lost, and Redis went on taking probes."""
    hearing.board.set(0, b.REDIS_UP, 0)
    sound(hearing, 8)
    hearing.board.set(0, b.REDIS_UP, 1)
    sound(hearing, int(RETURN_S) - 1)
    assert deaf(hearing) == []
    sound(hearing, 2)
    assert deaf(hearing) == ["reader"]


def test_a_process_that_is_gone_is_not_deaf(hearing: World) -> None:
    """It is missing, which is another reason."""
    sound(hearing, 6, 1, 2, 3)
    hearing.board.clear(2)
    sound(hearing, 1, 1, 3)
    hearing.board.clear(2)
    assert not hearing.health.is_deaf(2)


def test_age_of_the_last_probe_is_counted_here(hearing: World) -> None:
    """By no clock but that of this machine: Redis' may be wrong."""
    sound(hearing, 3, 2)
    hearing.run(5, 0, 1, 2, 3)
    assert hearing.health.probe_age_s(2) == 5

    hearing.health.expect(2)
    assert hearing.health.probe_age_s(2) == 0
