"""How much of the watched streams is read at once."""

from __future__ import annotations

import pytest

from broker.reader.watched import INFO_EVERY, INFO_MEAN_BYTES, Watched
from broker.reader.watches import (
    FIRST_COUNT,
    READ_BYTES_MAX,
    READ_COUNT_MAX,
    READ_KEYS_MAX,
    Watches,
    in_parts,
)
from broker.store.stream_info import StreamInfo
from tests.unit.reader.conftest import SWEEP_S
from tests.unit.reader.streams import opened, rung, take


class TestBounds:
    def test_unknown_size_is_read_carefully(self, watches: Watches) -> None:
        """A key that was never read brings ten entries at most."""
        streams = [opened(watches, str(number)) for number in range(1000)]
        rung(watches, *streams)
        batch = take(watches)

        assert len(batch.watched) == READ_KEYS_MAX
        assert batch.count == FIRST_COUNT

    @pytest.mark.parametrize("mean", [1, 200, 5000, 100_000, 1 << 20, 8 << 20])
    @pytest.mark.parametrize("keys", [1, 20, 300])
    def test_one_read_is_bounded_in_bytes(
        self, watches: Watches, mean: int, keys: int
    ) -> None:
        """Keys times count times size: Redis itself has no limit."""
        streams = [opened(watches, str(number), mean) for number in range(keys)]
        rung(watches, *streams)
        seen: list[Watched] = []
        while (batch := watches.take()) is not None:
            seen += batch.watched
            brings = len(batch.watched) * batch.count * mean
            assert brings <= READ_BYTES_MAX or (len(batch.watched), batch.count) == (
                1,
                1,
            )
            assert 1 <= batch.count <= READ_COUNT_MAX
            assert len(batch.watched) <= READ_KEYS_MAX

        assert seen == streams

    def test_largest_stream_bounds_the_whole_read(self, watches: Watches) -> None:
        """The count is the same for all keys of a read."""
        small = [opened(watches, str(number), 100) for number in range(9)]
        large = opened(watches, "large", 200_000)
        rung(watches, large, *small)
        batch = take(watches)

        assert len(batch.watched) * batch.count * 200_000 <= READ_BYTES_MAX

    def test_size_is_believed_at_once_and_forgotten_slowly(
        self, watches: Watches
    ) -> None:
        """One small page does not make the next read dangerous."""
        watched = opened(watches, "a", 100_000)
        watched.note_entries(10, 1000)
        after_small = watched.mean_bytes
        watched.note_entries(1, 500_000)

        assert after_small == 90_000
        assert watched.mean_bytes == 500_000

    def test_xinfo_tells_the_size_before_the_first_read(self, watches: Watches) -> None:
        """But not after it: then it is known better."""
        info = StreamInfo(1, 1, (1, 0), (1, 0), (0, 0), mean_bytes=300_000)
        fresh, known = opened(watches, "fresh"), opened(watches, "known", 100)
        fresh.expect_size(info)
        known.expect_size(info)

        assert (fresh.mean_bytes, known.mean_bytes) == (300_000, 100)

    def test_stream_that_failed_is_read_alone(self, watches: Watches) -> None:
        """So that it cannot fail the read of others; these are not held up by it."""
        good = [opened(watches, str(number), 100) for number in range(3)]
        bad = opened(watches, "bad", 100)
        bad.alone = True
        rung(watches, good[0], bad, *good[1:])

        assert take(watches).watched == good
        assert take(watches).watched == [bad]

    def test_quarantined_stream_is_left_to_the_sweep(self, watches: Watches) -> None:
        """A ring may say that it is a stream again, but not many in a row."""
        bad = opened(watches, "bad", 100)
        bad.alone = bad.quarantined = True
        rung(watches, bad)
        by_first_ring = take(watches).watched
        rung(watches, bad)
        by_second_ring = watches.take()
        watches.sweep(SWEEP_S)

        assert by_first_ring == [bad]
        assert by_second_ring is None
        assert take(watches).watched == [bad]
        assert watches.quarantined == 1

    @pytest.mark.parametrize(
        ("keys", "mean", "lengths"),
        [
            (0, 1, []),
            (300, 100, [256, 44]),
            (5, 600_000, [2, 2, 1]),
            (2, 8 << 20, [1, 1]),
        ],
    )
    def test_parts_stay_within_the_bounds_of_a_read(
        self, watches: Watches, keys: int, mean: int, lengths: list[int]
    ) -> None:
        """Checks of all streams after an outage bring no more than a read."""
        streams = [opened(watches, str(number), mean) for number in range(keys)]
        parts = list(in_parts(streams, 3))

        assert [len(part) for part in parts] == lengths
        assert [one for part in parts for one in part] == streams


class TestInfo:
    def test_small_entries_are_always_counted(self, watches: Watches) -> None:
        """Their XINFO is cheap."""
        watched = opened(watches, "a", 200)
        watched.reads = 1
        rung(watches, watched)

        assert take(watches).with_info

    def test_large_entries_are_counted_now_and_then(self, watches: Watches) -> None:
        """The XINFO repeats two whole entries, so every so many reads have it."""
        watched = opened(watches, "a", INFO_MEAN_BYTES + 1)
        found = []
        for number in range(2 * INFO_EVERY):
            watched.reads = number
            rung(watches, watched)
            found.append(take(watches).with_info)

        assert [n for n, info in enumerate(found) if info] == [0, INFO_EVERY]

    def test_sweep_counts_large_entries_as_well(self, watches: Watches) -> None:
        """A loss that was put off is announced with the next sweep at the latest."""
        watched = opened(watches, "a", INFO_MEAN_BYTES + 1)
        watched.reads = 1
        watches.sweep(SWEEP_S)

        assert take(watches).with_info
