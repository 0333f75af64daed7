"""Frames to clients, and what holds of the parser for any bytes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.errors import ProtocolError
from broker.protocols.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    FrameParser,
    Message,
    close_frame,
    ping_frame,
    pong_frame,
    read_close,
    text_frame,
    unmask,
)
from tests.unit.protocols.peer import (
    MASK,
    bytewise,
    client_frame,
    read_server_frames,
    run,
)

CONTROLS = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
TEXTS = st.text(max_size=200).map(str.encode)
WHOLES = st.tuples(st.just(TEXT), TEXTS) | st.tuples(st.just(BINARY), st.binary())


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Message], bytes]:
    """Messages of a lawful client, and its bytes: fragmented, interleaved, masked."""
    messages: list[Message] = []
    stream = b""
    for opcode, payload in draw(st.lists(WHOLES | CONTROLS, max_size=5)):
        cuts = st.lists(st.integers(0, len(payload)), max_size=3)
        edges = [0, *sorted(draw(cuts) if opcode < CLOSE else []), len(payload)]
        for at in range(len(edges) - 1):
            if at and draw(st.booleans()):
                control = draw(CONTROLS)
                messages.append(control)
                stream += client_frame(*control)
            stream += client_frame(
                CONTINUATION if at else opcode,
                payload[edges[at] : edges[at + 1]],
                fin=at == len(edges) - 2,
                mask=draw(st.binary(min_size=4, max_size=4)),
            )
        messages.append((opcode, payload))
    if draw(st.booleans()):
        close = (CLOSE, draw(st.sampled_from([b"", b"\x03\xe8", b"\x0f\xa0bye"])))
        messages.append(close)
        stream += client_frame(*close) + draw(st.binary(max_size=20))
    return messages, stream


@st.composite
def hostile_streams(draw: st.DrawFn) -> bytes:
    """A lawful stream with some bytes changed, or no stream at all."""
    stream = bytearray(draw(streams())[1] or draw(st.binary(max_size=60)))
    for _ in range(draw(st.integers(0, 3)) if stream else 0):
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream)


def cut(data: st.DataObject, stream: bytes) -> list[bytes]:
    edges = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [
        stream[start:end]
        for start, end in zip([0, *edges], [*edges, len(stream)], strict=True)
    ]


# Properties.


@given(streams(), st.data())
def test_lawful_stream_decodes_to_what_was_encoded(stream, data):
    """Every message arrives once, in order and whole, however TCP cuts the bytes."""
    messages, sent = stream

    assert run(*cut(data, sent)) == (messages, None)


@given(hostile_streams() | st.binary(), st.data())
def test_outcome_does_not_depend_on_the_cuts(sent, data):
    """Whole, byte by byte or cut anywhere: same messages and same fault."""
    whole = run(sent, limit=150)

    assert run(*bytewise(sent), limit=150) == whole
    assert run(*cut(data, sent), limit=150) == whole


@given(st.lists(st.binary()))
@example([b"\x81\xfe\xff\xff" + MASK])
def test_any_bytes_give_messages_or_a_protocol_error(chunks):
    """Nothing that a peer can send raises anything but a known fault."""
    parser = FrameParser(100)
    for chunk in chunks:
        try:
            messages = parser.feed(chunk)
        except ProtocolError as fault:
            assert fault.code in {1002, 1007, 1009}  # noqa: PT017 - any is right
        else:
            assert all(len(payload) <= 125 for _, payload in messages)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmask_is_the_xor_of_the_rfc(data, mask):
    """Unmasking agrees with RFC 6455 section 5.3, octet by octet."""
    expected = bytes(octet ^ mask[at % 4] for at, octet in enumerate(data))

    assert unmask(data, mask) == expected
    assert unmask(expected, mask) == data


@given(st.lists(st.binary(max_size=300)))
def test_text_frames_decode_to_what_was_encoded(payloads):
    """Clients read back what was framed, also when frames are joined."""
    sent = b"".join(text_frame(payload) for payload in payloads)

    assert read_server_frames(sent) == [(TEXT, payload) for payload in payloads]


# Frames to clients.


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_text_frame_has_the_shortest_length(size):
    """Each form of the length is used exactly where the RFC wants it."""
    frame = text_frame(b"x" * size)
    header_bytes = 2 if size < 126 else 4 if size < 65536 else 10

    assert len(frame) == header_bytes + size
    assert read_server_frames(frame) == [(TEXT, b"x" * size)]


def test_control_frames_carry_their_payload():
    """A pong repeats the ping's payload; both may be empty."""
    assert ping_frame() == b"\x89\x00"
    assert ping_frame(b"ab") == b"\x89\x02ab"
    assert pong_frame(b"ab") == b"\x8a\x02ab"


@pytest.mark.parametrize("frame", [ping_frame, pong_frame])
def test_long_control_frame_is_an_error_of_the_caller(frame):
    """A control frame above 125 bytes is never built."""
    assert len(frame(b"x" * 125)) == 127
    with pytest.raises(ValueError, match="125"):
        frame(b"x" * 126)


def test_close_frame_has_code_and_reason():
    """A close frame says its number and its text."""
    assert close_frame(4000, "bye") == b"\x88\x05\x0f\xa0bye"
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
    assert close_frame(NO_CODE) == b"\x88\x00"


def test_long_close_reason_is_cut_between_characters():
    """Closing never fails for the length of a reason, and the rest stays UTF-8."""
    frame = close_frame(1000, "é" * 100)

    assert read_close(frame[2:]) == (1000, "é" * 61)


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 70000])
def test_close_code_that_must_not_be_sent_is_an_error_of_the_caller(code):
    """A reserved code never goes onto the wire."""
    with pytest.raises(ValueError, match="no close code"):
        close_frame(code)
