"""One client's account of one session: what it was sent, checked as it arrives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from broker.model import FIRST_ID, Position, StreamId, parse_position

Frame = dict[str, Any]

BROKER_EVENTS = frozenset(
    [
        "welcome",
        "subscribed",
        "unsubscribed",
        "caught_up",
        "gap",
        "reset",
        "closing",
        "heartbeat",
        "pong",
        "error",
        "ack",
    ]
)
GAP_REASONS = frozenset(("trimmed", "transient", "conflated", "dropped", "reset"))


@dataclass(frozen=True, slots=True)
class Told:
    """A ``gap`` as it was told."""

    after: Position
    next: Position
    lost: int | None
    reason: str


@dataclass(slots=True)
class Epoch:
    """What was received of one life of the stream.

    Attributes:
        start: What lies up to here was not asked for; None until ``subscribed``.
        received: Id, seq (None if it was not sent) and publisher's number.
        told: Gaps in front of the last received event.
        pending: Gaps after it; they are told again after a reconnect.
        positions: Every other position that was told, to be checked at the end.
    """

    start: Position | None = None
    received: list[tuple[StreamId, int | None, int | None]] = field(
        default_factory=list
    )
    told: list[Told] = field(default_factory=list)
    pending: list[Told] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)

    @property
    def last_id(self) -> StreamId:
        if self.received:
            return self.received[-1][0]
        return self.start.id if self.start else FIRST_ID

    @property
    def covered(self) -> StreamId:
        """Everything up to here was delivered or announced."""
        return max([self.last_id, *(gap.next.id for gap in self.pending)])


class Account:
    """Checks what one client receives of one session, across its connections.

    Faults found while frames arrive are kept in ``faults``: the event loop's
    callbacks are no place to raise.
    """

    def __init__(self, client: str, session: str) -> None:
        self.client = client
        self.session = session
        self.faults: list[str] = []
        self.epochs = [Epoch()]
        self.left = False
        self.last_position: str | None = None
        self.connections = 0
        self._exact: int | None = None
        self._since_exact = 0
        self._unknown = False
        self._resumed_from: StreamId | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def epoch(self) -> Epoch:
        return self.epochs[-1]

    @property
    def delivered(self) -> int:
        return sum(len(epoch.received) for epoch in self.epochs)

    def connecting(self) -> None:
        """A new connection begins: what follows the last event is told again."""
        self.connections += 1
        self.epoch.pending.clear()
        started = self.epoch.start is not None
        self._resumed_from = self.epoch.last_id if started else None

    def leave(self) -> None:
        """The client does not come back: nothing after its last event is owed."""
        self.left = True

    def frame(self, frame: Frame) -> None:
        """Take one frame that names this session or carries an id."""
        if "id" in frame:
            self._event(frame)
        else:
            handle = getattr(self, f"_on_{frame.get('event')}", None)
            if handle is not None:
                handle(frame["data"])
            elif frame.get("event") not in BROKER_EVENTS:
                self._fault(f"an event without id: {frame}")
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def changed(self) -> None:
        """Wait for the next frame."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _fault(self, text: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(f"{self.client}/{self.session}: {text}")

    def _event(self, frame: Frame) -> None:
        epoch = self.epoch
        position = self._position(frame["id"])
        if position.seq != frame.get("seq"):
            self._fault(f"id {frame['id']} disagrees with seq {frame.get('seq')}")
        if epoch.start is None:
            self._fault(f"{frame['id']} before 'subscribed'")
        if position.id <= epoch.last_id:
            self._fault(self._out_of_order(position))
            return
        self._check_seq(position)
        data = frame.get("data")
        number = data.get("i") if isinstance(data, dict) else None
        epoch.received.append((position.id, position.seq, number))
        epoch.told += epoch.pending
        epoch.pending.clear()
        self.last_position = frame["id"]

    def _out_of_order(self, position: Position) -> str:
        epoch = self.epoch
        if any(position.id == entry[0] for entry in epoch.received):
            return f"{position} received twice"
        if epoch.start and position.id <= epoch.start.id:
            return f"{position} lies before the start {epoch.start}"
        return f"{position} received after {epoch.received[-1][0]}"

    def _check_seq(self, position: Position) -> None:
        pending = self.epoch.pending
        if any(gap.lost is None for gap in pending):
            self._unknown = True
        self._since_exact += 1 + sum(gap.lost or 0 for gap in pending)
        if position.seq is None:
            return
        if self._exact is not None and not self._unknown:
            hole = position.seq - self._exact - self._since_exact
            if hole:
                self._fault(
                    f"seq of {position} leaves a hole of {hole} that no gap announced"
                    if hole > 0
                    else f"seq of {position} says that {-hole} fewer were lost"
                )
        self._exact, self._since_exact, self._unknown = position.seq, 0, False

    def _on_subscribed(self, data: Frame) -> None:
        start = self._position(data["from"])
        tip = self._position(data["tip"])
        resume = data["resume"]
        if resume not in ("live", "complete", "gap", "reset"):
            self._fault(f"unknown resume {resume!r}")
        if self.epoch.start is None:
            self._begin(start)
        elif resume == "reset":
            self._begin_again(start)
        elif start.id != self._resumed_from:
            self._fault(f"resumed from {start} instead of {self._resumed_from}")
        self.epoch.positions += [start, tip]

    def _on_reset(self, data: Frame) -> None:
        self._begin_again(self._position(data["from"]))

    def _begin(self, start: Position) -> None:
        self.epoch.start = start
        self.last_position = str(start)
        self._exact, self._since_exact, self._unknown = start.seq, 0, False

    def _begin_again(self, start: Position) -> None:
        if start.id != FIRST_ID:
            self._fault(f"a reset that starts at {start} and not at the beginning")
        self.epochs.append(Epoch())
        self._begin(start)

    def _on_gap(self, data: Frame) -> None:
        after, upto = self._position(data["after"]), self._position(data["next"])
        lost = data["lost"]
        if data["reason"] not in GAP_REASONS:
            self._fault(f"unknown reason in gap {data}")
        if data["exact"] is not (lost is not None) or (lost is not None and lost < 1):
            self._fault(f"lost and exact do not fit in gap {data}")
        if after.id > self.epoch.covered or upto.id <= self.epoch.last_id:
            self._fault(f"gap {data} is out of place after {self.epoch.last_id}")
        self.epoch.pending.append(Told(after, upto, lost, data["reason"]))

    def _on_caught_up(self, data: Frame) -> None:
        position = self._position(data["position"])
        if position.id < self.epoch.last_id:
            self._fault(f"caught up at {position} after {self.epoch.last_id}")
        self.epoch.positions.append(position)

    def _position(self, text: str) -> Position:
        try:
            return parse_position(text)
        except ValueError:
            self._fault(f"{text!r} is no position")
            return Position(FIRST_ID, None)
