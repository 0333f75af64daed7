"""How fast the reader may come back after it lost its connection."""

from __future__ import annotations

import random
import time

LEAK_BYTES_PER_KEY = 130
"""What Redis keeps per key of a tracking client that is gone, until the key changes."""
LEAK_BYTES_PER_S = 1024 * 1024 / 60
BURST = 4
DELAY_MAX_S = 60.0
FIRST_RETRY_S = 0.1
RETRY_MAX_S = 2.0


class ReconnectPace:
    """Spaces attempts to connect.

    Two things are bounded apart. A server that is not there is asked again after at
    most ``RETRY_MAX_S``: that costs it nothing. A connection that was in order and is
    lost leaves its tracked keys behind in Redis, which forgets none until it changes;
    so connections that begin to track pay from a budget of leaked memory, and the pace
    depends on how many keys are watched: a few keys come back at once, tens of
    thousands at most once a minute when the connection keeps breaking.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._debt_bytes = 0.0
        self._paid_at = time.monotonic()

    def connected(self, keys: int) -> None:
        """Note that a connection begins to track *keys* keys."""
        self._failures = 0
        self._pay()
        self._debt_bytes += keys * LEAK_BYTES_PER_KEY

    def delay_s(self, keys: int) -> float:
        """Seconds to wait before the next attempt."""
        self._pay()
        allowed = BURST * keys * LEAK_BYTES_PER_KEY
        budget = min(
            max(0.0, self._debt_bytes - allowed) / LEAK_BYTES_PER_S, DELAY_MAX_S
        )
        retry = min(FIRST_RETRY_S * float(1 << min(self._failures, 8)), RETRY_MAX_S)
        self._failures += 1
        return max(budget, retry) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def _pay(self) -> None:
        now = time.monotonic()
        paid = (now - self._paid_at) * LEAK_BYTES_PER_S
        self._debt_bytes = max(0.0, self._debt_bytes - paid)
        self._paid_at = now
