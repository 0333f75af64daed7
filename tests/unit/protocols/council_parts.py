"""What tests of the hub's bytes share."""

from __future__ import annotations

import json
from typing import Any

from broker.entry import Event
from broker.protocols.council import Clock, CouncilFormat
from tests.unit.protocols.peer import read_server_frames

MS = 1763699200000
NOW_NS = MS * 1_000_000
SESSION = b"s1"


def new_format() -> CouncilFormat:
    """With a clock that stands still."""
    return CouncilFormat(Clock(lambda: NOW_NS))


def entry(data: str, event: str = "token_stream", node_id: str = "") -> Event:
    return Event(event.encode(), data.encode(), b"", node_id.encode(), b"", False)


def frames(data: bytes) -> list[dict[str, Any]]:
    """What the front end reads of a server's bytes."""
    return [json.loads(text) for opcode, text in read_server_frames(data) if opcode]
