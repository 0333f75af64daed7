"""The client's side of RFC 6455, as far as a load test needs it."""

from __future__ import annotations

import base64
import os

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def upgrade_request(host: str, path: str) -> bytes:
    """The HTTP request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """A frame as clients send it.

    The mask is zero, so the payload stays as it is: servers must unmask all the same,
    and there is no proxy here that an unpredictable mask would protect.
    """
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Cut server frames off the front of *data*: ``(opcode, payload)``, and the rest.

    A fragment is returned like a frame; no server measured here sends any.
    """
    frames = []
    at, end = 0, len(data)
    while at + 2 <= end:
        size, head = data[at + 1], 2
        if size == 126:
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
        if at + head > end or at + head + size > end:
            break
        frames.append((data[at] & 15, data[at + head : at + head + size]))
        at += head + size
    return frames, data[at:]


def status_of(head: bytes) -> int:
    """The status of an HTTP response, or 0 if it is none."""
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        return 0
    return int(words[1]) if words[1].isdigit() else 0
