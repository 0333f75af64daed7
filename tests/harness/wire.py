"""The client's side of RFC 6455: frames out, frames in, strict about the server."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class ServerFault(AssertionError):
    """The server broke RFC 6455 or this protocol."""


class WireFrame(NamedTuple):
    opcode: int
    payload: bytes


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    masked: bool = True,
    rsv: int = 0,
) -> bytes:
    """A frame as a client sends it; the keywords are for breaking the rules."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += struct.pack("!BH", mask_bit | 126, size)
    else:
        head += struct.pack("!BQ", mask_bit | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask *payload* (RFC 6455 section 5.3)."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return mixed.to_bytes(size, "big")


def new_key() -> str:
    return base64.b64encode(os.urandom(16)).decode()


def accept_of(key: str) -> str:
    """What ``Sec-WebSocket-Accept`` must be for *key*."""
    digest = hashlib.sha1(key.encode() + _GUID).digest()  # RFC 6455 asks for SHA-1
    return base64.b64encode(digest).decode()


class FrameReader:
    """Splits the server's bytes into frames and refuses what a server must not send."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._closed = False

    def feed(self, data: bytes) -> Iterator[WireFrame]:
        """Whole frames in *data* and what was left before.

        Raises:
            ServerFault: A rule for servers is broken, or anything follows a Close.
        """
        self._buffer += data
        buffer, start = self._buffer, 0
        while (place := self._locate(start)) is not None:
            opcode, body, end = place
            if self._closed:
                raise ServerFault(f"a frame of opcode {opcode} after Close")
            self._closed = opcode == CLOSE
            yield WireFrame(opcode, bytes(buffer[body:end]))
            start = end
        del buffer[:start]

    def _locate(self, start: int) -> tuple[int, int, int] | None:
        """Opcode, first byte of the payload and end of the frame at *start*."""
        buffer = self._buffer
        if len(buffer) - start < 2:
            return None
        first, size = buffer[start], buffer[start + 1]
        _check_head(first, size)
        body = start + 2
        if size == 126:
            body += 2
            if len(buffer) < body:
                return None
            (size,) = struct.unpack_from("!H", buffer, body - 2)
            _require(size > 125, "a length that is not minimal")
        elif size == 127:
            body += 8
            if len(buffer) < body:
                return None
            (size,) = struct.unpack_from("!Q", buffer, body - 8)
            _require(65535 < size < 2**40, "a length that is not minimal or absurd")
        end = body + size
        return None if len(buffer) < end else (first & 0xF, body, end)


def _check_head(first: int, size: int) -> None:
    _require(first & 0x80 != 0, "a fragment, the broker sends whole messages only")
    _require(first & 0x70 == 0, "reserved bits without an extension")
    _require(size & 0x80 == 0, "a masked frame from a server")
    opcode = first & 0xF
    _require(opcode in (TEXT, CLOSE, PING, PONG), f"an opcode {opcode} from the broker")
    _require(opcode == TEXT or size < 126, "a control frame of more than 125 bytes")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ServerFault(otherwise)
