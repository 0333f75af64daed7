"""Time that passes only when a test says so, and watches that live in it."""

from __future__ import annotations

import pytest

from broker.reader import pace
from broker.reader import watches as watches_module
from broker.reader.watches import Watches
from broker.store.keys import event_key_pattern

LINGER_S = 30.0
SWEEP_S = 10.0


class Clock:
    """Stands for the module ``time`` where only ``monotonic`` is used."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watches_module, "time", made)
    monkeypatch.setattr(pace, "time", made)
    return made


@pytest.fixture
def watches(clock: Clock) -> Watches:
    return Watches(event_key_pattern("events:{session}"), LINGER_S, SWEEP_S)
