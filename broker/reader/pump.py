"""Reads what is dirty from Redis into the ring, one bounded batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from broker.entry import Event, Skipped, read_entry
from broker.errors import StoreError, StoreUnavailable
from broker.metrics import catalog
from broker.metrics.slots import Row, observe
from broker.protocols.formats import event_payload
from broker.protocols.timestamps import LAST_MS
from broker.reader.chain import Chains
from broker.reader.watched import Watched
from broker.reader.watches import Batch, Watches
from broker.ring import records
from broker.ring.layout import Kind
from broker.store.connection import Connection
from broker.store.loss import Anchor, Page, Reset, is_next, settle
from broker.store.stream_info import NOT_READ
from broker.store.streams import (
    BatchError,
    Entry,
    KeyRead,
    doorbell_read,
    glance,
    only_news,
    parse_doorbell_reply,
    refused_glance,
)

log = structlog.get_logger(__name__)

REFERENCE_BYTES = 64 * 1024
"""A larger entry goes into the ring by reference, so one session cannot lap all."""

KEYS_PER_COMMIT = 16
"""After so many streams, or entries that glances brought, the workers begin, while the
reader goes on with its batch."""

LOGGED_PER_S = 200
"""Lines about entries and streams that cannot be used."""

_EVENT = int(Kind.EVENT)


class Pump:
    """Moves entries from the streams into the ring."""

    def __init__(
        self, watches: Watches, chains: Chains, values: Row, max_event_bytes: int
    ) -> None:
        self._watches = watches
        self._chains = chains
        self._values = values
        self._max_event_bytes = max_event_bytes
        self._counted_to = chains.head
        self._oldest_ms = 0
        self._events = 0
        self._bytes = 0
        self._logging_since = 0.0
        self._logged = 0
        self._not_ready: BatchError | None = None
        self.rings_are_trusted = True
        """Whether an entry that only the sweep found is a fault of the doorbell."""

    async def do_work(self, connection: Connection) -> int:
        """Read one batch; returns how many keys it asked for, 0 when all is clean.

        At most one read is under way, so its size bounds what Redis buffers for us.

        Raises:
            StoreUnavailable: No connection, or not ready; what was not read is dirty
                again, and the rest of the batch is in the ring.
        """
        batch = self._watches.take()
        if batch is None:
            return 0
        keys = [watched.key for watched in batch.watched]
        commands = glance([watched.key for watched in batch.glances])
        if keys:
            cursors = [watched.anchor.cursor for watched in batch.watched]
            commands += doorbell_read(keys, cursors, batch.count, batch.with_info)
        glances = iter(batch.glances)
        pages: list[Any] = []
        self._not_ready = None

        def take(reply: Any) -> None:
            watched = next(glances, None)
            if watched is None:
                pages.append(reply)
            else:
                self._append_glance(watched, reply)

        try:
            await connection.send_each(take, *commands)
        except StoreUnavailable:
            self.finish_batch()
            self._watches.put_back([*glances, *batch.watched])
            raise
        self._values[catalog.READS.slot] += 1
        if keys:
            self._take_pages(batch, pages)
        self.finish_batch()
        self._raise_if_not_ready()
        return len(batch)

    def _take_pages(self, batch: Batch, replies: list[Any]) -> None:
        keys = [watched.key for watched in batch.watched]
        read = parse_doorbell_reply(replies, keys, batch.with_info)
        if not isinstance(read, BatchError):
            self._append_batch(batch, read)
        elif read.retry:
            for watched in batch.watched:
                self._put_off(watched, read)
        else:
            self._handle_error(batch, read)

    def _put_off(self, watched: Watched, error: BatchError) -> None:
        """The server is not ready to have it read."""
        self._watches.put_back([watched])
        self._not_ready = error

    def _raise_if_not_ready(self) -> None:
        if self._not_ready is not None:
            self._values[catalog.READ_ERRORS.slots["busy"]] += 1
            raise StoreUnavailable(self._not_ready.kind)

    def finish_batch(self) -> None:
        """Publish what is left of a batch, and count it; once more does no harm."""
        self._chains.commit()
        self._count_written()
        values = self._values
        values[catalog.EVENTS_READ.slot] += self._events
        values[catalog.BYTES_READ.slot] += self._bytes
        self._events = self._bytes = 0
        if self._oldest_ms:
            late_s = time.time_ns() / 1e9 - self._oldest_ms / 1e3
            stage = catalog.STAGE_SECONDS["redis_to_reader"]
            observe(self._values, stage, max(late_s, 0.0))
            self._oldest_ms = 0

    def _count_written(self) -> None:
        # By the head: long batches and answers to workers are published in between.
        head = self._chains.head
        self._values[catalog.RING_BYTES_WRITTEN.slot] += head - self._counted_to
        self._counted_to = head

    def _append_glance(self, watched: Watched, reply: Any) -> None:
        """Take the answer to one glance, as soon as it has come."""
        if not self._watches.is_current(watched):
            return
        watched.reads += 1
        anchor = watched.anchor
        added = anchor.seq or 0
        entry = only_news(reply, anchor.cursor, added, watched.first)
        if entry is None:
            self._look_closer(watched, reply, added)
            return
        stream_id, fields = entry
        ms, n = stream_id
        watched.looked = True
        self._oldest_ms = self._oldest_ms or ms
        size = self._append_entry(watched, ms, n, added + 1, fields)
        self._note_entries(watched, 1, size)
        watched.anchor = Anchor(stream_id, added + 1, stream_id, 0)
        if self._events % KEYS_PER_COMMIT == 0:
            self._chains.commit()

    def _look_closer(self, watched: Watched, reply: Any, added: int) -> None:
        """After a glance that showed anything but one entry more."""
        error = refused_glance(reply)
        if error is not None:
            self._put_off(watched, error)
            return
        key_read = KeyRead([], reply)
        if key_read.added > added:
            watched.singles = 0
            self._watches.mark_dirty(watched)
        else:
            self._append_read(watched, key_read, 1)

    def _append_batch(self, batch: Batch, read: list[KeyRead]) -> None:
        for index, (watched, key_read) in enumerate(
            zip(batch.watched, read, strict=True)
        ):
            if index % KEYS_PER_COMMIT == 0:
                self._chains.commit()
            if not self._watches.is_current(watched):
                continue
            entries, anchor = key_read.entries, watched.anchor
            watched.reads += 1
            count = len(entries)
            is_plain = count < batch.count and not watched.alone
            if is_plain and is_next(anchor, count, key_read.added):
                seqs = range(key_read.added - count + 1, key_read.added + 1)
                self._append_entries(watched, entries, seqs)
                last = entries[-1][0]
                watched.anchor = Anchor(last, key_read.added, last, 0)
                watched.looked = True
                watched.first = key_read.first
                watched.singles = watched.singles + 1 if count == 1 else 0
            else:
                self._append_read(watched, key_read, batch.count)

    def _append_read(self, watched: Watched, key_read: KeyRead, count: int) -> None:
        """Whatever is not just the next entries."""
        watched.singles = 0
        try:
            info = key_read.info()
        except StoreError as error:
            self._quarantine(watched, str(error))
            return
        watched.looked = info is not NOT_READ
        was_quarantined = watched.quarantined
        watched.quarantined = watched.alone = False
        if was_quarantined:
            # Its rings may have waited: no fault of the bell. Or one has come just now.
            watched.swept = False
            watched.rest_until = 0.0
            self._watches.mark_dirty(watched)
        entries = key_read.entries
        full = len(entries) >= count
        ids = [entry[0] for entry in entries]
        outcome = settle(watched.anchor, ids, full, info)
        if isinstance(outcome, Reset):
            log.warning("stream_reset", session=watched.session)
            self._values[catalog.RESETS.slot] += 1
            self._chains.reset(watched)
            self._watches.mark_dirty(watched)
            return
        self._append_page(watched, entries, outcome)
        if outcome.gaps:
            watched.empty_reads = 0
        elif not (entries or watched.swept or was_quarantined):
            self._values[catalog.EMPTY_READS.slot] += 1
            self._watches.note_empty(watched)
            if info is NOT_READ and watched.wants_info():
                self._watches.mark_dirty(watched)  # What rang shows in an XINFO only.
        watched.anchor = outcome.anchor
        if full:
            self._watches.mark_dirty(watched)

    def _append_page(self, watched: Watched, entries: list[Entry], page: Page) -> None:
        done = 0
        for place, gap in page.gaps:
            self._append_entries(watched, entries[done:place], page.seqs[done:place])
            self._chains.gap(watched, gap)
            self._values[catalog.GAP_ENTRIES.slot] += gap.lost or 0
            done = place
        self._append_entries(watched, entries[done:], page.seqs[done:])

    def _append_entries(
        self, watched: Watched, entries: list[Entry], seqs: Sequence[int]
    ) -> None:
        if not entries:
            return
        self._oldest_ms = self._oldest_ms or entries[0][0][0]
        append = self._append_entry
        size = 0
        for ((ms, n), fields), seq in zip(entries, seqs, strict=True):
            size += append(watched, ms, n, seq, fields)
        self._note_entries(watched, len(entries), size)

    def _note_entries(self, watched: Watched, entries: int, size: int) -> None:
        watched.note_entries(entries, size)
        self._events += entries
        self._bytes += size
        if watched.swept and self.rings_are_trusted:
            self._check_bell(watched, entries)

    def _append_entry(
        self, watched: Watched, ms: int, n: int, seq: int, fields: list[bytes]
    ) -> int:
        """Returns how many bytes its fields have."""
        if ms > LAST_MS:
            self._values[catalog.ODD_IDS.slot] += 1
        entry = read_entry(fields, self._max_event_bytes)
        kind: int = _EVENT
        if type(entry) is Event:
            payload = event_payload(watched.name, ms, n, seq, entry)
            if len(payload) > REFERENCE_BYTES and not entry.transient:
                kind, payload = Kind.REFERENCE, b""
        else:
            assert isinstance(entry, Skipped)  # noqa: S101 - narrows for mypy
            self._values[catalog.SKIPPED.slots[entry.reason]] += 1
            self._log(
                log.warning,
                "entry_skipped",
                session=watched.session,
                id=f"{ms}-{n}",
                reason=entry.reason,
            )
            kind, payload = Kind.SKIPPED, records.pack_skipped(entry)
        self._chains.append(watched, kind, ms, n, seq, payload)
        return sum(map(len, fields))

    def _log(self, write: Callable[..., object], what: str, **details: str) -> None:
        # A publisher that is wrong is wrong all the time: the counters have it all.
        now = time.monotonic()
        if now - self._logging_since >= 1.0:
            self._logging_since, self._logged = now, 0
        self._logged += 1
        if self._logged <= LOGGED_PER_S:
            write(what, **details)

    def _check_bell(self, watched: Watched, entries: int) -> None:
        # A ring for these entries would have come before the reply did.
        if not self._watches.is_dirty(watched):
            self._values[catalog.DOORBELL_MISSED.slot] += entries
            log.error("doorbell_missed", session=watched.session, entries=entries)

    def _handle_error(self, batch: Batch, error: BatchError) -> None:
        if len(batch.watched) == 1:
            self._quarantine(batch.watched[0], error.kind)
            return
        # One bad key fails the read of all: find it by reading each alone.
        for watched in batch.watched:
            watched.alone = True
        self._watches.put_back(batch.watched)

    def _quarantine(self, watched: Watched, error: str) -> None:
        known = "wrongtype" if error.startswith("WRONGTYPE") else "other"
        self._values[catalog.READ_ERRORS.slots[known]] += 1
        if not watched.quarantined:
            session = watched.session
            self._log(log.error, "stream_unreadable", session=session, error=error)
            self._chains.unreadable(watched, error.partition(" ")[0].lower()[:64])
        watched.alone = watched.quarantined = True
