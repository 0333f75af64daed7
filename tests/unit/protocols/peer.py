"""The other side of WebSocket, for tests: makes client frames, reads server frames."""

from __future__ import annotations

from itertools import cycle

from broker.protocols.websocket import CONTINUATION, FrameError, FrameParser, Message

MASK = b"\x37\xfa\x21\x3d"
LIMIT = 70_000
Outcome = tuple[list[Message], int | None]


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = MASK
) -> bytes:
    """A masked frame with the shortest form of its length."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | size,))
    elif size < 65536:
        head = b"\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\xff" + size.to_bytes(8, "big")
    body = bytes(byte ^ key for byte, key in zip(payload, cycle(mask), strict=False))
    return bytes(((0x80 if fin else 0) | opcode,)) + head + mask + body


def read_server_frames(stream: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each frame of a server, all final and unmasked."""
    frames = []
    while stream:
        assert stream[0] & 0xF0 == 0x80
        assert stream[1] < 0x80
        more = {126: 2, 127: 8}.get(stream[1], 0)
        size = int.from_bytes(stream[2 : 2 + more], "big") if more else stream[1]
        end = 2 + more + size
        assert end <= len(stream)
        frames.append((stream[0] & 0x0F, stream[2 + more : end]))
        stream = stream[end:]
    return frames


def run(*chunks: bytes, limit: int = LIMIT) -> Outcome:
    """All messages that *chunks* give, and the close code of the fault, if any."""
    parser = FrameParser(limit)
    messages: list[Message] = []
    code = None
    for chunk in chunks:
        try:
            messages += parser.feed(chunk)
        except FrameError as fault:
            messages += fault.messages
            code = fault.code
    return messages, code


def bytewise(data: bytes) -> list[bytes]:
    """*data* in reads of one byte."""
    return [data[at : at + 1] for at in range(len(data))]


def fragments(opcode: int, *parts: bytes) -> bytes:
    """One message in as many frames as there are *parts*."""
    return b"".join(
        client_frame(CONTINUATION if at else opcode, part, fin=at == len(parts) - 1)
        for at, part in enumerate(parts)
    )
