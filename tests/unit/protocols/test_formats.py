"""Both wire formats say the same in their own frames."""

from __future__ import annotations

import json

import pytest

from broker.entry import Event
from broker.protocols import native
from broker.protocols.formats import NATIVE, SSE, Format
from tests.unit.protocols.event_source import read_stream
from tests.unit.protocols.peer import read_server_frames

EVENT = Event(b"e", b'{"a":\n1}', b"", b"n", b"", False)
AT = (b"s1", 1763699200000, 2, 3)


def messages(wire: Format, frames: bytes) -> list[object]:
    """What a client of the format makes of *frames*."""
    if wire is SSE:
        return [json.loads(data) for data, _ in read_stream(frames)]
    return [
        json.loads(text) for opcode, text in read_server_frames(frames) if opcode == 1
    ]


@pytest.mark.parametrize("wire", [NATIVE, SSE], ids=["websocket", "sse"])
def test_formats_carry_the_same_json(wire):
    """Events, skipped entries and notices are equal messages in all formats."""
    frames = (
        wire.event(*AT, EVENT)
        + wire.skipped(*AT, "not_json", b"why")
        + wire.notice("gap", {"lost": 1}, "s1")
        + wire.notice("welcome", {})
    )

    assert messages(wire, frames) == [
        json.loads(native.event_json(*AT, EVENT)),
        json.loads(native.skipped_json(*AT, "not_json", b"why")),
        {"event": "gap", "session": "s1", "data": {"lost": 1}},
        {"event": "welcome", "data": {}},
    ]


def test_sse_ids_are_the_positions_of_entries_only():
    """Broker events never move the position from which a browser resumes."""
    stream = (
        SSE.event(*AT, EVENT)
        + SSE.skipped(b"s1", 7, 0, 0, "not_json", b"why")
        + SSE.notice("gap", {}, "s1")
    )

    assert [at for _, at in read_stream(stream)] == ["1763699200000-2@3", "7-0", ""]


def test_native_heartbeat_is_a_ping_and_an_event():
    """The ping proves the peer alive; the event lets scripts see it too."""
    assert read_server_frames(NATIVE.heartbeat) == [
        (9, b""),
        (1, b'{"event":"heartbeat"}'),
    ]


def test_sse_heartbeat_is_a_comment():
    """A browser keeps the connection and fires nothing."""
    assert SSE.heartbeat == b": heartbeat\n\n"
