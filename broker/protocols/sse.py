"""Server-Sent Events: the blocks of a ``text/event-stream`` (WHATWG HTML 9.2).

No block has an ``event:`` line, so ``onmessage`` of a browser sees all of them; the
name of the event is in the JSON.
"""

from __future__ import annotations

from typing import Final

HEARTBEAT: Final = b": heartbeat\n\n"


def data_block(json: bytes, position: bytes = b"") -> bytes:
    """A block that carries *json*, and *position* as what a client resumes from.

    A raw line end would cut the field. In JSON text it can only be white space
    between tokens, so it becomes a space.
    """
    line = json.replace(b"\n", b" ").replace(b"\r", b" ")
    if position:
        return b"id: %b\ndata: %b\n\n" % (position, line)
    return b"data: %b\n\n" % line


def retry_block(delay_ms: int) -> bytes:
    """Tells an ``EventSource`` how long to wait before it connects again."""
    return b"retry: %d\n\n" % delay_ms
