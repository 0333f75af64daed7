"""What one subscription is told, held against the truth frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from broker.model import FIRST_ID, START, Position, StreamId, parse_position
from broker.protocols.formats import SSE, Format
from broker.worker.channels import Overflow, Start, StartAt
from tests.unit.protocols.peer import read_server_frames
from tests.unit.worker.seam.streams import History, Incarnation

Frame = dict[str, Any]


class Broken(AssertionError):
    """The promise to a subscription was broken."""


def frames_of(wire: Format, data: bytes) -> Iterator[Frame]:
    """The frames in what a socket was sent at once."""
    if wire is SSE:
        for block in data.split(b"\n\n"):
            if block:
                yield orjson.loads(block[block.index(b"data: ") + 6 :])
    else:
        for _opcode, payload in read_server_frames(data):
            yield orjson.loads(payload)


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


class Account:
    """Published = delivered + announced as lost, in order, none twice.

    Attributes:
        start: What the subscription asked for.
        overflow: What it wants when its socket is full.
        announced: ``subscribed`` has come.
        resets: How often it was told that the stream is another one.
    """

    def __init__(
        self, history: History, start: Start, overflow: Overflow, *, strict: bool
    ) -> None:
        self._history = history
        self._strict = strict
        self.start = start
        self.overflow = overflow
        self.announced = False
        self.resets = 0
        self._begin(None, START, exact=start.at is not StartAt.RETAINED)

    def _begin(
        self, life: Incarnation | None, position: Position, *, exact: bool
    ) -> None:
        base = life.ordinal(position.id) if life is not None else 0
        self._start_id = position.id
        self._life = life
        self._base = base
        self._delivered: set[int] = set()
        self._last = base
        self._lost = 0
        self._exact = exact

    def _check_sum(self, published: int, where: str) -> None:
        """Delivered and lost are *published*, or at most that while it is inexact."""
        total = self._base + len(self._delivered) + self._lost
        if self._strict:
            told = f"{total} of {published} accounted for {where}"
            check(total == published or not self._exact, told)
            check(total <= published, told)

    def take(self, frame: Frame) -> None:
        """Take one frame of the subscription's session."""
        name = frame["event"]
        handler = getattr(self, f"_take_{name}", None)
        if "id" in frame:
            check(self.announced, "an event before subscribed")
            self._take_entry(frame)
        else:
            if handler is None:
                raise Broken(f"an unknown frame {name}")
            first = name in ("subscribed", "error")
            check(self.announced or first, f"{name} before subscribed")
            handler(frame["data"])

    def _take_subscribed(self, data: Frame) -> None:
        check(not self.announced, "subscribed twice")
        self.announced = True
        position = self._position(data["from"])
        if data["resume"] == "reset":
            check(position.id == FIRST_ID, f"a reset begins at {position}")
            self._check_reset()
            self._begin(None, START, exact=True)
            return
        if self.start.at is StartAt.POSITION:
            check(position.id == self.start.position.id, f"begins at {position}")
        if self._history.rising and self.start.at in (StartAt.SINCE, StartAt.LAST_N):
            # A time and a count are no part of any history.
            self._begin(None, position, exact=False)
            return
        life = self._history.life_of(position.id)
        self._begin(life, position, exact=self._asked_for_an_id(position.id))

    def _asked_for_an_id(self, stream_id: StreamId) -> bool:
        # What is not retained was not asked for by "all that is retained".
        if self.start.at is StartAt.LIVE:
            return True
        return self.start.at is not StartAt.RETAINED and stream_id != FIRST_ID

    def _take_entry(self, frame: Frame) -> None:
        position = self._position(frame["id"])
        life = self._history.life_of(position.id)
        assert life is not None
        ordinal = life.ordinal(position.id)
        where = f"{position} ({life.number}/{ordinal})"
        check(life.ids[ordinal - 1] == position.id, f"{where} was never published")
        if self._life is None:
            self._life = life
        check(life is self._life, f"{where} is of another history, without a reset")
        check(ordinal > self._last, f"{where} comes after {self._last}")
        if frame["event"] != "skipped":
            check(frame["data"]["n"] == ordinal, f"{where} has other content")
        check(frame.get("seq") == position.seq, f"{where} has another seq")
        self._delivered.add(ordinal)
        self._last = ordinal
        if position.seq is not None:
            self._close(ordinal, where)

    def _close(self, ordinal: int, where: str) -> None:
        """At an exact position the sum must be exact, too."""
        self._check_sum(ordinal, f"at {where}")
        self._base = ordinal - len(self._delivered) - self._lost
        self._exact = True

    def _take_gap(self, data: Frame) -> None:
        after = self._position(data["after"])
        following = self._position(data["next"])
        lost = data["lost"]
        check(data["exact"] == (lost is not None), "exact and a number go together")
        if self._life is None:
            self._life = self._history.life_of(following.id)
        if lost is None or after.id < self._start_id:
            # How much of it was lost behind our start, nobody says.
            self._exact = False
            return
        check(lost > 0, "a gap of nothing")
        self._lost += lost

    def _take_reset(self, data: Frame) -> None:
        check(data["from"] == "0-0@0", "a reset begins at 0-0@0")
        self._check_reset()
        self._begin(None, START, exact=True)

    def _check_reset(self) -> None:
        # A page from Redis may show a change first, and the ring's record again.
        self.resets += 1
        changes = len(self._history.lives) - 1
        check(self.resets <= 2 * changes, f"{self.resets} resets, {changes} changes")

    def _take_caught_up(self, data: Frame) -> None:
        position = self._position(data["position"])
        life = self._life or self._history.life_of(position.id)
        if life is None:
            return
        check(self._history.life_of(position.id) is life, "caught up with the past")
        if position.seq is not None:
            self._check_sum(life.ordinal(position.id), f"when caught up at {position}")

    def _take_error(self, data: Frame) -> None:
        del data

    def _position(self, text: str) -> Position:
        position = parse_position(text)
        life = self._history.life_of(position.id)
        if life is not None and position.seq is not None:
            truth = life.ordinal(position.id)
            check(position.seq == truth, f"{text} has the ordinal {truth}")
        return position

    def finish(self) -> None:
        """Everything has come to rest and the subscription is live: is it complete?"""
        now = self._history.now
        check(self.announced, "subscribed never came")
        check(self._life in (None, now), "a reset was not announced")
        self._check_sum(len(now.ids), "at the end")
        missing = {
            ordinal
            for ordinal in now.left()
            if ordinal > now.ordinal(self._start_id)
            and ordinal not in self._delivered
            and not self._may_be_left_out(now.fields[ordinal - 1])
        }
        check(not missing, f"{sorted(missing)} are there and were not delivered")

    def _may_be_left_out(self, fields: list[bytes]) -> bool:
        return (
            self.overflow is Overflow.DROP
            or b"transient" in fields
            or (self.overflow is Overflow.LATEST and b"key" in fields)
        )
