"""Ratios of two checkouts that were measured at once."""

from __future__ import annotations

import pytest

from loadtest.pairing import Pairs


def pairs_of(ours: list[float], theirs: list[float]) -> Pairs:
    return Pairs("case", ours={"cpu": ours}, theirs={"cpu": theirs})


def test_each_window_is_compared_with_the_one_beside_it() -> None:
    """A slow minute makes both slow and leaves the ratio alone."""
    pairs = pairs_of([1.0, 10.0, 2.2], [1.0, 10.0, 2.0])

    assert pairs.ratios("cpu") == pytest.approx([1.0, 1.0, 1.1])
    assert pairs.ratio("cpu") == "1.000"


def test_a_window_without_deliveries_is_left_out() -> None:
    """Nothing can be divided by it."""
    pairs = pairs_of([1.0, 3.0], [0.0, 2.0])

    assert pairs.ratios("cpu") == [1.5]
    assert pairs_of([1.0], [0.0]).ratio("cpu") == "-"


@pytest.mark.parametrize(
    ("count", "told"),
    [(3, "1.010"), (100, "1.495 (1.400 to 1.590)")],
)
def test_the_median_is_told_with_its_bounds(count: int, told: str) -> None:
    """Of 100 ratios those with the ranks 41 and 60 bound it; of few none does."""
    pairs = pairs_of([1 + i / 100 for i in range(count)], [1.0] * count)

    assert pairs.ratio("cpu") == told


def test_a_broken_promise_is_told() -> None:
    """Speed that loses events is none."""
    remarks = ("before: log: slow", "before: BROKEN: 3 missing", "FAILED: it ended")

    broken = [Pairs("case", remarks=[remark]).broken for remark in remarks]
    assert broken == [False, True, True]
