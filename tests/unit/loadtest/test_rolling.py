"""What the load test of a rolling update makes of what its clients saw."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest

from loadtest import payload
from loadtest.fleet import wire
from loadtest.rolling.crowd import LATE_NS, Notes, Traveller, busiest_second
from loadtest.scenarios.roll import quantile


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def text(content: bytes) -> bytes:
    return bytes((0x81, 126)) + len(content).to_bytes(2, "big") + content


def event(ordinal: int, published_ns: int = 2**63) -> bytes:
    data = payload.event_data(published_ns % 10**18, ordinal)
    return text(b'{"id":"%d-0@%d","event":"e","data":%b}' % (ordinal, ordinal, data))


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
async def traveller(notes: Notes) -> Traveller:
    """A client whose upgrade was answered."""
    one = Traveller(7, "s1", 1, notes)
    one.connection_made(cast("asyncio.Transport", Wire()))
    one.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    return one


async def test_every_event_counts_once(traveller: Traveller, notes: Notes) -> None:
    """What is left out is lost, what comes again is doubled."""
    traveller.data_received(event(1) + event(2) + event(5) + event(5) + event(6))

    assert (notes.delivered, notes.missing, notes.doubled) == (5, 2, 1)


async def test_client_that_was_late_is_named(
    traveller: Traveller, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the longest time that anybody was behind."""
    monkeypatch.setattr("time.monotonic_ns", lambda: 10 * LATE_NS)
    traveller.data_received(event(1, 10 * LATE_NS - 5))
    assert not notes.late
    traveller.data_received(event(2, 8 * LATE_NS))

    assert notes.late == {7}
    assert notes.behind_ns == 2 * LATE_NS


async def test_client_resumes_behind_its_last_event(traveller: Traveller) -> None:
    """Its next request names the position."""
    traveller.data_received(event(1) + event(2))
    traveller.connection_lost(None)
    again = Wire()
    traveller.connection_made(cast("asyncio.Transport", again))

    assert b"/v1/ws/s1?last_event_id=2-0@2 " in again.written[0]


@pytest.mark.parametrize(("words", "cut"), [(b"", 1), (b"closing", 0)])
async def test_end_without_a_goodbye_is_a_cut(
    traveller: Traveller, notes: Notes, words: bytes, cut: int
) -> None:
    """One that was told is none."""
    closing = text(b'{"event":"closing","data":{"code":4000,"delay_ms":9}}')
    traveller.data_received(closing if words else b"")
    traveller.connection_lost(None)

    assert notes.cut == cut


async def test_pings_are_answered(notes: Notes) -> None:
    """Else the broker would close the connection."""
    one, there = Traveller(0, "s1", 1, notes), Wire()
    one.connection_made(cast("Any", there))
    one.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x89\x00")

    assert there.written[1] == wire.masked_frame(wire.PONG, b"")


def test_busiest_second_is_a_moving_one() -> None:
    """Not one of the clock's."""
    assert busiest_second([0.5, 0.9, 1.1, 1.2, 1.45, 3.0]) == 5
    assert busiest_second([]) == 0


def test_quantile_counts_events() -> None:
    """The latency that so many of them do not exceed."""
    latencies = Counter({1: 98, 50: 1, 900: 1})

    assert quantile(latencies, 0.5) == 1
    assert quantile(latencies, 0.99) == 50
    assert quantile(latencies, 1) == 900
