from __future__ import annotations

import os
import sys
import time

import pytest

from loadtest.child import ChildFailed, end, spawn, wait_until


def test_process_starts_on_its_cores_and_ours_stay() -> None:
    """Programs that size themselves by their affinity must see it from the start."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    before = os.sched_getaffinity(0)
    core = min(before)
    code = "import os,sys;sys.stdout.write(str(os.sched_getaffinity(0)))"
    process = spawn([sys.executable, "-c", code], [core], pipes=True)
    output, _ = process.communicate(timeout=20)

    assert output.decode() == str({core})
    assert os.sched_getaffinity(0) == before


def test_process_that_ignores_sigterm_is_killed() -> None:
    """Nothing that a load test started may outlive it."""
    code = (
        "import signal,sys,time;signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "sys.stdout.write('x');sys.stdout.flush();time.sleep(60)"
    )
    process = spawn([sys.executable, "-c", code], os.sched_getaffinity(0), pipes=True)
    assert process.stdout is not None
    process.stdout.read(1)
    end(process, timeout_s=0.2)

    assert process.returncode == -9


def test_waiting_has_an_end() -> None:
    """A server that does not start fails the run and does not hang it."""
    started = time.monotonic()

    with pytest.raises(ChildFailed, match="the moon"):
        wait_until(lambda: False, "the moon", 0.05, 0.01)
    assert time.monotonic() - started < 5
