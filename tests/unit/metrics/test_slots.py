"""The shared rows that processes count in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from broker.metrics import catalog
from broker.metrics.metric import BUCKETS_S
from broker.metrics.slots import Slots, observe


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots.create(2)
    yield made
    made.close()
    os.close(made.fd)


def test_rows_start_at_zero_and_there_are_two_more_than_workers(slots: Slots) -> None:
    """Reader, two workers, supervisor."""
    assert [sum(row) for row in slots.rows] == [0.0] * 4


def test_second_mapping_sees_what_the_first_counted(slots: Slots) -> None:
    """The memory is shared by descriptor."""
    other = Slots(slots.fd, 2)
    slots.row(1)[catalog.DELIVERIES.slot] += 7

    assert other.row(1)[catalog.DELIVERIES.slot] == 7
    assert other.row(2)[catalog.DELIVERIES.slot] == 0
    other.close()


def test_last_slot_of_a_row_is_not_the_next_row(slots: Slots) -> None:
    """Rows do not overlap."""
    slots.row(1)[catalog.row_width() - 1] = 1.0

    assert sum(slots.row(2)) == 0.0


def test_clear_gauges_keeps_counters_and_histograms(slots: Slots) -> None:
    """What a dead process counted stays; what it said about the present goes."""
    row = slots.row(1)
    row[catalog.CONNECTIONS["sse"]] = 40
    row[catalog.DELIVERIES.slot] = 9
    observe(row, catalog.REPLAY_SECONDS.slot, 0.2)

    slots.clear_gauges(1)

    assert row[catalog.CONNECTIONS["sse"]] == 0
    assert row[catalog.DELIVERIES.slot] == 9
    assert sum(row) == pytest.approx(9 + 1 + 0.2)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.0005, 0), (0.0006, 1), (10.0, 13), (10.1, 14), (1e9, 14)],
)
def test_observe_counts_in_the_bucket_whose_bound_is_not_below(
    slots: Slots, seconds: float, bucket: int
) -> None:
    """Bounds belong to their bucket, as ``le`` says; the last bucket has no bound."""
    first = catalog.STAGE_SECONDS["reader_to_socket"]
    row = slots.row(1)

    observe(row, first, seconds)

    assert list(row[first : first + len(BUCKETS_S) + 1]).index(1.0) == bucket
    assert row[first + len(BUCKETS_S) + 1] == seconds
