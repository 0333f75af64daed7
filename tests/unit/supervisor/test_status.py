"""What the pod says about itself, judged from the board under a clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.config import Settings
from broker.ring import board as b
from broker.supervisor.child import ChildProcess
from broker.supervisor.health import DEAD_S, Health
from broker.supervisor.probe import ProbeLog
from broker.supervisor.resources import Resources
from broker.supervisor.status import PodStatus
from tests.unit.supervisor.clock import FakeClock

SETTINGS: dict[str, object] = {"port": 0, "workers": 2, "max_connections": 1000}


class World:
    """A pod of a reader and two workers without any process."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.resources = Resources(Settings.model_validate(SETTINGS))
        self.board = self.resources.board
        health = Health(self.board, ProbeLog(self.clock), 15.0, self.clock)
        children = [
            ChildProcess(self.resources.boot(row), lambda: None, clock=self.clock)
            for row in range(3)
        ]
        self.health = health
        self.status = PodStatus(self.resources, health, children)

    def get_ready(self) -> None:
        """All that the pod waits for is there."""
        self.board.set(0, b.REDIS_UP_EVER, 1)
        for row in range(3):
            self.board.set(row, b.STATE, b.READY)
            self.board.set(row, b.HEARTBEAT_NS, int(self.clock.now * 1e9))
        self.health.look()

    def say(self, state: int) -> None:
        self.board.set(self.resources.supervisor_row, b.STATE, state)

    def wait(self, seconds: float) -> None:
        """Let time pass in which nobody beats."""
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.health.look()

    def metric(self, name: str, **labels: str) -> float:
        text = self.status.metrics().decode()
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        )


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.resources.close()


def test_pod_has_started_when_it_says_that_it_is_ready(world: World) -> None:
    """Not by bits: all at the same time, and then for ever."""
    assert "worker_1_starting" in world.status.not_started()
    world.get_ready()
    assert world.status.not_started() == ["starting"]
    world.say(b.READY)
    assert world.status.not_started() == []
    world.wait(10)
    assert world.status.not_started() == []


def test_pod_whose_processes_cannot_be_started_is_not_live(world: World) -> None:
    """Unless it is leaving anyway: then it has to be let."""
    world.get_ready()
    world.say(b.READY)
    world.wait(DEAD_S)
    assert world.status.not_live() == ["reader_dead", "worker_1_dead", "worker_2_dead"]
    world.say(b.DRAINING)
    assert world.status.not_live() == []


def test_readiness_names_the_state_first(world: World) -> None:
    """Then what else is wrong."""
    assert world.status.not_ready() == ["starting", "redis_never_up"]
    world.get_ready()
    world.say(b.DRAINING)
    assert world.status.not_ready() == ["draining"]


def test_ready_pod_without_a_ready_worker_is_not_ready(world: World) -> None:
    """From the first moment: connections are refused."""
    world.get_ready()
    world.say(b.READY)
    assert world.status.not_ready() == []
    world.board.clear(1)
    assert world.status.not_ready() == []
    world.board.clear(2)
    assert world.status.not_ready() == ["no_worker_ready"]


def test_processes_that_are_not_there_use_nothing(world: World) -> None:
    """And a scrape shows them all the same."""
    world.wait(3)
    for role in ("reader", "worker"):
        assert world.metric("broker_open_descriptors", process=role) == 0
        assert world.metric("broker_process_resident_memory_bytes", process=role) == 0
    assert world.metric("broker_open_descriptors", process="supervisor") > 0
    assert world.metric("broker_probe_age_seconds", worker="1") == 0
    assert world.metric("broker_connections_limit") == 2000
