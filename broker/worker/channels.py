"""What a worker knows of sessions, and who reads them. Pure: no loop, no socket."""

from __future__ import annotations

from enum import IntEnum
from itertools import count
from typing import Protocol

import msgspec

from broker.disconnect import Disconnect
from broker.model import START, Position
from broker.protocols.formats import Format
from broker.store.loss import Anchor
from broker.worker.recent import Hole, Recent

_lives = count()

UNCOUNTED = -(1 << 62)
"""Where a count of entries begins while no ordinal is known: anything below 0 says how
far apart two places are, and nothing of where they are."""

SIZES_KEPT = 8
"""About how many of the newest samples make up the mean size of a channel's entries."""


class State(IntEnum):
    """Where a subscription stands."""

    JOINING = 0
    """The reader has not answered yet."""
    REPLAYING = 1
    """Behind the tip because it asked for the past, or was cut off from the ring."""
    LAGGING = 2
    """Behind the tip because its socket is."""
    LIVE = 3
    """At the tip: it needs no cursor."""
    CLOSED = 4


class Overflow(IntEnum):
    """What happens to a subscription whose socket does not keep up."""

    LAG = 0
    LATEST = 1
    DROP = 2
    CLOSE = 3


class StartAt(IntEnum):
    """What a subscription asks for."""

    LIVE = 0
    POSITION = 1
    RETAINED = 2
    LAST_N = 3
    SINCE = 4


class Start(msgspec.Struct, frozen=True, gc=False):
    """From where a subscription wants events.

    Attributes:
        at: Kind of start.
        position: For POSITION and SINCE: everything after it.
        count: For LAST_N: how many entries, at least 1.
    """

    at: StartAt = StartAt.LIVE
    position: Position = START
    count: int = 0


class Socket(Protocol):
    """What fan-out and catching up need of a connection."""

    fd: int
    """Descriptor that may be written to at once, -1 for none: then ``send`` knows."""

    blocked: bool
    """Its write buffer is above the mark: nothing more until it has drained."""

    format: Format

    @property
    def open(self) -> bool:
        """Whether frames may still be written."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait in this process for the kernel."""

    def send(self, data: bytes) -> None:
        """Write prepared bytes; does nothing once the connection is closing."""

    def notify(self, event: str, data: object, session: str | None = None) -> None:
        """Tell an event of the broker itself, in the client's own words."""

    def hold(self, frame: bytes) -> None:
        """Keep *frame* until the subscription has caught up; the newest one counts."""

    def queue_rest(self, data: bytes, written: int) -> None:
        """Leave to the transport what the kernel has not taken of *data*."""

    def close(self, reason: Disconnect) -> None:
        """Say why and close."""


class Consumer(Protocol):
    """What follows where a subscription stands."""

    def restart(self) -> None:
        """The stream is another one: it begins at its start."""


class Subscription:
    """One connection reading one session.

    Attributes:
        socket: The connection.
        channel: The session's channel.
        state: Where it stands.
        position: How far it has been sent, unless it is LIVE: then it is the tip.
        reached: The same as a number of entries, to be compared with that of the
            channel; None where nobody can know. It may be wrong by what was lost.
        epoch: The channel's epoch that ``position`` belongs to.
        live_since: Number of the newest broadcast when it went live: it has been sent
            what that one and those before it carry.
        start: What it asked for.
        overflow: What happens when its socket does not keep up.
        ref: Id of the subscribe command, None for a session named by the path.
        consumer: Commits its position; None where nobody asked for that.
        announced: Whether ``subscribed`` was sent.
        checked: Whether ``position`` is known to be of this stream.
        replayed: Events sent since it last was behind.
        anchor: Ordinals between pages from Redis, while they are not exact.
        hole: Entries left out that it has not been told of yet.
        waits: Something will step it: a page, a walk, the tip or its socket.
        behind_since: Loop time when it fell behind or began.
        progress_at: Loop time when it last could be sent something.
    """

    __slots__ = (
        "anchor",
        "announced",
        "behind_since",
        "channel",
        "checked",
        "consumer",
        "epoch",
        "hole",
        "live_since",
        "overflow",
        "position",
        "progress_at",
        "reached",
        "ref",
        "replayed",
        "socket",
        "start",
        "state",
        "waits",
    )

    def __init__(
        self,
        socket: Socket,
        channel: Channel,
        start: Start,
        overflow: Overflow,
        ref: str | None,
    ) -> None:
        self.socket = socket
        self.channel = channel
        self.state = State.JOINING
        self.position = START
        self.reached: int | None = None
        self.epoch = 0
        self.start = start
        self.overflow = overflow
        self.ref = ref
        self.consumer: Consumer | None = None
        self.announced = False
        self.checked = False
        self.replayed = 0
        self.anchor: Anchor | None = None
        self.hole: Hole | None = None
        self.waits = False
        self.progress_at = 0.0
        self.behind_since = 0.0
        self.live_since = 0


class Channel:
    """One session in this worker.

    Attributes:
        session: The session's name.
        name: The same as bytes, safe inside JSON text.
        number: Channel number in the ring, 0 until the JOIN has come.
        token: Number of the request that waits for a JOIN, 0 for none.
        tip: Position of the last record that was drained.
        reached: The ordinal of the tip, counted on from the last one that was known;
            below 0, from ``UNCOUNTED`` on, while none ever was.
        entry_bytes: About how large its entries are, as they are sent; 0: not known.
        last: Ring position of that record, where walks back begin.
        epoch: Counts resets, so a position of the former history is recognised.
        reader_epoch: The reader's count, to notice resets that were lapped.
        live: Subscriptions at the tip, by their format, each with its socket's ``fd``:
            fan-out need not look at the objects themselves.
        behind: The others.
        recent: Index of the chain while somebody catches up, else None.
        count: Entries per page from Redis.
        known: It has been joined before, so ``tip`` means something.
        former: The number that it had before it was cut off, 0 for none.
        ahead: Subscriptions whose position the tip has not reached yet.
        pinned: The worker itself needs it, for the probe.
        life: Another number for each stream that it was found to be; no other channel
            has had it.
    """

    __slots__ = (
        "ahead",
        "behind",
        "count",
        "entry_bytes",
        "epoch",
        "former",
        "known",
        "last",
        "life",
        "live",
        "name",
        "number",
        "pinned",
        "reached",
        "reader_epoch",
        "recent",
        "session",
        "tip",
        "token",
    )

    def __init__(self, session: str) -> None:
        self.session = session
        self.name = session.encode()
        self.number = 0
        self.token = 0
        self.tip = START
        self.reached = UNCOUNTED
        self.entry_bytes = 0.0
        self.last = 0
        self.epoch = 0
        self.reader_epoch = 0
        self.live: dict[Format, dict[Subscription, int]] = {}
        self.behind: dict[Subscription, None] = {}
        self.recent: Recent | None = None
        self.count = 0
        self.known = False
        self.former = 0
        self.ahead: dict[Subscription, None] = {}
        self.pinned = False
        self.life = next(_lives)

    def begin_life(self) -> None:
        """It is another stream: nothing that was read of it before may be used."""
        self.life = next(_lives)

    def advance(self, seq: int, entries: int) -> None:
        """Count *entries* that the tip has moved by; *seq* is its ordinal, or 0.

        `Hub.publish` does the same without a call while no scale has to be changed.
        """
        if not seq:
            self.reached += entries
            return
        if self.reached < 0:
            # From here on ordinals are known: what was counted without them is moved.
            by = seq - self.reached - entries
            for sub in self.behind:
                if sub.reached is not None and sub.reached < 0:
                    sub.reached = max(0, sub.reached + by)
        self.reached = seq

    def learn_size(self, size: int, entries: int) -> None:
        """Take note that *entries* took *size* bytes."""
        if entries:
            mean = size / entries
            known = self.entry_bytes or mean
            self.entry_bytes = known + (mean - known) / SIZES_KEPT

    @property
    def joined(self) -> bool:
        """Whether the ring carries it under a number that this worker knows."""
        return self.number != 0

    @property
    def needed(self) -> bool:
        """Whether anybody reads it."""
        return self.pinned or bool(self.behind) or any(self.live.values())

    def place(self, sub: Subscription, state: State) -> None:
        """Put *sub* into the set where *state* belongs."""
        live = self.live.get(sub.socket.format)
        if live is None:
            # It stays when it is empty: fan-out may be walking over the formats.
            live = self.live[sub.socket.format] = {}
        self.behind.pop(sub, None)
        live.pop(sub, None)
        if state is State.LIVE:
            live[sub] = sub.socket.fd
        elif state is State.CLOSED:
            self.ahead.pop(sub, None)
        else:
            self.behind[sub] = None

    def note_fd(self, sub: Subscription) -> None:
        """The ``fd`` of the socket of *sub* has changed."""
        live = self.live.get(sub.socket.format)
        if live is not None and sub in live:
            live[sub] = sub.socket.fd

    def everybody(self) -> list[Subscription]:
        """All its subscriptions."""
        return [*(sub for live in self.live.values() for sub in live), *self.behind]


class Channels:
    """All channels of a worker, by session, number and pending request."""

    def __init__(self) -> None:
        self.by_session: dict[str, Channel] = {}
        self.by_number: dict[int, Channel] = {}
        self.by_token: dict[int, Channel] = {}
        self._tokens = 0

    def get_or_add(self, session: str) -> tuple[Channel, bool]:
        """The channel of *session*, and whether it is new."""
        channel = self.by_session.get(session)
        if channel is not None:
            return channel, False
        channel = self.by_session[session] = Channel(session)
        return channel, True

    def new_token(self, channel: Channel) -> int:
        """Number a request for *channel*; an earlier one's answer is ignored then."""
        self.by_token.pop(channel.token, None)
        self._tokens += 1
        channel.token = self._tokens
        self.by_token[channel.token] = channel
        return channel.token

    def answered(self, token: int) -> Channel | None:
        """The channel that waits for the answer to *token*, which is now answered."""
        channel = self.by_token.pop(token, None)
        if channel is not None:
            channel.token = 0
        return channel

    def expect_no_answer(self) -> None:
        """Ignore the answers to all requests so far."""
        for channel in self.by_token.values():
            channel.token = 0
        self.by_token.clear()

    def set_number(self, channel: Channel, number: int) -> None:
        """Know *channel* under its number in the ring; 0 forgets it."""
        if channel.number:
            self.by_number.pop(channel.number, None)
        channel.number = number
        if number:
            self.by_number[number] = channel

    def remove(self, channel: Channel) -> None:
        """Forget a channel that nobody needs."""
        self.set_number(channel, 0)
        self.by_token.pop(channel.token, None)
        self.by_session.pop(channel.session, None)


def is_at(position: Position, tip: Position) -> bool:
    """Whether nothing is left to send between *position* and *tip*.

    A position without an ordinal may stand at the id of the tip and before a gap there:
    the loss among entries that were sent without ordinals.
    """
    bare = position.seq is None and tip.seq is not None
    return position.id > tip.id or (position.id == tip.id and not bare)
