"""Keeping the books of one connection, frame by frame.

Published = delivered + announced as lost. The publisher's own ordinal is the truth
against which the server's ids, ``seq`` and gaps are checked.
"""

from __future__ import annotations

import re

import msgspec
import orjson

from loadtest import payload

_EVENT = re.compile(rb'\{"id":"(\d+)-(\d+)(?:@\d+)?"(?:,"seq":(\d+))?')


class Books(msgspec.Struct):
    """What the accounts of a process add up to; all but ``events`` and gaps must be 0.

    Attributes:
        events: Events seen.
        gaps: Gaps that were announced.
        announced: Events that gaps of known size said are lost.
        unknown_gaps: Gaps that gave no number.
        resets: Histories that began anew.
        unexplained: Events missing without, or announced beyond, a gap.
        disordered: Events whose id or ordinal is not above the one before.
        seq_wrong: Steps of ``seq`` that differ from the step of the ordinal.
        errors: Error frames.
    """

    events: int = 0
    gaps: int = 0
    announced: int = 0
    unknown_gaps: int = 0
    resets: int = 0
    unexplained: int = 0
    disordered: int = 0
    seq_wrong: int = 0
    errors: int = 0


class Account:
    """One connection and its books; *books* are shared by all of a process."""

    __slots__ = ("_books", "_id", "_pending", "_seq", "joined", "ordinal")

    def __init__(self, books: Books, ordinal: int = -1) -> None:
        self._books = books
        self._id = (0, 0)
        self._seq: int | None = None
        self._pending: int | None = 0
        self.ordinal = ordinal
        self.joined = False

    def take(self, frame: bytes) -> int | None:
        """Book one text frame; the publish time if it is an event.

        Returns:
            CLOCK_MONOTONIC in nanoseconds, or None for a frame of the broker's own.
        """
        marker = frame.find(payload.MARKER)
        if marker < 0:
            self._take_notice(frame)
            return None
        self._books.events += 1
        ordinal = payload.ordinal_at(frame, marker)
        self._check_step(ordinal)
        self._check_position(frame, ordinal)
        self.ordinal = ordinal
        return payload.time_ns_at(frame, marker)

    def _check_step(self, ordinal: int) -> None:
        books, pending = self._books, self._pending
        self._pending = 0
        if self.ordinal < 0:
            return
        if ordinal <= self.ordinal:
            books.disordered += 1
        elif pending is not None:
            books.unexplained += abs(ordinal - self.ordinal - 1 - pending)

    def _check_position(self, frame: bytes, ordinal: int) -> None:
        match = _EVENT.match(frame)
        if match is None:
            return
        stream_id = (int(match[1]), int(match[2]))
        if stream_id <= self._id:
            self._books.disordered += 1
        self._id = stream_id
        seq = int(match[3]) if match[3] is not None else None
        if seq is not None and self._seq is not None and self.ordinal >= 0:
            self._books.seq_wrong += seq - self._seq != ordinal - self.ordinal
        self._seq = seq

    def _take_notice(self, frame: bytes) -> None:
        notice = orjson.loads(frame)
        match notice["event"]:
            case "subscribed":
                self.joined = notice["data"]["resume"] == "live"
            case "caught_up":
                self.joined = True
            case "gap":
                self._take_gap(notice["data"]["lost"])
            case "reset":
                self._books.resets += 1
                self._id, self._seq, self._pending = (0, 0), None, None
            case "error":
                self._books.errors += 1
            case _:
                pass

    def _take_gap(self, lost: int | None) -> None:
        self._books.gaps += 1
        if lost is None:
            self._books.unknown_gaps += 1
            self._pending = None
        else:
            self._books.announced += lost
            if self._pending is not None:
                self._pending += lost
