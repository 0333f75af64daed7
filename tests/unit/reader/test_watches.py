"""Which streams are read, when, and for whom."""

from __future__ import annotations

from broker.reader.watched import (
    EMPTY_READS_MAX,
    QUARANTINED_COST,
    REST_S,
    Watched,
)
from broker.reader.watches import EMPTY_READS_PER_S, SWEEP_KEYS_MAX, Watches
from broker.ring.requests import Watch
from broker.store.loss import Anchor
from tests.unit.reader.conftest import LINGER_S, SWEEP_S, Clock
from tests.unit.reader.streams import (
    opened,
    read_empty,
    rung,
    spend,
    suspect,
    take,
)


class TestDirty:
    def test_rung_stream_is_taken_once(self, watches: Watches) -> None:
        """One ring is one read."""
        watched = opened(watches, "a")
        opened(watches, "b")
        rung(watches, watched)

        assert watches.work
        assert take(watches).watched == [watched]
        assert watches.take() is None
        assert not watches.work

    def test_ring_while_the_reply_is_on_its_way_counts(self, watches: Watches) -> None:
        """The key left the set before its read was sent, so the ring is not lost."""
        watched = opened(watches, "a")
        rung(watches, watched)
        take(watches)
        rung(watches, watched)

        assert watches.is_dirty(watched)
        assert take(watches).watched == [watched]

    def test_failed_read_is_repeated(self, watches: Watches) -> None:
        """An error spends the bell as an answer does."""
        streams = rung(watches, opened(watches, "a"), opened(watches, "b"))
        watches.put_back(take(watches).watched)

        assert take(watches).watched == streams

    def test_ring_while_the_channel_is_being_opened_is_left_to_the_opening(
        self, watches: Watches
    ) -> None:
        """A key that was watched before is armed still; there is no channel yet."""
        watched = watches.add("a")
        rung(watches, watched)

        assert watches.take() is None

    def test_forgotten_stream_is_not_put_back(self, watches: Watches) -> None:
        """Its watch has ended while the reply was on its way."""
        watched = opened(watches, "a")
        rung(watches, watched)
        batch = take(watches)
        watches.remove(watched)
        again = opened(watches, "a")
        watches.put_back(batch.watched)

        assert not watches.is_current(watched)
        assert watches.is_current(again)
        assert watches.take() is None

    def test_ring_of_a_stranger_is_nothing(self, watches: Watches) -> None:
        """Redis rings for other names and databases as well."""
        watches.ring(b"events:unknown")
        watches.ring(b"")

        assert not watches.work

    def test_what_moved_last_is_read_first_after_an_outage(
        self, watches: Watches, clock: Clock
    ) -> None:
        """The others have probably nothing."""
        streams = [opened(watches, name) for name in "abc"]
        for watched in (streams[1], streams[0], streams[2]):
            clock.now += 1
            rung(watches, watched)
        take(watches)
        watches.mark_all_dirty()

        order = [streams[2], streams[0], streams[1]]
        assert take(watches).watched == order

    def test_stream_without_a_channel_is_not_read(self, watches: Watches) -> None:
        """Before its XINFO nobody knows from where."""
        watches.add("a")
        watches.mark_all_dirty()
        watches.sweep(SWEEP_S)

        assert watches.take() is None


class TestSweep:
    def test_sweep_reads_what_never_rang(self, watches: Watches) -> None:
        """Some changes do not ring."""
        watched = opened(watches, "a")
        watches.sweep(SWEEP_S)

        assert take(watches).watched == [watched]
        assert watched.swept

    def test_stream_that_was_read_is_left_out_once(self, watches: Watches) -> None:
        """Each is read at least once in the sweep's time, by whatever asked for it."""
        watched = opened(watches, "a")
        watched.looked = True
        watches.sweep(SWEEP_S / 2)
        assert watches.take() is None

        watches.sweep(SWEEP_S / 2)
        assert take(watches).watched == [watched]

    def test_sweep_is_spread_over_its_time(self, watches: Watches) -> None:
        """Thousands at once would hold up what has happened."""
        streams = [opened(watches, str(number)) for number in range(400)]
        seen: list[Watched] = []
        for _ in range(20):
            watches.sweep(SWEEP_S / 40)
            while (batch := watches.take()) is not None:
                assert len(batch) <= SWEEP_KEYS_MAX
                seen += batch

        assert sorted(seen, key=id) == sorted(streams, key=id)

    def test_sweep_that_falls_behind_reads_more_at_once(self, watches: Watches) -> None:
        """A reader that is never idle gives it every fourth turn only."""
        for number in range(64 * SWEEP_KEYS_MAX):
            opened(watches, str(number))
        watches.sweep(SWEEP_S)

        assert len(take(watches)) == 4 * SWEEP_KEYS_MAX

    def test_rung_stream_is_no_find_of_the_sweep(self, watches: Watches) -> None:
        """What the doorbell has told is read because of that."""
        watched = opened(watches, "a")
        rung(watches, watched)
        watches.sweep(SWEEP_S)
        take(watches)

        assert not watched.swept
        assert watches.take() is None

    def test_sweep_goes_on_although_something_always_rings(
        self, watches: Watches
    ) -> None:
        """A busy stream cannot keep the others from being looked at."""
        busy, idle = opened(watches, "busy"), opened(watches, "idle")
        watches.sweep(SWEEP_S)
        seen = []
        for _ in range(8):
            rung(watches, busy)
            seen += take(watches).watched

        assert idle in seen
        assert seen.count(busy) >= 6

    def test_ring_that_is_held_back_is_no_miss_of_the_doorbell(
        self, watches: Watches
    ) -> None:
        """The sweep comes first to a stream that waits, but the bell did ring."""
        watched = suspect(watches, "a")
        spend(watches)
        rung(watches, watched)
        watches.sweep(SWEEP_S)
        swept = take(watches).watched

        assert watched in swept
        assert watched.swept
        assert watches.is_dirty(watched)


class TestSuspects:
    def test_streams_that_ring_without_end_share_what_may_be_spent(
        self, watches: Watches, clock: Clock
    ) -> None:
        """A full tracking table rings for all of them, although nobody writes."""
        streams = [opened(watches, str(number)) for number in range(3000)]
        reads = dict.fromkeys(streams, 0)
        for _ in range(80):
            clock.now += 0.25
            watches.wake_rested()
            rung(watches, *streams)
            while (batch := watches.take()) is not None:
                for watched in batch:
                    reads[watched] += 1
                    watches.note_empty(watched)
                    rung(watches, watched)
        most = 3000 * EMPTY_READS_MAX + 21 * EMPTY_READS_PER_S

        assert 0.8 * most < sum(reads.values()) <= most
        assert min(reads.values()) > 0.6 * max(reads.values())

    def test_one_that_rings_a_thousand_times_is_read_each_time(
        self, watches: Watches, clock: Clock
    ) -> None:
        """A service that deletes what it has done, one by one, is no storm."""
        watched = opened(watches, "a")
        for _ in range(1000):
            clock.now += 0.001
            rung(watches, watched)
            read_empty(watches, watched)

        assert watches.held == 0

    def test_what_has_entries_never_waits(self, watches: Watches) -> None:
        """Somebody else's storm must not make it late."""
        watched = suspect(watches, "a")
        spend(watches)
        watched.note_entries(1, 100)

        assert rung(watches, watched) == take(watches).watched

    def test_empty_reads_far_apart_are_nothing(
        self, watches: Watches, clock: Clock
    ) -> None:
        """An EXPIRE now and then is no reason to hear the stream late."""
        spend(watches)
        watched = opened(watches, "a")
        for _ in range(EMPTY_READS_MAX + 1):
            clock.now += REST_S
            rung(watches, watched)
            read_empty(watches, watched)

        assert rung(watches, watched) == take(watches).watched

    def test_suspects_of_large_entries_are_read_without_their_xinfo(
        self, watches: Watches
    ) -> None:
        """It brings two whole entries, whatever rang."""
        watched = opened(watches, "a", 1_000_000)
        asked = []
        for _ in range(EMPTY_READS_MAX + 2):
            rung(watches, watched)
            asked.append(take(watches).with_info)
            watched.reads += 1
            watches.note_empty(watched)

        assert asked == [True] * EMPTY_READS_MAX + [False] * 2

    def test_one_that_waits_is_not_read_for_nothing_in_between(
        self, watches: Watches, clock: Clock
    ) -> None:
        """To ring again when it was long ago that it was read is no way around."""
        watched = suspect(watches, "a")
        spend(watches)
        rung(watches, watched)
        clock.now += REST_S * 2
        rung(watches, watched)

        assert watches.held == 1
        assert watches.take() is None

    def test_who_waited_is_read_in_turn(self, watches: Watches, clock: Clock) -> None:
        """Late, not never, and nobody overtakes."""
        streams = [suspect(watches, str(number)) for number in range(3)]
        spend(watches)
        rung(watches, *streams[:2])
        clock.now += REST_S / 2
        rung(watches, streams[2])
        waiting = watches.take()
        clock.now += REST_S
        watches.wake_rested()

        assert waiting is None
        assert take(watches).watched == streams


class TestQuarantine:
    def test_ring_that_comes_too_soon_is_kept(
        self, watches: Watches, clock: Clock
    ) -> None:
        """The key may be a stream again, and does not ring until it is read."""
        watched = opened(watches, "a")
        rung(watches, watched)
        take(watches)
        watched.quarantined = True
        clock.now += REST_S / 2
        rung(watches, watched)
        soon = watches.take()
        clock.now += REST_S / 2
        watches.wake_rested()

        assert soon is None
        assert take(watches).watched == [watched]

    def test_many_of_them_share_what_suspects_may_cost(
        self, watches: Watches, clock: Clock
    ) -> None:
        """Each is read alone, and somebody may write to all of them without end."""
        streams = [opened(watches, str(number)) for number in range(2000)]
        for watched in streams:
            watched.quarantined = watched.alone = True
        reads = 0
        for _ in range(40):
            clock.now += 0.25
            rung(watches, *streams)
            watches.wake_rested()
            while watches.take() is not None:
                reads += 1

        assert reads <= 1 + 11 * EMPTY_READS_PER_S / QUARANTINED_COST


class TestWorkers:
    def test_last_worker_that_leaves_starts_the_linger(
        self, watches: Watches, clock: Clock
    ) -> None:
        """A page reload does not cost a new channel."""
        watched = opened(watches, "a")
        watched.workers |= {1, 2}
        watches.leave(watched, 1)
        watches.leave(watched, 2)
        clock.now += LINGER_S - 1
        watches.forget_idle()
        lingering = watches.get("a")
        clock.now += 2
        watches.forget_idle()

        assert lingering is watched
        assert watches.get("a") is None
        assert not watches.is_current(watched)

    def test_stream_that_somebody_needs_stays(
        self, watches: Watches, clock: Clock
    ) -> None:
        """However long nothing happens in it."""
        watched = opened(watches, "a")
        watched.workers |= {1, 2}
        watches.leave(watched, 1)
        clock.now += 10 * LINGER_S
        watches.forget_idle()

        assert watches.get("a") is watched

    def test_second_leave_does_not_lengthen_the_linger(
        self, watches: Watches, clock: Clock
    ) -> None:
        """A worker that says it twice is heard once."""
        watched = opened(watches, "a")
        watched.workers.add(1)
        watches.leave(watched, 1)
        clock.now += LINGER_S / 2
        watches.leave(watched, 1)
        clock.now += LINGER_S / 2
        watches.forget_idle()

        assert watches.get("a") is None

    def test_dropped_worker_leaves_everything(self, watches: Watches) -> None:
        """Its watches and the answers that it waits for; the others' stay."""
        shared, own = opened(watches, "shared"), opened(watches, "own")
        shared.workers |= {1, 2}
        own.workers.add(1)
        request = Watch(1, "shared")
        shared.waiting = [(1, request), (2, request)]
        watches.drop_worker(1)

        assert shared.workers == {2}
        assert shared.waiting == [(2, request)]
        assert shared.idle_since is None
        assert own.idle_since is not None

    def test_forgotten_stream_leaves_no_trace(
        self, watches: Watches, clock: Clock
    ) -> None:
        """Neither in the sets of work nor by its name."""
        watched = opened(watches, "a")
        watches.sweep(SWEEP_S)
        rung(watches, watched)
        watches.opening[watched] = None
        watches.remove(watched)

        assert len(watches) == 0
        assert not watches.work
        assert list(watches) == []


def test_position_has_an_ordinal_only_while_it_is_exact(watches: Watches) -> None:
    """While the counting is put off nobody knows it."""
    watched = opened(watches, "a")
    watched.anchor = Anchor((5, 0), 7, (5, 0), 0)
    exact = watched.position
    watched.anchor = Anchor((6, 0), 7, (5, 0), 1)

    assert (exact.id, exact.seq) == ((5, 0), 7)
    assert (watched.position.id, watched.position.seq) == ((6, 0), None)
