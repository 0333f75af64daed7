"""The seam between ring, Redis and sockets: the promise under any order of events."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from broker.reader import watched, watches
from broker.worker import archive, catchup, hub, link, pages, recent
from tests.fakes import FakeClock
from tests.harness.patience import examples
from tests.unit.worker.seam.pod import Shared
from tests.unit.worker.seam.schedule import Schedule

STEPS = 90
INFO_MEAN_BYTES = watched.INFO_MEAN_BYTES
PROGRAMS = st.binary(min_size=2 * STEPS, max_size=2 * STEPS)
MANY = settings(
    max_examples=examples(2000),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

CLOCK = FakeClock()

SMALL_BOUNDS: tuple[tuple[object, str, object], ...] = (
    (watches, "time", CLOCK),
    (watched, "INFO_MEAN_BYTES", 10**9),
    (watches, "READ_COUNT_MAX", 3),
    (watches, "FIRST_COUNT", 2),
    (watched, "GLANCE_AFTER", 1),
    (hub, "SENDS_PER_TURN", 1),
    (catchup, "TURN_SUBSCRIPTIONS", 2),
    (catchup, "FIRST_COUNT", 2),
    (archive, "FIRST_COUNT", 2),
    (archive, "COUNT_MAX", 3),
    (pages, "PAGE_EVENTS", 3),
    (recent, "STEPS_PER_TURN", 2),
    (link, "REJOINS_AT_ONCE", 1),
)
"""So that a handful of entries is cut into many pages, slices and turns."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """One ring for all schedules, with small bounds everywhere and no log."""
    configured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    made = Shared()
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL_BOUNDS:
            patch.setattr(module, name, value)
        # A worker whose turn fails ends its process, which is pytest here.
        patch.setattr(os, "_exit", fail)
        yield made
    made.close()
    structlog.configure(**configured)


@pytest.fixture(scope="module")
def seldom_counted(shared: Shared) -> Iterator[None]:
    """Large entries are read without XINFO most of the time, as in production."""
    del shared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched, "INFO_MEAN_BYTES", INFO_MEAN_BYTES)
        yield


def fail(_status: int) -> None:
    """Let what was caught go on."""
    error = sys.exception()
    assert error is not None
    raise error


def run(shared: Shared, program: bytes, *, exact: bool, rising: bool = False) -> None:
    schedule = Schedule(shared, CLOCK, exact=exact, rising=rising)
    try:
        schedule.run(program)
    except BaseException:
        note("\n".join(schedule.log))
        raise
    finally:
        schedule.close()


@given(program=PROGRAMS)
@settings(MANY)
def test_every_sum_closes_under_any_schedule(shared: Shared, program: bytes) -> None:
    """Published = delivered + announced as lost, in order, and all end at the tip."""
    run(shared, program, exact=True)


@given(program=PROGRAMS)
@settings(MANY)
def test_no_reset_is_missed_where_the_ids_go_on(shared: Shared, program: bytes) -> None:
    """A stream made anew by the server's clock lies behind every former position."""
    run(shared, program, exact=True, rising=True)


@given(program=PROGRAMS)
@settings(MANY)
def test_order_and_completeness_survive_deletions(
    shared: Shared, seldom_counted: None, program: bytes
) -> None:
    """With XDEL and large entries, too: what is still there arrives, once, in order."""
    del seldom_counted
    run(shared, program, exact=False)
