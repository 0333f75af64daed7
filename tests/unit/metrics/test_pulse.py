"""What every process counts by the clock."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from broker.metrics import catalog
from broker.metrics.pulse import WINDOW_S, Growth, LoopLag, Peak
from broker.metrics.slots import Slots


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots.create(1)
    yield made
    made.close()
    os.close(made.fd)


def test_a_peak_stays_until_a_scrape_must_have_seen_it() -> None:
    """Whoever asks once in a window misses nothing."""
    peak = Peak()
    assert peak.note(0.9, 100.0) == 0.9
    assert peak.note(0.1, 100.0 + WINDOW_S) == 0.9
    assert peak.note(0.2, 99.9 + 2 * WINDOW_S) == 0.9


def test_a_peak_goes_away_after_two_windows() -> None:
    """What was long ago is not the present."""
    peak = Peak()
    peak.note(0.9, 100.0)
    peak.note(0.1, 100.0 + WINDOW_S)
    assert peak.note(0.0, 100.0 + 2 * WINDOW_S) == 0.1


def test_a_new_process_counts_on_where_the_last_one_ended(slots: Slots) -> None:
    """Its own count begins at 0, the row does not."""
    row, slot = slots.row(1), catalog.REDIS_COMMANDS["worker"]
    for counts in ([3, 5], [2, 4]):
        growth = Growth(row, slot, iter(counts).__next__)
        growth.take()
        growth.take()
    assert row[slot] == 9


def test_what_was_taken_over_is_not_taken_again(slots: Slots) -> None:
    """Nothing new adds nothing."""
    row, slot = slots.row(1), catalog.REDIS_COMMANDS["worker"]
    growth = Growth(row, slot, lambda: 7)
    growth.take()
    growth.take()
    assert row[slot] == 7


def test_a_timer_that_runs_early_is_not_late(slots: Slots) -> None:
    """Clocks are coarse; a negative delay means nothing."""
    row = slots.row(1)
    lag = LoopLag(row, catalog.LOOP_LAG.slot)
    lag.note(10.0, 9.999)
    assert row[catalog.LOOP_LAG.slot] == 0
    lag.note(10.25, 10.5)
    assert row[catalog.LOOP_LAG.slot] == 0.25
