"""What one ``XINFO STREAM`` says of a stream."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, Literal

import msgspec
from hiredis import ReplyError

from broker.errors import ServerUnsuitable
from broker.model import StreamId, parse_stream_id
from broker.store.replies import store_error


class NotRead(Enum):
    """The type of `NOT_READ`."""

    NOT_READ = "not read"


NOT_READ: Final = NotRead.NOT_READ
"""Stands for the `StreamInfo` of a page that was read without it."""


class StreamInfo(msgspec.Struct, frozen=True, gc=False):
    """One ``XINFO STREAM``.

    Attributes:
        added: How many entries were ever added.
        length: How many of them are there.
        last: The largest id that an entry ever had.
        first: The id of the first entry there is; ``(0, 0)`` if there is none.
        max_deleted: The largest id that ``XDEL`` removed; trimming does not count.
        mean_bytes: Size of the fields of the first or the last entry, the larger;
            0 if there is none.
    """

    added: int
    length: int
    last: StreamId
    first: StreamId
    max_deleted: StreamId
    mean_bytes: int = 0


def read_stream_info(reply: Any) -> StreamInfo | None:
    """Take the reply to ``XINFO STREAM`` apart; None if there is no such key.

    Raises:
        StoreRefused: The key holds no stream, or may not be read.
        StoreUnavailable: The server is not ready.
        ServerUnsuitable: The server is too old to count what was added.
    """
    if isinstance(reply, ReplyError):
        if "no such key" in str(reply):
            return None
        raise store_error(reply)
    try:
        return StreamInfo(
            reply[b"entries-added"],
            reply[b"length"],
            parse_stream_id(reply[b"last-generated-id"]),
            parse_stream_id(reply[b"recorded-first-entry-id"]),
            parse_stream_id(reply[b"max-deleted-entry-id"]),
            max(_size(reply[b"first-entry"]), _size(reply[b"last-entry"])),
        )
    except KeyError as error:
        raise ServerUnsuitable(f"XINFO STREAM has no field {error}") from None


def _size(entry: list[Any] | None) -> int:
    return sum(map(len, entry[1])) if entry else 0


Info = StreamInfo | None | Literal[NotRead.NOT_READ]
