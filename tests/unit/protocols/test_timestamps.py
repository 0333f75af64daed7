"""Default timestamps: stream ids as times."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.entry import is_rfc3339
from broker.model import U64_MAX
from broker.protocols import timestamps
from broker.protocols.timestamps import LAST_MS, default_timestamp

IDS = st.tuples(
    st.integers(0, LAST_MS) | st.integers(1_763_700_000_000, 1_763_700_000_003),
    st.integers(0, U64_MAX) | st.integers(0, 3) | st.integers(999_990, 1_000_010),
)


@pytest.mark.parametrize(
    ("ms", "n", "text"),
    [
        (1763699200000, 0, b"2025-11-21T04:26:40.000000000Z"),
        (1763699200123, 7, b"2025-11-21T04:26:40.123000007Z"),
        (0, 1, b"1970-01-01T00:00:00.000000001Z"),
        (999, 999_998, b"1970-01-01T00:00:00.999999998Z"),
        (0, 999_999, b"1970-01-01T00:00:00.00099999900000000000000999999Z"),
        (LAST_MS, 0, b"9999-12-31T23:59:59.999000000Z"),
    ],
)
def test_ms_and_n_become_nanoseconds(ms, n, text):
    """The number within the millisecond counts as nanoseconds."""
    assert default_timestamp(ms, n) == text


@given(IDS, IDS)
def test_timestamps_rise_strictly_with_the_id(one, other):
    """No two entries of a stream share a timestamp, and their order is the same."""
    assert (default_timestamp(*one) < default_timestamp(*other)) == (one < other)
    assert (default_timestamp(*one) == default_timestamp(*other)) == (one == other)


@given(IDS)
def test_every_timestamp_is_rfc3339_within_its_millisecond(stream_id):
    """Parsers of RFC 3339 read it, and it names the millisecond of the id."""
    text = default_timestamp(*stream_id)
    read = datetime.fromisoformat(text.decode())
    since_epoch = read - datetime(1970, 1, 1, tzinfo=UTC)

    assert is_rfc3339(text)
    assert since_epoch // timedelta(milliseconds=1) == stream_id[0]


@pytest.mark.parametrize("ms", [LAST_MS + 1, 99999999999999999, U64_MAX])
def test_id_beyond_the_year_9999_gets_the_wall_time_and_is_counted(ms):
    """An odd id can neither raise nor go unnoticed."""
    before = timestamps.out_of_range
    text = default_timestamp(ms, 5)
    age_s = time.time_ns() / 1e9 - datetime.fromisoformat(text.decode()).timestamp()

    assert is_rfc3339(text)
    assert 0 <= age_s + 1e-5 < 60
    assert timestamps.out_of_range == before + 1


def test_usual_id_is_not_counted():
    """The count stays alone for odd ids."""
    before = timestamps.out_of_range
    default_timestamp(LAST_MS, U64_MAX)

    assert timestamps.out_of_range == before
