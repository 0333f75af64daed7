"""One child process by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from broker.config import Settings
from broker.supervisor.child import ChildProcess
from broker.supervisor.resources import Resources
from tests.harness.processes import is_alive
from tests.integration.supervisor.pod import SETTINGS

STAND_IN = [sys.executable, "-m", "tests.integration.supervisor.standin"]


@pytest.fixture
def resources() -> Iterator[Resources]:
    made = Resources(Settings.model_validate(SETTINGS))
    yield made
    made.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_second_process_is_refused_until_the_first_was_reaped(
    resources: Resources,
) -> None:
    """Being dead is not enough: the kernel must have given the process up."""
    ended = asyncio.Event()
    child = ChildProcess(resources.boot(0), ended.set, [*STAND_IN, "plain"])
    child.spawn()
    with pytest.raises(RuntimeError, match="not been reaped"):
        child.spawn()
    child.send(signal.SIGKILL)
    async with asyncio.timeout(10):
        await ended.wait()
    with pytest.raises(RuntimeError, match="not been reaped"):
        child.spawn()

    assert child.reap() == -signal.SIGKILL
    child.spawn()
    child.kill_and_wait()


async def test_nothing_is_left_of_a_process_that_ended(resources: Resources) -> None:
    """Neither a process nor a descriptor, however often it is started."""
    ended = asyncio.Event()
    child = ChildProcess(resources.boot(1), ended.set, [*STAND_IN, "die"])
    before = open_descriptors()
    for _ in range(3):
        ended.clear()
        child.spawn()
        pid = child.pid
        assert pid is not None
        async with asyncio.timeout(10):
            await ended.wait()
        assert child.reap() == 1
        assert not is_alive(pid)

    assert open_descriptors() == before
    assert child.starts == 3


async def test_command_that_cannot_run_is_postponed(resources: Resources) -> None:
    """The supervisor goes on; the next try waits longer each time."""
    child = ChildProcess(resources.boot(1), lambda: None, ["/nowhere/broker"])
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        child.spawn()
    child.postpone()
    first = child.due_at
    child.postpone()

    assert child.pid is None
    assert child.due_at - first >= 0.5
    assert open_descriptors() == before
