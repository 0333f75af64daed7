from __future__ import annotations

import pytest

from loadtest.pacing import Pace

MS = 1_000_000


def test_slow_rate_sends_one_event_per_deadline() -> None:
    """Below 500 events/s every event has its own deadline."""
    pace = Pace(rate=50, seconds=1, start_ns=0)

    assert pace.take(0, 100) == 1
    assert pace.deadline_ns == 20 * MS
    assert pace.take(20 * MS, 100) == 1


def test_fast_rate_sends_batches() -> None:
    """Above it they go in batches of two milliseconds."""
    pace = Pace(rate=10_000, seconds=1, start_ns=0)
    pace.take(0, 100)

    assert pace.deadline_ns == 2 * MS
    assert pace.take(2 * MS, 100) == 20


def test_time_lost_is_made_up_for() -> None:
    """Deadlines are absolute: a pause is followed by all that was due in it."""
    pace = Pace(rate=1000, seconds=1, start_ns=0)
    pace.take(0, 1000)

    assert pace.take(100 * MS, 1000) == 100
    assert pace.late_max_ns == pytest.approx(98 * MS)
    assert pace.late_count == 1


def test_run_ends_after_exactly_the_promised_events() -> None:
    """However late the last batch is, the total stays what it was."""
    pace = Pace(rate=1000, seconds=0.5, start_ns=0)

    assert pace.take(10_000 * MS, 10_000) == 500
    assert pace.finished


def test_batch_is_bounded() -> None:
    """Making up for a pause does not become one huge write."""
    pace = Pace(rate=1000, seconds=10, start_ns=0)

    assert pace.take(5000 * MS, 64) == 64
    assert not pace.finished
