"""The payload of each kind of record: pack and unpack, nothing else."""

from __future__ import annotations

import struct

import msgspec

from broker.entry import SKIP_REASONS, Skipped
from broker.model import Position
from broker.ring import layout

_EVENT = struct.Struct("=BBHI")
FRAME_HEAD = struct.Struct(f"=Q{layout.RECORD_BYTES - 8}xBxHI")
"""Of an EVENT record what its frame is found by: the first word, then whether it is
transient and the lengths of key and frame."""
_GAP = struct.Struct("=QQQQQQQBB")
_JOIN = struct.Struct("=IQQQQQIIBH")
_REFUSED = struct.Struct("=IQH")
_UNKNOWN = 2**64 - 1

GAP_REASONS = ("trimmed", "transient", "conflated", "dropped", "reset")


def seq_word(seq: int | None) -> int:
    """An ordinal as it stands in a record: 0 where it is not known."""
    return seq or 0


def position_of(ms: int, n: int, seq: int) -> Position:
    """A position from the words of a record; ordinal 0 is exact only at 0-0."""
    if seq:
        return Position((ms, n), seq)
    return Position((ms, n), None if ms or n else 0)


class EventRecord(msgspec.Struct, frozen=True, gc=False):
    """An event as the ring carries it: ready to be sent.

    The reader builds the frame once for all workers; each of them only copies it.

    Attributes:
        frame: A WebSocket text frame of ``broker.v1``.
        header_bytes: Where in it the JSON text begins.
        key: What ``overflow=latest`` conflates by, empty for none.
        transient: It is delivered live and not replayed.
    """

    frame: bytes
    header_bytes: int
    key: bytes
    transient: bool


def pack_event(frame: bytes, header_bytes: int, key: bytes, transient: bool) -> bytes:
    """Payload of an EVENT record, as `EventRecord` describes its parts.

    Its first byte says whether the event is transient.
    """
    return _EVENT.pack(transient, header_bytes, len(key), len(frame)) + key + frame


def unpack_event(payload: bytes) -> EventRecord:
    """The event in the payload of an EVENT record."""
    transient, header, key, size = _EVENT.unpack_from(payload)
    start = _EVENT.size + key
    return EventRecord(
        frame=payload[start : start + size],
        header_bytes=header,
        key=payload[_EVENT.size : start],
        transient=bool(transient),
    )


def unpack_frame(payload: bytes) -> bytes:
    """Only the frame of the payload of an EVENT record."""
    _transient, _header, key, size = _EVENT.unpack_from(payload)
    start = _EVENT.size + key
    return payload[start : start + size]


def pack_skipped(skipped: Skipped) -> bytes:
    """Payload of a SKIPPED record."""
    reason = SKIP_REASONS.index(skipped.reason)
    return bytes((reason, len(skipped.detail))) + skipped.detail


def unpack_skipped(payload: bytes) -> Skipped:
    """The reason in the payload of a SKIPPED record."""
    return Skipped(reason=SKIP_REASONS[payload[0]], detail=payload[2 : 2 + payload[1]])


class GapRecord(msgspec.Struct, frozen=True, gc=False):
    """A hole in a stream.

    Attributes:
        after: The last position before the hole.
        next: The first position behind it.
        lost: How many entries are missing, None where nobody can know.
        exact: Whether ``lost`` is certain.
        reason: One of ``GAP_REASONS``.
    """

    after: Position
    next: Position
    lost: int | None
    exact: bool
    reason: str


def pack_gap(gap: GapRecord) -> bytes:
    """Payload of a GAP record."""
    after, following = gap.after, gap.next
    return _GAP.pack(
        *after.id,
        seq_word(after.seq),
        *following.id,
        seq_word(following.seq),
        _UNKNOWN if gap.lost is None else gap.lost,
        gap.exact,
        GAP_REASONS.index(gap.reason),
    )


def unpack_gap(payload: bytes) -> GapRecord:
    """The hole in the payload of a GAP record."""
    am, an, aseq, nm, nn, nseq, lost, exact, reason = _GAP.unpack_from(payload)
    return GapRecord(
        after=position_of(am, an, aseq),
        next=position_of(nm, nn, nseq),
        lost=None if lost == _UNKNOWN else lost,
        exact=bool(exact),
        reason=GAP_REASONS[reason],
    )


def pack_unreadable(reason: str) -> bytes:
    """Payload of an UNREADABLE record; *reason* is a short word."""
    text = reason.encode()
    return bytes((len(text),)) + text


def unpack_unreadable(payload: bytes) -> str:
    """The reason in the payload of an UNREADABLE record."""
    return payload[1 : 1 + payload[0]].decode()


class Join(msgspec.Struct, frozen=True, gc=False):
    """What a worker learns of a channel; its cursor stands in the record itself.

    Attributes:
        worker: Board row of the worker that asked.
        token: The number it gave its request.
        session: The session's name.
        base: Where the channel's chain begins.
        last: Ring position of the channel's last record, 0 before the first.
        epoch: How many resets the watch has seen.
        reset: The position that the request came with is not of this stream.
        mean_bytes: How large the stream's entries are, 0 where that is not known.
    """

    worker: int
    token: int
    session: str
    base: Position
    last: int
    epoch: int
    reset: bool
    mean_bytes: int = 0


def pack_join(join: Join) -> bytes:
    """Payload of a JOIN record."""
    name = join.session.encode()
    fixed = _JOIN.pack(
        join.worker,
        join.token,
        *join.base.id,
        seq_word(join.base.seq),
        join.last,
        join.epoch,
        join.mean_bytes,
        join.reset,
        len(name),
    )
    return fixed + name


def unpack_join(payload: bytes) -> Join:
    """The answer in the payload of a JOIN record."""
    fields = _JOIN.unpack_from(payload)
    worker, token, ms, n, seq, last, epoch, mean_bytes, reset, size = fields
    name = payload[_JOIN.size : _JOIN.size + size]
    base = position_of(ms, n, seq)
    session = name.decode()
    return Join(worker, token, session, base, last, epoch, bool(reset), mean_bytes)


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Why a worker may not watch a session.

    Attributes:
        worker: Board row of the worker that asked.
        token: The number it gave its request.
        reason: A word for clients, such as ``wrong_type`` or ``overloaded``.
    """

    worker: int
    token: int
    reason: str


def pack_refused(refused: Refused) -> bytes:
    """Payload of a REFUSED record."""
    reason = refused.reason.encode()
    return _REFUSED.pack(refused.worker, refused.token, len(reason)) + reason


def unpack_refused(payload: bytes) -> Refused:
    """The refusal in the payload of a REFUSED record."""
    worker, token, size = _REFUSED.unpack_from(payload)
    reason = payload[_REFUSED.size : _REFUSED.size + size]
    return Refused(worker, token, reason.decode())
