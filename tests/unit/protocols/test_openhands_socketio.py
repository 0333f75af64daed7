"""Socket.IO packets, read and written."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.protocols.native import BadFrame
from broker.protocols.openhands import socketio, v0
from broker.protocols.openhands.socketio import (
    Engine,
    Kind,
    Packet,
    Said,
    read_event,
    read_packet,
)

PACKETS = st.binary() | st.lists(
    st.sampled_from(list(b'0123456789-/,[]{}"\\a \xff')), max_size=20
).map(bytes)


@pytest.mark.parametrize(
    ("payload", "packet"),
    [
        (b"1", Packet(Engine.CLOSE)),
        (b"2probe", Packet(Engine.PING, data=b"probe")),
        (b"3", Packet(Engine.PONG)),
        (b"40", Packet(Engine.MESSAGE)),
        (b'40{"token":"a"}', Packet(Engine.MESSAGE, data=b'{"token":"a"}')),
        (b"40/foo,", Packet(Engine.MESSAGE, namespace="/foo")),
        (b"40/foo", Packet(Engine.MESSAGE, namespace="/foo")),
        (b"40/,{}", Packet(Engine.MESSAGE, data=b"{}")),
        (b"41", Packet(Engine.MESSAGE, Kind.DISCONNECT)),
        (b'42["a",1]', Packet(Engine.MESSAGE, Kind.EVENT, data=b'["a",1]')),
        (b'427["a"]', Packet(Engine.MESSAGE, Kind.EVENT, id=7, data=b'["a"]')),
        (
            b'42/x,12["a"]',
            Packet(Engine.MESSAGE, Kind.EVENT, "/x", 12, data=b'["a"]'),
        ),
        (b"431[]", Packet(Engine.MESSAGE, Kind.ACK, id=1, data=b"[]")),
        (
            b'452-/x,3["a"]',
            Packet(Engine.MESSAGE, Kind.BINARY_EVENT, "/x", 3, 2, b'["a"]'),
        ),
    ],
)
def test_a_packet_is_taken_apart(payload: bytes, packet: Packet) -> None:
    """Type, attachments, namespace, number and data stand where the protocol says."""
    assert read_packet(payload) == packet


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"7", b"x", b"4", b"47", b"4x", b'44{"message":"a"}', b"41[]"),
        *(b"407", b'421-["a"]', b'45["a"]', b'45100-["a"]', b"40/\xff,"),
    ],
)
def test_what_is_no_packet_of_a_client_is_refused(payload: bytes) -> None:
    """Each breaks the grammar, or is a packet that only servers send."""
    with pytest.raises(BadFrame) as refused:
        read_packet(payload)

    assert refused.value.code == "bad_frame"


def ending(payload: bytes) -> str:
    """How it ends to read *payload* as everything that it may be."""
    try:
        packet = read_packet(payload)
        v0.read_auth(packet.data)
        v0.read_command(read_event(packet.data))
    except BadFrame as error:
        return error.code
    return "read"


@given(PACKETS)
@example(b"42" + b"[" * 5000)
@example(b'40{"a":' + b"[" * 5000)
@example(b'42["oh_action",{}]')
def test_any_bytes_are_a_packet_or_a_bad_frame(payload: bytes) -> None:
    """Nothing that a client sends raises anything else, however deep it is read."""
    assert ending(payload) in {"read", "bad_frame", "bad_json"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'["a"]', Said("a", [])),
        (b'["a", {"b": 1}, "c"]', Said("a", [b'{"b": 1}', b'"c"'])),
        (b'["\\u00e4"]', Said("ä", [])),
    ],
)
def test_an_event_has_a_name_and_arguments(data: bytes, said: Said) -> None:
    """Arguments keep the bytes that the client wrote."""
    assert read_event(data) == said


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_json"),
        (b'-["a"]', "bad_json"),
        (b'["a"', "bad_json"),
        (b"[1]", "bad_frame"),
        (b"[]", "bad_frame"),
        (b"{}", "bad_frame"),
        (b"[" * 5000, "bad_json"),
    ],
)
def test_what_is_no_event_is_refused(data: bytes, code: str) -> None:
    """It must be an array that begins with a text."""
    with pytest.raises(BadFrame) as refused:
        read_event(data)

    assert refused.value.code == code


def test_packets_of_the_server_stand_as_the_protocol_has_them() -> None:
    """Byte for byte what Socket.IO's own servers send."""
    assert socketio.open_packet("x", 25000, 20000, 65536) == (
        b'0{"sid":"x","upgrades":[],"pingTimeout":20000,"pingInterval":25000,'
        b'"maxPayload":65536}'
    )
    assert socketio.connect_packet("x") == b'40{"sid":"x"}'
    assert socketio.connect_error_packet("no") == b'44{"message":"no"}'
    assert socketio.connect_error_packet("no", [1], "/a") == (
        b'44/a,{"message":"no","data":[1]}'
    )
    assert socketio.ack_packet(7) == b"437[]"
    assert socketio.pong_packet(b"probe") == b"3probe"
