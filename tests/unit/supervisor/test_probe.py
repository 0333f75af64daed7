"""When a worker counts as deaf."""

from __future__ import annotations

from broker.supervisor.probe import RETURN_S, ProbeLog
from tests.unit.supervisor.clock import FakeClock


def filled_log(clock: FakeClock, *times_ms: int) -> ProbeLog:
    probes = ProbeLog(clock)
    for ms in times_ms:
        probes.note(ms)
    return probes


def test_worker_that_heard_a_probe_of_the_window_is_not_deaf() -> None:
    """One lost probe is not enough to leave the load balancer."""
    probes = filled_log(FakeClock(), *range(1000, 8000, 1000))

    assert not probes.is_deaf(1000, 0)


def test_worker_that_heard_none_of_the_window_is_deaf() -> None:
    """Thirty seconds of probes and not one arrived."""
    probes = filled_log(FakeClock(), *range(1000, 9000, 1000))

    assert probes.is_deaf(1000, 0)
    assert probes.is_deaf(0, 0)


def test_few_probes_prove_nothing() -> None:
    """A pod that has just started is not deaf."""
    probes = filled_log(FakeClock(), 1000, 2000, 3000)

    assert not probes.is_deaf(0, 0)


def test_new_process_is_judged_by_probes_since_its_start() -> None:
    """A restarted worker has heard nothing yet and is not to blame."""
    probes = filled_log(FakeClock(), *range(1000, 21000, 1000))

    assert not probes.is_deaf(0, 14)
    assert probes.is_deaf(0, 13)


def test_probes_right_after_an_outage_do_not_count() -> None:
    """The reader may wait a minute to connect again; all pods must not leave then."""
    clock = FakeClock()
    probes = filled_log(clock, *range(1000, 9000, 1000))
    assert probes.note_failure()
    for ms in range(20000, 40000, 1000):
        probes.note(ms)
    assert not probes.is_deaf(1000, 0)

    clock.now += RETURN_S
    for ms in range(60000, 67000, 1000):
        probes.note(ms)
    assert probes.is_deaf(1000, 0)


def test_a_clock_of_redis_that_is_put_back_deafens_nobody() -> None:
    """Ids from after that are smaller than those from before."""
    probes = filled_log(FakeClock(), *range(100_000, 100_007), 50_000)

    assert not probes.is_deaf(50_000, 0)


def test_only_the_first_failure_is_news() -> None:
    """An outage is logged once."""
    probes = ProbeLog(FakeClock())

    assert probes.note_failure()
    assert not probes.note_failure()
    probes.note(1000)
    assert probes.note_failure()
