"""How long a child waits for its next start."""

from __future__ import annotations

from broker.supervisor.child import HEALTHY_S, Backoff


def test_first_restart_comes_at_once_and_further_ones_wait_longer() -> None:
    """A crash loop costs little; a single crash costs nothing."""
    backoff = Backoff()

    delays = [backoff.next_delay_s(1.0) for _ in range(8)]
    assert delays == [0, 0.5, 1, 2, 4, 8, 10, 10]


def test_long_life_starts_over() -> None:
    """Only crashes in a row count."""
    backoff = Backoff()
    for _ in range(5):
        backoff.next_delay_s(1.0)

    assert backoff.next_delay_s(HEALTHY_S) == 0
    assert backoff.next_delay_s(1.0) == 0.5
