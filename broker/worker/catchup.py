"""Brings subscriptions to the tip: from the ring if it reaches back, else from Redis.

Joining with a position, coming back after a cut and recovering from a full socket are
the same thing here: a subscription behind the tip takes one page per turn until its
position equals the tip, and goes live in that same turn, so there is no seam.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

import structlog

from broker.disconnect import Disconnect
from broker.errors import RingCorrupted
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import FIRST_ID, START, Position, StreamId, id_before
from broker.ring.receiver import Receiver
from broker.store.loss import Anchor, Reset, belongs
from broker.store.stream_info import StreamInfo
from broker.worker.archive import FIRST_COUNT, Archive, SharedRead, next_count
from broker.worker.asking import Asking
from broker.worker.channels import (
    Channel,
    Overflow,
    Start,
    StartAt,
    State,
    Subscription,
    is_at,
)
from broker.worker.depth import after_page, at_position
from broker.worker.hub import Hub
from broker.worker.notices import Notices
from broker.worker.pages import build_once, next_page
from broker.worker.recent import Page, Recent
from broker.worker.states import States

log = structlog.get_logger(__name__)

TURN_SUBSCRIPTIONS = 64
TURN_BYTES = 1024 * 1024
ASK_AGAIN_S = 1.0
"""How long a position may be ahead of the tip before Redis is asked about it again."""


class Catchup:
    """The subscriptions of a worker that are behind.

    Args:
        receiver: Reads single records of the ring.
        archive: Reads Redis.
        hub: Numbers the broadcasts.
        values: The process's metric row.
        max_event_bytes: Larger entries are skipped.
        schedule: Asks for a turn of ``do_work``.
        refuse: Ends a subscription whose stream cannot be read.
    """

    def __init__(
        self,
        receiver: Receiver,
        archive: Archive,
        hub: Hub,
        values: Row,
        max_event_bytes: int,
        schedule: Callable[[], None],
        refuse: Callable[[Subscription, str], None],
    ) -> None:
        self._receiver = receiver
        self._archive = archive
        self._hub = hub
        self._values = values
        self._max_event_bytes = max_event_bytes
        self._schedule = schedule
        self.refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._asking = Asking(self._loop, self.wake, refuse)
        self._ready: deque[Subscription] = deque()
        self._states = States(values)
        self._notices = Notices(values)

    @property
    def behind(self) -> Iterable[Subscription]:
        """Everybody who is replaying or lagging."""
        return self._states.behind

    @property
    def ready(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._ready)

    # Who is behind.

    def set_state(self, sub: Subscription, state: State) -> None:
        """Move *sub* to another state."""
        self._states.move(sub, state, self._hub.number)

    def fall_behind(
        self, sub: Subscription, position: Position, epoch: int, state: State
    ) -> None:
        """A live subscription stops at *position*: socket full, or the ring cut."""
        sub.position = position
        if position.seq is not None:
            sub.reached = position.seq
        sub.epoch = epoch
        sub.anchor = None
        sub.hole = None
        sub.replayed = 0
        sub.checked = True
        self.set_state(sub, state)
        sub.progress_at = sub.behind_since = self._loop.time()
        if state is State.LAGGING and sub.overflow is Overflow.CLOSE:
            self.refuse(sub, "slow")
        elif not sub.socket.blocked:
            self.wake(sub)

    def wake(self, sub: Subscription) -> None:
        """Let *sub* take a turn, unless it waits for something already."""
        if not sub.waits and sub.state in (State.REPLAYING, State.LAGGING):
            sub.waits = True
            self._ready.append(sub)
            self._schedule()

    def begin(self, sub: Subscription) -> None:
        """Start a subscription whose channel is joined."""
        channel, start = sub.channel, sub.start
        sub.epoch = channel.epoch
        sub.checked = False
        sub.progress_at = sub.behind_since = self._loop.time()
        if start.at is StartAt.LIVE:
            sub.position = channel.tip
            self._notices.send_subscribed(sub, "live")
            self.set_state(sub, State.LIVE)
            return
        if start.at is StartAt.SINCE:
            sub.position = min(start.position, channel.tip, key=lambda p: p.id)
            sub.checked = True  # A time is no entry whose presence means anything.
        elif start.at is StartAt.POSITION:
            sub.position = start.position
        sub.reached = at_position(sub)
        self.set_state(sub, State.REPLAYING)
        self.wake(sub)

    # Turns.

    def do_work(self) -> int:
        """Give turns to those who are ready, within bounds; returns how many."""
        done = size = 0
        while self._ready and done < TURN_SUBSCRIPTIONS and size < TURN_BYTES:
            sub = self._ready.popleft()
            sub.waits = False
            try:
                size += self._advance(sub)
            except Exception:
                log.exception("catchup_failed", session=sub.channel.session)
                sub.socket.close(Disconnect.INTERNAL)
            done += 1
        return done

    def _advance(self, sub: Subscription) -> int:
        """One step of *sub*; returns the bytes that it was sent."""
        channel = sub.channel
        if sub.state not in (State.REPLAYING, State.LAGGING) or not channel.joined:
            return 0
        if sub.socket.blocked:
            return 0  # Its drain wakes it.
        if sub.epoch != channel.epoch:
            if not sub.announced:
                # Nobody knows yet of which history its position is.
                self.begin(sub)
                return 0
            self._start_over(sub)
        if sub.state is State.LAGGING and sub.overflow is Overflow.DROP:
            self._jump(sub)
            return 0
        if sub.start.at is StartAt.LAST_N and not (sub.announced or sub.checked):
            return self._find_last(sub)
        if sub.anchor is not None and sub.anchor.delivered:
            # What is missing among these entries is counted at the tail only.
            self._read_store(sub)
            return 0
        if is_at(sub.position, channel.tip):
            self._reach(sub)
            return 0
        try:
            return self._take_page(sub)
        except RingCorrupted as error:
            self._distrust(channel, error)
            self._read_store(sub)
            return 0

    def _distrust(self, channel: Channel, error: RingCorrupted) -> None:
        log.error("ring_corrupted", why=str(error))
        self._values[catalog.RING_CORRUPTED.slot] += 1
        channel.recent = None

    def _take_page(self, sub: Subscription) -> int:
        recent, position = self._recent(sub.channel), sub.position
        at_tip = position.id == sub.channel.tip.id
        until = id_before(position.id) if at_tip else position.id
        if recent.walk(self._receiver, until):
            self._again(sub)
            return 0
        if not sub.checked and recent.is_foreign(position.id):
            self._start_over(sub)
            self._again(sub)
            return 0
        if not sub.checked and not recent.vouches_for(position, self._receiver):
            # No entry of this chain: only Redis can say whether it is of this stream.
            self._read_store(sub)
            return 0
        page = next_page(self._receiver, recent, sub, self._conflates(sub))
        if page is None and at_tip:
            self._reach(sub)
            return 0
        if page is None:
            self._read_store(sub)
            return 0
        sub.anchor = None
        sub.checked = True
        return self._send_page(sub, page, "ring", "complete")

    def _recent(self, channel: Channel) -> Recent:
        recent = channel.recent
        if recent is None:
            recent = Recent(channel.number, channel.last, channel.tip)
            channel.recent = recent
        return recent

    def _conflates(self, sub: Subscription) -> bool:
        return sub.overflow is Overflow.LATEST and sub.state is State.LAGGING

    def _send_page(
        self, sub: Subscription, page: Page, source: str, resume: str
    ) -> int:
        if not sub.announced:
            self._notices.send_subscribed(sub, resume, source)
        if page.data:
            sub.socket.send(page.data)
        if page.held:
            sub.socket.hold(page.held)
        self._notices.count_page(page, source)
        sub.channel.learn_size(len(page.data), page.events)
        sub.reached = after_page(sub, page)
        sub.position = page.end
        sub.hole = page.hole
        sub.replayed += page.events
        sub.progress_at = self._loop.time()
        self._again(sub)
        return len(page.data)

    def _again(self, sub: Subscription) -> None:
        if not sub.socket.blocked:
            self.wake(sub)

    def _reach(self, sub: Subscription) -> None:
        """The position is the tip, or ahead of what this pod has read."""
        channel, position = sub.channel, sub.position
        if position.id == channel.tip.id:
            if sub.checked or position.seq in (None, channel.tip.seq):
                self._go_live(sub)
            else:
                self._read_store(sub)
        elif sub.checked:
            self._await_tip(sub)
        else:
            # Only the primary can say whether the position is of another history.
            self._asking.ask(sub, self._archive.info(channel.session), self._take_info)

    def _await_tip(self, sub: Subscription) -> None:
        """The tip will come; then it is woken. Or the stream goes before that."""
        sub.channel.ahead[sub] = None
        self._loop.call_later(ASK_AGAIN_S, self._ask_again, sub)

    def _ask_again(self, sub: Subscription) -> None:
        if sub in sub.channel.ahead:
            del sub.channel.ahead[sub]
            sub.checked = False
            self.wake(sub)

    def _go_live(self, sub: Subscription) -> None:
        if not sub.announced:
            self._notices.send_subscribed(sub, "complete", "ring")
        self._notices.send_hole(sub)
        if sub.replayed or sub.start.at is not StartAt.LIVE:
            self._notices.send_caught_up(sub)
        self._notices.count_replay(self._loop.time() - sub.behind_since)
        sub.replayed = 0
        sub.anchor = None
        self.set_state(sub, State.LIVE)

    def _jump(self, sub: Subscription) -> None:
        """Leave out everything up to the tip, as ``overflow=drop`` asks for."""
        tip = sub.channel.tip
        self._notices.send_hole(sub)
        if sub.position.id < tip.id:
            self._notices.send_dropped(sub, tip)
            sub.position = tip
            sub.reached = sub.channel.reached
        self._reach(sub)

    def _start_over(self, sub: Subscription) -> None:
        """The stream is another one since: everything that it retains, from 0."""
        sub.position = START
        sub.reached = 0
        sub.anchor = None
        sub.hole = None
        sub.checked = True
        sub.epoch = sub.channel.epoch
        if sub.consumer is not None:
            sub.consumer.restart()
        if sub.announced:
            self._notices.send_reset(sub)
        else:
            self._notices.send_subscribed(sub, "reset", "redis")

    # What needs Redis.

    def _find_last(self, sub: Subscription) -> int:
        """Turn "the last N" into a position."""
        channel = sub.channel
        recent = self._recent(channel)
        count = sub.start.count
        try:
            if recent.walk(self._receiver, FIRST_ID, enough=count + 1):
                self._again(sub)
                return 0
        except RingCorrupted as error:
            self._distrust(channel, error)
        is_known = channel.recent is recent and not recent.has_gaps
        if is_known and len(recent) > count:
            stream_id, _place = recent.at(len(recent) - count - 1)
            self._set_start(sub, stream_id)
        else:
            last = self._archive.before_last(channel.session, count, life=channel.life)
            self._asking.ask(sub, last, self._set_start)
        return 0

    def _set_start(self, sub: Subscription, stream_id: StreamId | None) -> None:
        if stream_id is None:
            sub.start = _RETAINED
            sub.reached = 0
        else:
            sub.position = Position(stream_id)
        sub.checked = True
        self.wake(sub)

    def _read_store(self, sub: Subscription) -> None:
        channel = sub.channel
        check = not sub.checked and sub.position.id != FIRST_ID
        recent = channel.recent
        # The ring has what follows; only an entry too large for it is fetched.
        by_reference = recent is not None and recent.covers(sub.position.id)
        count = 1 if by_reference else channel.count or FIRST_COUNT
        page = self._archive.page(
            channel.session, sub.position.id, count, check=check, life=channel.life
        )
        self._asking.ask(sub, page, self._take_read)

    def _take_read(self, sub: Subscription, shared: SharedRead) -> None:
        read = shared.page
        if read.entries:
            sub.channel.count = next_count(read.entries)
        anchor = sub.anchor or Anchor.at(sub.position)
        conflates = self._conflates(sub)
        built = build_once(shared, sub, anchor, conflates, self._max_event_bytes)
        if isinstance(built, Reset):
            if sub.channel.life == shared.life:
                sub.channel.begin_life()
            self._start_over(sub)
            self.wake(sub)
            return
        page, after, behind = built
        sub.checked = True
        sub.anchor = after
        if page.end.id == sub.position.id and after.cursor < sub.channel.tip.id:
            # Redis has less than the ring had: the reader will find out why.
            self._asking.wait(sub)
        # All that is retained is complete by definition; a gap still says what is not.
        asked_for = behind and sub.start.at is not StartAt.RETAINED
        self._send_page(sub, page, "redis", "gap" if asked_for else "complete")
        sub.position = Position(after.cursor, None if after.delivered else after.seq)
        if sub.position.seq is not None:
            sub.reached = sub.position.seq

    def _take_info(self, sub: Subscription, info: StreamInfo | None) -> None:
        if not belongs(sub.position, info, present=None):
            self._start_over(sub)
            self.wake(sub)
        elif sub.position.id > sub.channel.tip.id:
            # It can be of this stream. Its entry or its place among others will say
            # more when the tip is there: another history may have gone past it, too.
            self._await_tip(sub)
        else:
            self.wake(sub)


_RETAINED = Start(at=StartAt.RETAINED)
