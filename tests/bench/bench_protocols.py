"""What the wire formats cost: ``python -m tests.bench.bench_protocols``.

Prints microseconds per call, the best of several runs; asserts nothing.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from itertools import count

import orjson

from broker.entry import Event, read_entry
from broker.protocols.formats import NATIVE, SSE
from broker.protocols.native import event_json, read_client_frame
from broker.protocols.timestamps import default_timestamp
from broker.protocols.websocket import FrameParser, text_frame, unmask

CALLS, RUNS = 20_000, 9

DATA = orjson.dumps(
    {"chunk": "Hello wor " * 8, "node_id": "agent_a", "agent_id": "x" * 30, "n": 1.5}
)
FIELDS = [b"event", b"token_stream", b"data", DATA, b"node_id", b"agent_a"]
STAMP = b"2025-11-21T04:26:40.123456789Z"
EVENT = Event(b"token_stream", DATA, b"", b"agent_a", b"", False)
BARE = Event(b"token_stream", DATA, b"", b"", b"", False)
STAMPED = Event(b"token_stream", DATA, STAMP, b"agent_a", b"", False)
MS = 1_763_700_000_123
LONG = b"x" * 4096
MASK = b"\x12\x34\x56\x78"
COMMAND = b'{"cmd":"ping","id":"c1","data":{"text":"0123456789"}}'


def masked(first: int, payload: bytes) -> bytes:
    """A short frame as a client sends it."""
    return bytes((first, 0x80 | len(payload))) + MASK + unmask(payload, MASK)


def measure(name: str, call: Callable[[], object]) -> None:
    """Time *call* and print the best run."""
    best_s = min(timeit.repeat(call, number=CALLS, repeat=RUNS)) / CALLS
    print(f"{name:44} {best_s * 1e6:7.2f} us")  # noqa: T201 - printing is its purpose


def measure_entries() -> None:
    """Reading what publishers wrote."""
    size = sum(map(len, FIELDS))
    measure(f"read_entry, {size} bytes, 3 fields", lambda: read_entry(FIELDS, 1 << 20))
    stamped = [*FIELDS, b"timestamp", STAMP]
    measure("read_entry, with a timestamp", lambda: read_entry(stamped, 1 << 20))
    accented = [*FIELDS[:3], '{"chunk":"é"}'.encode() + b" " * 150]
    measure("read_entry, not ASCII", lambda: read_entry(accented, 1 << 20))


def measure_formats() -> None:
    """Building what clients receive."""
    measure("event_json", lambda: event_json(b"s1", MS, 0, 412, EVENT))
    measure("event_json, no node_id", lambda: event_json(b"s1", MS, 0, 412, BARE))
    measure("event_json, timestamp given", lambda: event_json(b"s1", MS, 0, 4, STAMPED))
    measure("NATIVE.event", lambda: NATIVE.event(b"s1", MS, 0, 412, EVENT))
    measure("SSE.event", lambda: SSE.event(b"s1", MS, 0, 412, EVENT))
    measure("text_frame, 100 bytes", lambda: text_frame(DATA[:100]))
    measure("text_frame, 4 KiB", lambda: text_frame(LONG))
    seconds = count()
    measure(
        "default_timestamp, a new second each time",
        lambda: default_timestamp(next(seconds) * 1000, 0),
    )


def measure_parser() -> None:
    """Taking apart what clients send."""
    parser = FrameParser(65536)
    text, pong = masked(0x81, COMMAND), masked(0x8A, b"")
    two, half = text * 2, len(text) // 2
    measure(f"feed, one text frame of {len(text)} bytes", lambda: parser.feed(text))
    measure("feed, one empty pong", lambda: parser.feed(pong))
    measure("feed, two frames in one read", lambda: parser.feed(two))
    measure(
        "feed, one frame in two reads",
        lambda: (parser.feed(text[:half]), parser.feed(text[half:])),
    )
    measure("read_client_frame", lambda: read_client_frame(COMMAND))
    measure("unmask, 4 KiB", lambda: unmask(LONG, MASK))


if __name__ == "__main__":
    measure_entries()
    measure_formats()
    measure_parser()
