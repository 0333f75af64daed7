"""How soon the reader connects again."""

from __future__ import annotations

import pytest

from broker.reader.pace import (
    BURST,
    DELAY_MAX_S,
    LEAK_BYTES_PER_KEY,
    LEAK_BYTES_PER_S,
    RETRY_MAX_S,
    ReconnectPace,
)
from tests.unit.reader.conftest import Clock

MANY = 100_000


def reconnect(
    pace: ReconnectPace, clock: Clock, keys: int, times: int, healthy_s: float = 0.0
) -> float:
    """Lose the connection again and again; returns the seconds without one."""
    without_s = 0.0
    for _ in range(times):
        pace.connected(keys)
        clock.now += healthy_s
        delay_s = pace.delay_s(keys)
        clock.now += delay_s
        without_s += delay_s
    return without_s


def test_server_that_is_not_there_is_asked_again_soon(clock: Clock) -> None:
    """Failures leave nothing behind in Redis, so they never wait long."""
    pace = ReconnectPace()
    delays = [pace.delay_s(MANY) for _ in range(40)]

    assert delays[0] <= 0.1
    assert max(delays) <= RETRY_MAX_S
    assert min(delays[10:]) >= RETRY_MAX_S / 2


def test_attempts_of_many_pods_are_spread(clock: Clock) -> None:
    """Pods that lost the same server do not come back in one instant."""
    delays = {ReconnectPace().delay_s(10) for _ in range(20)}

    assert len(delays) == 20


def test_few_keys_come_back_at_once_every_time(clock: Clock) -> None:
    """A connection that is killed each second costs hundred keys nothing."""
    without_s = reconnect(ReconnectPace(), clock, keys=100, times=60, healthy_s=1)

    assert without_s < 60 * 0.1


def test_first_losses_of_many_keys_are_free(clock: Clock) -> None:
    """A failover is not punished, however much is watched."""
    assert reconnect(ReconnectPace(), clock, MANY, BURST) < BURST * 0.2


def test_connection_that_keeps_breaking_leaks_a_bounded_rate(clock: Clock) -> None:
    """What Redis keeps of clients that are gone grows by the budget, not faster."""
    pace = ReconnectPace()
    times = 200
    took_s = reconnect(pace, clock, keys=MANY, times=times)
    leaked = (times - BURST) * MANY * LEAK_BYTES_PER_KEY

    # No delay is longer than a minute, and jitter halves some: hence the factor.
    assert took_s >= min(leaked / LEAK_BYTES_PER_S, times * DELAY_MAX_S) / 2.2


@pytest.mark.parametrize("keys", [0, 1, MANY, 10 * MANY])
def test_no_delay_is_longer_than_a_minute(clock: Clock, keys: int) -> None:
    """Even a pod that has broken for hours comes back."""
    pace = ReconnectPace()
    reconnect(pace, clock, keys, times=50)

    assert pace.delay_s(keys) <= DELAY_MAX_S


def test_debt_is_paid_by_time(clock: Clock) -> None:
    """After a long time of health the next loss is the first again."""
    pace = ReconnectPace()
    reconnect(pace, clock, MANY, times=50)
    slow = pace.delay_s(MANY)
    clock.now += 24 * 3600.0
    pace.connected(MANY)

    assert slow > 10
    assert pace.delay_s(MANY) <= 0.1
