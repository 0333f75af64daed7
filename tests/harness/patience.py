"""How long property tests look for the order of events that breaks a promise."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """*count* times ``BROKER_TEST_PATIENCE``, which is 1 if nobody has set it."""
    return count * int(os.environ.get("BROKER_TEST_PATIENCE", "1"))
