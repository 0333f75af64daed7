from __future__ import annotations

from loadtest.counters import DELIVERED, OPEN, Counters


def test_totals_add_up_the_rows_of_all_processes() -> None:
    """The controller sees what every process wrote into its own row."""
    counters = Counters.create(3)
    attached = Counters(counters.fd, 3)
    attached.row(0)[DELIVERED] = 5
    attached.row(2)[DELIVERED] = 7
    attached.row(1)[OPEN] = 100

    assert counters.total(DELIVERED) == 12
    assert counters.total(OPEN) == 100
