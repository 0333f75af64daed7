"""Opens channels for the workers' requests and answers them in the ring."""

from __future__ import annotations

from collections.abc import Callable

from broker.errors import StoreRefused, StoreUnavailable
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import START, Position, StreamId, is_session_name
from broker.reader.chain import Chains
from broker.reader.watches import READ_BYTES_MAX, Watched, Watches
from broker.ring import records, requests
from broker.store.connection import Connection
from broker.store.loss import Anchor, StreamInfo, belongs, read_stream_info
from broker.store.replies import first_error, store_error

OPEN_MAX, OPEN_FIRST = 128, 8
"""Channels opened with one write to Redis; each XINFO brings two whole entries."""


class Openings:
    """The reader's side of subscribe and unsubscribe.

    A request for a stream that is read already is answered at once. Otherwise the
    order is: XINFO, cursor := its end (or the position that the worker has), BASE,
    JOIN, dirty. So every record behind the JOIN is above the JOIN's cursor.
    """

    def __init__(
        self, watches: Watches, chains: Chains, values: Row, limit: int
    ) -> None:
        self._watches = watches
        self._chains = chains
        self._values = values
        self._limit = limit
        self._at_once = OPEN_FIRST
        self.refusing = False
        """Set while Redis' tracking table is too full for further keys."""
        self.on_work: Callable[[], None] = _nothing
        """Called when there is something to do."""

    def handle_watch(self, worker: int, request: requests.Watch) -> None:
        """Answer, or queue the stream for its XINFO."""
        watched = self._watches.get(request.session)
        if watched is None:
            refusal = self._refusal(request)
            if refusal:
                self._chains.refuse(worker, request.token, refusal)
                return
            watched = self._watches.add(request.session)
        watched.workers.add(worker)
        watched.idle_since = None
        if watched.channel and self._is_of_this_stream(watched, request):
            self._chains.join(watched, worker, request.token, reset=False)
            return
        watched.waiting.append((worker, request))
        self._watches.opening[watched] = None

    def handle_unwatch(self, worker: int, request: requests.Unwatch) -> None:
        """Note that the worker has left."""
        watched = self._watches.get(request.session)
        if watched is not None:
            self._watches.leave(watched, worker)

    def handle_gone(self, worker: int) -> None:
        """Take back everything that the worker had asked for."""
        self._watches.drop_worker(worker)

    def handle_end_of_batch(self) -> None:
        """Publish the answers and have the rest worked on."""
        self._chains.commit()
        self._values[catalog.WATCHED.slot] = len(self._watches)
        self.on_work()

    @property
    def full(self) -> bool:
        """Whether no further session can be watched."""
        return self.refusing or len(self._watches) >= self._limit

    async def do_work(self, connection: Connection) -> int:
        """Open some of the channels that wait; returns how many.

        Raises:
            StoreUnavailable: No connection, or not ready; nothing was forgotten.
        """
        chosen = list(self._watches.opening)[: self._at_once]
        if not chosen:
            return 0
        waiting = {watched: list(watched.waiting) for watched in chosen}
        commands: list[tuple[bytes | str, ...]] = []
        for watched in chosen:
            commands.append((b"XINFO", b"STREAM", watched.key))
            for _worker, request in waiting[watched]:
                if request.have is not None:
                    at = b"%d-%d" % request.have[:2]
                    commands.append((b"XRANGE", watched.key, at, at))
        not_ready: StoreUnavailable | None = None
        replies = iter(await connection.send(*commands))
        for watched in chosen:
            if self._watches.is_current(watched):
                self._watches.opening.pop(watched, None)
            info_reply = next(replies)
            found = {
                index: next(replies)
                for index, (_worker, request) in enumerate(waiting[watched])
                if request.have is not None
            }
            if self._watches.is_current(watched):
                try:
                    present = _presence(found)
                    self._open(watched, info_reply, waiting[watched], present)
                except StoreUnavailable as error:
                    self._watches.opening[watched] = None
                    not_ready = error
        # Large entries make it small at once, small ones large step by step.
        self._at_once = min(2 * self._at_once, OPEN_MAX)
        self._chains.commit()
        if not_ready is not None:
            raise not_ready
        return len(chosen)

    def _open(
        self,
        watched: Watched,
        info_reply: object,
        waiting: list[tuple[int, requests.Watch]],
        present: dict[int, bool],
    ) -> None:
        try:
            info = read_stream_info(info_reply)
        except StoreRefused as error:
            self._refuse_all(watched, error.kind.lower())
            return
        if info is not None:
            watched.expect_size(info)
            room = READ_BYTES_MAX // (2 * max(info.mean_bytes, 1))
            self._at_once = max(1, min(self._at_once, room))
        for index, item in enumerate(waiting):
            if item not in watched.waiting:
                continue  # It left while the answer was on its way.
            watched.waiting.remove(item)
            worker, request = item
            reset = self._is_reset(watched, request, info, present.get(index, False))
            if not watched.channel:
                self._begin(watched, request, info, reset)
            self._chains.join(watched, worker, request.token, reset=reset)
        if watched.waiting:
            self._watches.opening[watched] = None
        if watched.channel:
            self._watches.mark_dirty(watched)

    def _begin(
        self,
        watched: Watched,
        request: requests.Watch,
        info: StreamInfo | None,
        reset: bool,
    ) -> None:
        if reset:
            base = START
        elif request.have is not None:
            base = records.position_of(*request.have)
        elif info is None:
            base = START
        else:
            base = Position(info.last, info.added)
        watched.anchor = Anchor(
            cursor=base.id, seq=base.seq, since=base.id, delivered=0
        )
        self._chains.open(watched, base)

    def _is_reset(
        self,
        watched: Watched,
        request: requests.Watch,
        info: StreamInfo | None,
        present: bool,
    ) -> bool:
        if request.have is None:
            return False
        have = records.position_of(*request.have)
        if belongs(have, info, present=present):
            watched.verified.add(have.id)
            return False
        return True

    def _is_of_this_stream(self, watched: Watched, request: requests.Watch) -> bool:
        if request.have is None or request.channel == watched.channel:
            return True
        have: StreamId = request.have[:2]
        return have in watched.verified

    def _refusal(self, request: requests.Watch) -> str:
        session = request.session
        if not (is_session_name(session) or session.startswith("_")):
            return "bad_session"
        if len(self._watches) >= self._limit and not session.startswith("_"):
            return "overloaded"
        # With a position it was watched before a restart: its key is in the table.
        if self.refusing and request.have is None and not session.startswith("_"):
            return "overloaded"
        return ""

    def _refuse_all(self, watched: Watched, reason: str) -> None:
        for worker, request in watched.waiting:
            self._chains.refuse(worker, request.token, reason)
        watched.waiting.clear()
        if not watched.channel:
            self._watches.remove(watched)


def _nothing() -> None:
    pass


def _presence(found: dict[int, object]) -> dict[int, bool]:
    error = first_error(found.values())
    if error is not None and isinstance(store_error(error), StoreUnavailable):
        raise StoreUnavailable(str(error))
    return {index: bool(entries) for index, entries in found.items()}
