from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.baselines.events import text_frame
from loadtest.fleet import wire

sizes = st.sampled_from([0, 1, 125, 126, 65535, 65536])


def server_frame(opcode: int, payload: bytes) -> bytes:
    masked = wire.masked_frame(opcode, payload)
    head = masked[: len(masked) - len(payload) - 4]
    return head[:1] + bytes((head[1] & 0x7F,)) + head[2:] + payload


@given(st.lists(sizes, max_size=4), st.data())
def test_frames_come_out_whole_however_they_are_cut(
    lengths: list[int], data: st.DataObject
) -> None:
    """Two reads give the same frames as one."""
    payloads = [bytes([i]) * n for i, n in enumerate(lengths)]
    stream = b"".join(server_frame(wire.TEXT, p) for p in payloads)
    cut = data.draw(st.integers(0, len(stream)))
    first, rest = wire.split_frames(stream[:cut])
    second, left = wire.split_frames(rest + stream[cut:])

    assert first + second == [(wire.TEXT, p) for p in payloads]
    assert left == b""


def test_client_frames_are_masked() -> None:
    """Servers must refuse others (RFC 6455 section 5.1)."""
    frame = wire.masked_frame(wire.BINARY, b"SUB")

    assert frame == b"\x82\x83\x00\x00\x00\x00SUB"


def test_baselines_frame_is_one_frame() -> None:
    """The header of the baselines is what a client reads."""
    message = b"x" * 330

    assert wire.split_frames(text_frame(message)) == ([(wire.TEXT, message)], b"")


def test_status_is_read_from_whole_and_broken_responses() -> None:
    """A server that speaks no HTTP is status 0, not an exception."""
    assert wire.status_of(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1") == 503
    assert wire.status_of(b"-ERR unknown command") == 0
    assert wire.status_of(b"HTTP/1.1 what now") == 0
