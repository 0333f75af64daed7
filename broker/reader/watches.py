"""The streams that the reader watches, and which of them want reading."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from operator import attrgetter

import msgspec

from broker.reader.watched import REST_S, Watched
from broker.store.keys import EventKeys

READ_KEYS_MAX = 256
"""Keys of one read."""
SWEEP_KEYS_MAX = 32
"""The same for the sweep: while it reads, what has happened waits."""
READ_COUNT_MAX = 1000
"""Entries per key of one read."""
READ_BYTES_MAX = 4 * 1024 * 1024
"""What one read may bring: Redis has no limit, so ours is count times size."""
FIRST_COUNT = 10
"""Entries per key while a key's entry size is a guess."""
EMPTY_READS_PER_S = 5000
"""What all suspects together may cost, with bursts of a second's worth. What is not yet
a suspect is read besides."""


def in_parts(every: Iterable[Watched], entries: int) -> Iterator[list[Watched]]:
    """Split *every* so that so many *entries* of each stay within one read's bounds."""
    part: list[Watched] = []
    size = 0.0
    for watched in every:
        brings = entries * watched.mean_bytes
        if part and (len(part) == READ_KEYS_MAX or size + brings > READ_BYTES_MAX):
            yield part
            part, size = [], 0.0
        part.append(watched)
        size += brings
    if part:
        yield part


def _choose(queue: Iterable[Watched], most: int) -> tuple[list[Watched], float]:
    """The first of *queue* that one read may ask for, and their largest mean size."""
    taken: list[Watched] = []
    largest = 0.0
    for watched in queue:
        size = max(largest, watched.mean_bytes)
        if taken:
            if watched.alone:
                continue
            if (len(taken) + 1) * size * FIRST_COUNT > READ_BYTES_MAX:
                break
        taken.append(watched)
        largest = size
        if watched.alone or len(taken) == most:
            break
    return taken, largest


_was_read = attrgetter("was_read")


class Batch(msgspec.Struct, gc=False):
    """Keys of one read.

    Attributes:
        watched: The streams whose next page is read, in the order of the command.
        glances: Those of which an XINFO alone is asked for.
        count: Entries per page at most.
        with_info: Whether the XINFO of each page is read in the same transaction.
    """

    watched: list[Watched]
    glances: list[Watched]
    count: int
    with_info: bool

    def __iter__(self) -> Iterator[Watched]:
        """All its streams."""
        yield from self.glances
        yield from self.watched

    def __len__(self) -> int:
        return len(self.glances) + len(self.watched)


class Watches:
    """All watched streams, with the sets of those that want something."""

    def __init__(self, keys: EventKeys, linger_s: float, sweep_s: float) -> None:
        self._keys = keys
        self._linger_s = linger_s
        self._sweep_s = sweep_s
        self._by_key: dict[bytes, Watched] = {}
        self._by_session: dict[str, Watched] = {}
        self._dirty: dict[Watched, None] = {}
        self._swept: dict[Watched, None] = {}
        self._round: dict[Watched, None] = {}
        self._due = 0.0
        self._resting: dict[Watched, None] = {}
        self._held: dict[Watched, None] = {}
        self._credit = float(EMPTY_READS_PER_S)
        self._credited_at = time.monotonic()
        self._turns = 0
        self.opening: dict[Watched, None] = {}
        """Streams whose channel waits for its first XINFO, or requests for a check."""

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Watched]:
        return iter(list(self._by_key.values()))

    @property
    def total(self) -> int:
        """How many streams the whole reader watches."""
        return len(self._by_key)

    @property
    def work(self) -> bool:
        """Whether anything wants reading now."""
        return bool(self._dirty or self._swept or self.opening)

    @property
    def quarantined(self) -> int:
        """How many keys hold no stream."""
        return sum(watched.quarantined for watched in self._by_key.values())

    @property
    def held(self) -> int:
        """How many streams ring for nothing, and wait for their turn to be read."""
        return len(self._held)

    def get(self, session: str) -> Watched | None:
        """The watch of *session*, if there is one."""
        return self._by_session.get(session)

    def add(self, session: str) -> Watched:
        """Begin to watch *session*; its channel opens with its first XINFO."""
        watched = Watched(session, self._keys.key(session))
        self._by_key[watched.key] = watched
        self._by_session[session] = watched
        return watched

    def remove(self, watched: Watched) -> None:
        """Forget a stream: its link too, so a later watch starts a chain of its own."""
        self._by_key.pop(watched.key, None)
        self._by_session.pop(watched.session, None)
        self._dirty.pop(watched, None)
        self._swept.pop(watched, None)
        self._round.pop(watched, None)
        self._resting.pop(watched, None)
        self._held.pop(watched, None)
        self.opening.pop(watched, None)

    def is_current(self, watched: Watched) -> bool:
        """Whether a reply for *watched* still means anything."""
        return self._by_key.get(watched.key) is watched

    def ring(self, key: bytes) -> None:
        """Note that Redis rang for *key*."""
        watched = self._by_key.get(key)
        if watched is None or not watched.channel:
            return  # What is being opened is read after that in any case.
        now = time.monotonic()
        if watched.quarantined and now - watched.last_ring < REST_S:
            watched.rest_until = watched.last_ring + REST_S
        if now < watched.rest_until:
            self._resting[watched] = None
        elif not self._is_suspect(watched, now) or self._may_read(watched):
            watched.last_ring = now
            self._dirty[watched] = None

    def _is_suspect(self, watched: Watched, now: float) -> bool:
        # Who waits is one until entries have come, however long it takes.
        waits = watched.empty_reads > 0 and watched in self._held
        return waits or watched.is_suspect(now)

    def _may_read(self, suspect: Watched) -> bool:
        """Whether a suspect is read for its ring now; else it waits for its turn."""
        if suspect in self._dirty:
            return True
        self._earn()
        if self._held or self._credit <= 0:
            self._held[suspect] = None
            return False
        self._credit -= suspect.empty_cost
        return True

    def _earn(self) -> None:
        now = time.monotonic()
        earned = (now - self._credited_at) * EMPTY_READS_PER_S
        self._credit = min(self._credit + earned, float(EMPTY_READS_PER_S))
        self._credited_at = now

    def mark_dirty(self, watched: Watched) -> None:
        """Read *watched* with the next batches."""
        if not watched.quarantined:
            self._dirty[watched] = None

    def mark_all_dirty(self) -> None:
        """Read everything, what moved last first: nothing is known of the time away."""
        order = sorted(self._by_key.values(), key=lambda w: w.last_ring, reverse=True)
        for watched in order:
            if watched.channel:
                self._dirty[watched] = None

    def is_dirty(self, watched: Watched) -> bool:
        """Whether it rang, or was put back, since it was taken."""
        return (
            watched in self._dirty or watched in self._resting or watched in self._held
        )

    def sweep(self, elapsed_s: float) -> None:
        """Queue streams for the sweep, as many as are due: some changes never ring.

        It comes by twice in the sweep's time and leaves out what was read since it came
        last, so each stream is read at least once in that time, and a busy one has no
        need of it.

        Args:
            elapsed_s: Time since the last call.
        """
        count = len(self._by_key)
        self._due = min(self._due + 2 * count * elapsed_s / self._sweep_s, 2 * count)
        while self._due >= 1:
            self._due -= 1
            if not self._round:
                self._round = dict.fromkeys(self._by_key.values())
            watched, _ = self._round.popitem()
            if watched.channel and not watched.looked and watched not in self._dirty:
                self._swept[watched] = None
            watched.looked = False

    def wake_rested(self) -> None:
        """Read what has rested, and as many suspects as their cost allows."""
        now = time.monotonic()
        rested = [watched for watched in self._resting if watched.rest_until <= now]
        for watched in rested:
            del self._resting[watched]
            queue = self._held if watched.quarantined else self._dirty
            queue[watched] = None
        self._earn()
        paid = []
        for watched in self._held:
            if self._credit <= 0:
                break
            self._credit -= watched.empty_cost
            paid.append(watched)
        for watched in paid:
            del self._held[watched]
            # To have waited makes nobody less suspect.
            watched.last_empty = watched.last_ring = now
            self._dirty[watched] = None

    def note_empty(self, watched: Watched) -> None:
        """Note that a read for a ring, or for an opening, brought nothing."""
        now = time.monotonic()
        recent = now - watched.last_empty < REST_S
        watched.last_empty = now
        watched.empty_reads = watched.empty_reads + 1 if recent else 1

    def take(self) -> Batch | None:
        """Take the next keys to read, within the bounds of one read.

        A key leaves the dirty set here, *before* its read is written to the socket: a
        ring that comes while the reply is on its way marks it dirty again.
        """
        self._turns += 1
        sweep = bool(self._swept) and (not self._dirty or self._turns % 4 == 0)
        queue = self._swept if sweep else self._dirty
        if not queue:
            return None
        most = READ_KEYS_MAX
        if sweep:  # More at once where it falls behind.
            most = min(most, max(SWEEP_KEYS_MAX, len(queue) // 16))
        taken, largest = _choose(queue, most)
        room = int(READ_BYTES_MAX / (len(taken) * largest)) if largest else 1
        known = all(map(_was_read, taken))
        ceiling = READ_COUNT_MAX if known else FIRST_COUNT
        count = max(1, min(room, ceiling))
        glances: list[Watched] = []
        pages: list[Watched] = []
        for watched in taken:
            del queue[watched]
            watched.swept = sweep
            # What the sweep asks for is judged by the page that it brings.
            if not sweep and watched.may_glance():
                glances.append(watched)
            else:
                pages.append(watched)
        with_info = any(watched.wants_info() for watched in pages)
        return Batch(pages, glances, count, with_info)

    def put_back(self, batch: Iterable[Watched]) -> None:
        """Return keys whose read failed: an error spends the bell as an answer does."""
        for watched in batch:
            if self.is_current(watched):
                self._dirty[watched] = None

    def drop_worker(self, worker: int) -> None:
        """Take back all watches of a worker whose connection ended."""
        for watched in self._by_key.values():
            self.leave(watched, worker)

    def leave(self, watched: Watched, worker: int) -> None:
        """Note that *worker* needs the stream no longer."""
        watched.workers.discard(worker)
        watched.waiting = [item for item in watched.waiting if item[0] != worker]
        if not watched.workers and watched.idle_since is None:
            watched.idle_since = time.monotonic()

    def forget_idle(self) -> None:
        """Stop watching what nobody has needed for the linger time."""
        until = time.monotonic() - self._linger_s
        idle = [
            watched
            for watched in self._by_key.values()
            if watched.idle_since is not None and watched.idle_since <= until
        ]
        for watched in idle:
            self.remove(watched)
