"""What comes out of a session's stream, as values."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import msgspec

from broker.client.wire import Frame, is_reset, read_details

_read_data = msgspec.json.Decoder().decode


class Event(msgspec.Struct, frozen=True):
    """A published event.

    Attributes:
        id: Its position: what ``last_event_id`` takes to go on behind it.
        event: Its name.
        data: What was published, from JSON.
        session: Of which session.
        timestamp: RFC 3339: the publisher's, else when it was stored.
        seq: Its ordinal in the stream, 1 for the first one ever; None where that is not
            known exactly.
        node_id: Which part of the service said it; None if it did not say so.
    """

    id: str
    event: str
    data: Any
    session: str
    timestamp: str
    seq: int | None = None
    node_id: str | None = None


class Skipped(msgspec.Struct, frozen=True):
    """A stream entry that is no event: it broke the publishing contract.

    Attributes:
        id: Its position.
        session: Of which session.
        reason: Such as ``not_json`` (PROTOCOL.md, "Publishing").
        message: For a person.
        seq: As of an event.
    """

    event: ClassVar[str] = "skipped"
    id: str
    session: str
    reason: str
    message: str
    seq: int | None = None

    @property
    def data(self) -> dict[str, Any]:
        """As in the frame."""
        return {"reason": self.reason, "message": self.message}


class Gap(msgspec.Struct, frozen=True):
    """Entries that are not delivered.

    Attributes:
        session: Of which session.
        after: The position before them.
        next: Where the hole ends, mostly the position of the next event.
        lost: How many; None where nobody can know.
        exact: Whether *lost* is the number.
        reason: ``trimmed``: retention removed them. Or what was agreed on:
            ``transient``, ``conflated``, ``dropped``.
    """

    event: ClassVar[str] = "gap"
    id: ClassVar[None] = None
    session: str
    after: str
    next: str
    lost: int | None
    exact: bool
    reason: str

    @property
    def data(self) -> dict[str, Any]:
        """As in the frame."""
        return {
            "after": self.after,
            "next": self.next,
            "lost": self.lost,
            "exact": self.exact,
            "reason": self.reason,
        }


class Reset(msgspec.Struct, frozen=True):
    """The stream is another one: all that it retains follows, from its beginning.

    Attributes:
        session: Of which session.
        start: The position where the new history begins.
        tip: How far it went at the time.
    """

    event: ClassVar[str] = "reset"
    id: ClassVar[None] = None
    session: str
    start: str
    tip: str

    @property
    def data(self) -> dict[str, Any]:
        """As in the frame."""
        return {"from": self.start, "tip": self.tip}


class Notice(msgspec.Struct, frozen=True):
    """Anything else that the broker says of itself, such as ``caught_up``.

    Attributes:
        event: Its name.
        data: From JSON.
        session: Of which session; None for the connection.
    """

    id: ClassVar[None] = None
    event: str
    data: Any
    session: str | None = None


Item = Event | Skipped | Gap | Reset | Notice
"""Each has ``id``, ``event`` and ``data``; ``id`` is None of what is no entry."""


class _Lost(msgspec.Struct, frozen=True):
    after: str
    next: str
    lost: int | None
    exact: bool
    reason: str


class _Bad(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


_read_lost = msgspec.json.Decoder(_Lost).decode
_read_bad = msgspec.json.Decoder(_Bad).decode


def read_item(frame: Frame) -> Item:
    """Make a value of a frame.

    Raises:
        msgspec.DecodeError: It is no frame of the broker.
    """
    session = frame.session or ""
    if frame.id is not None:
        return _read_entry(frame.id, session, frame)
    if frame.event == "gap":
        gap = _read_lost(frame.data)
        return Gap(session, gap.after, gap.next, gap.lost, gap.exact, gap.reason)
    if is_reset(frame):
        details = read_details(frame.data)
        return Reset(session, details.start or "", details.tip or "")
    return Notice(frame.event, read_data(frame.data), frame.session)


def _read_entry(position: str, session: str, frame: Frame) -> Event | Skipped:
    # A publisher may call an event so, too; but each event has a time.
    if frame.event == "skipped" and frame.timestamp is None:
        bad = _read_bad(frame.data)
        return Skipped(position, session, bad.reason, bad.message, frame.seq)
    return Event(
        position,
        frame.event,
        read_data(frame.data),
        session,
        frame.timestamp or "",
        frame.seq,
        frame.node_id,
    )


def read_data(text: msgspec.Raw) -> Any:
    """Read JSON text; integers of any size stay exact."""
    try:
        return _read_data(text)
    except msgspec.DecodeError:
        # By the grammar it is JSON, or the broker had not sent it: it has a number too
        # large for a float, or half a surrogate pair.
        return json.loads(bytes(text))
