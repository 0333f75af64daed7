"""Payloads: what is packed is unpacked, with up to seven bytes of padding behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.entry import SKIP_REASONS, Skipped
from broker.model import FIRST_ID, START, U64_MAX, Position
from broker.ring import records

WORDS = st.integers(0, U64_MAX)
IDS = st.tuples(WORDS, WORDS)
NAMES = st.binary(max_size=1024)
PADDING = st.integers(0, 7).map(bytes)
EVENTS = st.builds(
    records.EventRecord,
    frame=st.binary(max_size=300),
    header_bytes=st.sampled_from((2, 4, 10)),
    key=st.binary(max_size=1024),
    transient=st.booleans(),
)
# An ordinal of 0 is one only at 0-0; elsewhere it stands for "not known".
POSITIONS = st.just(START) | st.builds(
    Position,
    IDS.filter(lambda one: one != FIRST_ID),
    st.none() | st.integers(1, U64_MAX),
)
U32 = st.integers(0, 2**32 - 1)
SESSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z")


@given(EVENTS, PADDING)
def test_event_comes_back(event: records.EventRecord, padding: bytes) -> None:
    """Every field, whatever bytes it has."""
    parts = (event.frame, event.header_bytes, event.key, event.transient)
    payload = records.pack_event(*parts) + padding

    assert records.unpack_event(payload) == event
    assert records.unpack_frame(payload) == event.frame
    assert payload[0] == event.transient


@given(st.sampled_from(SKIP_REASONS), st.binary(max_size=200), PADDING)
def test_skipped_comes_back(reason: str, detail: bytes, padding: bytes) -> None:
    """Reason and detail."""
    skipped = Skipped(reason, detail)

    assert records.unpack_skipped(records.pack_skipped(skipped) + padding) == skipped


@given(
    st.builds(
        records.GapRecord,
        after=POSITIONS,
        next=POSITIONS,
        lost=st.none() | st.integers(0, U64_MAX - 1),
        exact=st.booleans(),
        reason=st.sampled_from(records.GAP_REASONS),
    ),
    PADDING,
)
def test_gap_comes_back(gap: records.GapRecord, padding: bytes) -> None:
    """Unknown ordinals and an unknown number stay unknown."""
    assert records.unpack_gap(records.pack_gap(gap) + padding) == gap


@given(
    st.builds(
        records.Join,
        worker=U32,
        token=WORDS,
        session=SESSIONS,
        base=POSITIONS,
        last=WORDS,
        epoch=U32,
        reset=st.booleans(),
        mean_bytes=U32,
    ),
    PADDING,
)
def test_join_comes_back(join: records.Join, padding: bytes) -> None:
    """The answer reaches its worker as it was given."""
    assert records.unpack_join(records.pack_join(join) + padding) == join


@given(U32, WORDS, st.sampled_from(["wrongtype", "overloaded"]), PADDING)
def test_refusal_comes_back(
    worker: int, token: int, reason: str, padding: bytes
) -> None:
    """The refusal reaches its worker as it was given."""
    refused = records.Refused(worker, token, reason)

    assert records.unpack_refused(records.pack_refused(refused) + padding) == refused


@given(st.text(max_size=60).filter(lambda text: len(text.encode()) < 256), PADDING)
def test_complaint_comes_back(reason: str, padding: bytes) -> None:
    """Why a stream cannot be read."""
    packed = records.pack_unreadable(reason)

    assert records.unpack_unreadable(packed + padding) == reason


@pytest.mark.parametrize(
    ("words", "position"),
    [
        ((0, 0, 0), START),
        ((0, 1, 0), Position((0, 1))),
        ((5, 0, 0), Position((5, 0))),
        ((5, 0, 7), Position((5, 0), 7)),
    ],
)
def test_ordinal_zero_is_known_only_at_the_beginning(
    words: tuple[int, int, int], position: Position
) -> None:
    """Elsewhere it says that nobody knows."""
    assert records.position_of(*words) == position
    assert records.seq_word(position.seq) == words[2]
