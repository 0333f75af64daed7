"""Opens channels for the workers' requests and answers them in the ring."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice

from broker.errors import StoreRefused, StoreUnavailable
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import START, Position, StreamId, is_session_name
from broker.reader.chain import Chains
from broker.reader.watched import Watched
from broker.reader.watches import READ_BYTES_MAX, Watches
from broker.ring import records, requests
from broker.store.connection import Command, Connection
from broker.store.loss import Anchor, belongs
from broker.store.replies import first_error, store_error
from broker.store.stream_info import StreamInfo, read_stream_info

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
        self.on_moved: Callable[[Watched, str], bool] = _stays
        """Called with what a node of a cluster answered that has not the slot; says
        whether another one asks for it now."""

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
        self._values[catalog.WATCHED.slot] = self._watches.total
        self.on_work()

    @property
    def full(self) -> bool:
        """Whether no further session can be watched."""
        return self.refusing or self._watches.total >= self._limit

    async def do_work(self, connection: Connection) -> int:
        """Open some of the channels that wait; returns how many.

        Raises:
            StoreUnavailable: No connection, or not ready; nothing was forgotten.
        """
        chosen = list(self._watches.opening)[: self._at_once]
        if not chosen:
            return 0
        waiting = {watched: list(watched.waiting) for watched in chosen}
        asked = {one: _questions(one, waiting[one]) for one in chosen}
        not_ready: StoreUnavailable | None = None
        replies = iter(await connection.send(*chain.from_iterable(asked.values())))
        for watched in chosen:
            answers = list(islice(replies, len(asked[watched])))
            if not self._watches.is_current(watched):
                continue
            self._watches.opening.pop(watched, None)
            try:
                self._open(watched, waiting[watched], answers)
            except StoreUnavailable as error:
                self._watches.opening[watched] = None
                if not self.on_moved(watched, str(error)):
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
        waiting: list[tuple[int, requests.Watch]],
        answers: list[object],
    ) -> None:
        info_reply, present = _read(answers, waiting)
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
        if self._watches.total >= self._limit and not session.startswith("_"):
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


def _stays(watched: Watched, answer: str) -> bool:
    del watched, answer
    return False


def _questions(
    watched: Watched, waiting: list[tuple[int, requests.Watch]]
) -> list[Command]:
    """What has to be known of *watched* to answer who waits for it."""
    asked: list[Command] = [(b"XINFO", b"STREAM", watched.key)]
    for _worker, request in waiting:
        if request.have is not None:
            at = b"%d-%d" % request.have[:2]
            asked.append((b"XRANGE", watched.key, at, at))
    if watched.asking:
        asked = [part for one in asked for part in ((b"ASKING",), one)]
    return asked


def _read(
    answers: list[object], waiting: list[tuple[int, requests.Watch]]
) -> tuple[object, dict[int, bool]]:
    """The XINFO, and for each request with a position whether its entry is there."""
    has_position = [
        index for index, (_, one) in enumerate(waiting) if one.have is not None
    ]
    if len(answers) > 1 + len(has_position):
        answers = answers[1::2]  # Each ASKING was answered as well.
    found = dict(zip(has_position, answers[1:], strict=True))
    error = first_error(found.values())
    if error is not None and isinstance(store_error(error), StoreUnavailable):
        raise StoreUnavailable(str(error))
    return answers[0], {index: bool(entries) for index, entries in found.items()}
