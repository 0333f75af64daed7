"""Sizes and alignment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ring import layout


@given(st.integers(0, 2**64))
def test_aligned_is_the_next_multiple_of_eight(length: int) -> None:
    """A record never ends in the middle of a word."""
    found = layout.aligned(length)

    assert found % 8 == 0
    assert length <= found < length + 8


@pytest.mark.parametrize("size", [1 << 20, 1 << 21, 1 << 26])
def test_power_of_two_is_a_size(size: int) -> None:
    """A position's place in memory is found with a mask."""
    layout.check_size(size)


@pytest.mark.parametrize("size", [0, -8, 1 << 19, (1 << 20) + 8, 3 << 20])
def test_other_sizes_are_refused(size: int) -> None:
    """Too small or no power of two: the arithmetic would be wrong."""
    with pytest.raises(ValueError, match=str(size)):
        layout.check_size(size)


def test_record_header_is_whole_words() -> None:
    """Payloads begin at a word, and so does the checksum's half of word 1."""
    assert layout.RECORD_BYTES == 56
    assert layout.CHECKSUM_OFFSET == 12


def test_header_words_fit_and_share_no_cache_line() -> None:
    """Readers poll some words while the writer writes others."""
    words = [
        layout.CLAIM,
        layout.HEAD,
        layout.GENERATION,
        layout.GENERATION_START,
        layout.NEXT_CHANNEL,
        layout.VERSION,
    ]
    lines = {word * 8 // 64 for word in words}

    assert len(lines) == len(words)
    assert max(words) * 8 < layout.HEADER_BYTES
