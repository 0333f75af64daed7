"""The rows that processes tell each other about themselves with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from broker.ring import board as b


@pytest.fixture
def board() -> Iterator[b.Board]:
    made = b.Board.create(2)
    yield made
    made.close()
    os.close(made.fd)


def test_second_mapping_sees_what_the_first_wrote(board: b.Board) -> None:
    """The memory is shared by descriptor, up to the largest number."""
    other = b.Board(board.fd, 2)
    board.set(1, b.CURSOR, 2**64 - 1)

    assert other.get(1, b.CURSOR) == 2**64 - 1
    other.close()


def test_rows_do_not_overlap(board: b.Board) -> None:
    """Reader, two workers and supervisor, each with all its words."""
    for row in range(4):
        for word in range(b.ROW_WORDS):
            board.set(row, word, row * 100 + word)
    found = [board.get(row, word) for row in range(4) for word in range(b.ROW_WORDS)]

    assert found == [row * 100 + w for row in range(4) for w in range(b.ROW_WORDS)]


def test_clearing_a_row_leaves_the_others(board: b.Board) -> None:
    """The next process of a row starts from zero."""
    for row in range(4):
        board.set(row, 0, 7)
        board.set(row, b.ROW_WORDS - 1, 7)
    board.clear(1)

    assert [board.get(row, 0) for row in range(4)] == [7, 0, 7, 7]
    assert [board.get(row, b.ROW_WORDS - 1) for row in range(4)] == [7, 0, 7, 7]


def test_words_have_places_of_their_own() -> None:
    """No two names mean the same word, and all fit into a row."""
    words = [
        b.PID,
        b.HEARTBEAT_NS,
        b.STATE,
        b.CURSOR,
        b.PROBE_MS,
        b.REDIS_UP,
        b.WATCHES_REFUSED,
        b.WATCHED,
        b.CONNECTIONS,
        b.REDIS_UP_EVER,
    ]

    assert len(set(words)) == len(words)
    assert max(words) < b.ROW_WORDS


def test_silence_is_counted_from_the_last_beat(board: b.Board) -> None:
    """A row that beats is not silent, one that never did is silent since boot."""
    board.beat(1)

    assert 0 <= board.silent_s(1) < 5
    assert board.silent_s(2) > board.silent_s(1)


def test_silence_grows_without_beats(board: b.Board) -> None:
    """An old heartbeat is as old as it is."""
    board.beat(1)
    board.set(1, b.HEARTBEAT_NS, board.get(1, b.HEARTBEAT_NS) - 20_000_000_000)

    assert board.silent_s(1) == pytest.approx(20, abs=5)
