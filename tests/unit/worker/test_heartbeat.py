"""Heartbeats from one wheel."""

from __future__ import annotations

from typing import Any, cast

import pytest

from broker.disconnect import Disconnect
from broker.protocols.formats import NATIVE, SSE, Format
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect
from broker.worker.heartbeat import SLOTS, HeartbeatWheel


class Beating(Connection):
    """A connection that takes note of what the wheel does."""

    def __init__(self, wire: Format = NATIVE) -> None:
        super().__init__(cast("Any", None), Dialect(wire), None, "")
        self.sent: list[bytes] = []
        self.cut: Disconnect | None = None

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self, reason: Disconnect | None = None) -> None:
        self.cut = reason


@pytest.fixture
def wheel() -> HeartbeatWheel:
    return HeartbeatWheel(25)


def test_one_turn_beats_everybody_once(wheel: HeartbeatWheel) -> None:
    """Each in its own slot, and with the heartbeat of its format."""
    everybody = [Beating(NATIVE), Beating(SSE), Beating(NATIVE)]
    for connection in everybody:
        wheel.add(connection)
    for slot in range(SLOTS):
        wheel.beat(slot)
    assert [c.sent for c in everybody] == [[c.format.heartbeat] for c in everybody]


def test_connections_are_spread_over_the_turn(wheel: HeartbeatWheel) -> None:
    """The first heartbeat comes at a random time."""
    slots = set()
    for _ in range(100):
        connection = Beating()
        wheel.add(connection)
        slots.add(connection.slot)
    assert len(slots) > SLOTS // 4


def test_who_does_not_answer_is_cut(wheel: HeartbeatWheel) -> None:
    """Nothing since the last heartbeat, not even a pong, means dead."""
    connection = Beating()
    wheel.add(connection)
    wheel.beat(connection.slot)
    wheel.beat(connection.slot)
    assert connection.cut is Disconnect.NO_PONG


def test_anything_that_comes_is_an_answer(wheel: HeartbeatWheel) -> None:
    """A client that talks is alive."""
    connection = Beating()
    wheel.add(connection)
    for _ in range(3):
        wheel.beat(connection.slot)
        connection.heard = True
    assert connection.cut is None
    assert len(connection.sent) == 3


def test_nothing_is_expected_of_a_full_socket(wheel: HeartbeatWheel) -> None:
    """It gets no heartbeat, so it owes no answer."""
    connection = Beating()
    wheel.add(connection)
    wheel.beat(connection.slot)
    connection.blocked = True
    for _ in range(3):
        wheel.beat(connection.slot)
    connection.blocked = False
    wheel.beat(connection.slot)
    assert connection.cut is None
    assert len(connection.sent) == 2


def test_event_streams_owe_no_answer(wheel: HeartbeatWheel) -> None:
    """Their clients cannot speak."""
    connection = Beating(SSE)
    wheel.add(connection)
    for _ in range(3):
        wheel.beat(connection.slot)
    assert connection.cut is None
    assert len(connection.sent) == 3


def test_who_has_left_is_forgotten(wheel: HeartbeatWheel) -> None:
    """Nothing is sent to a connection that is gone."""
    connection = Beating()
    wheel.add(connection)
    wheel.beat(connection.slot)
    wheel.remove(connection)
    wheel.beat(connection.slot)
    assert len(connection.sent) == 1
    assert connection.cut is None
