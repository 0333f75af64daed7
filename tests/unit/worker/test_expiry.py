"""When tokens of open connections end."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from broker.control.identity import everybody
from broker.worker.connection import Connection
from broker.worker.expiry import Expiries

WARN_S = 10.0
START = 1_000_000.0


class Book:
    """Takes note of who is warned and who is ended."""

    def __init__(self) -> None:
        self.warned: list[tuple[FakeConnection, float]] = []
        self.ended: list[FakeConnection] = []
        self.expiries = Expiries(
            WARN_S,
            cast("Any", lambda one, left_s: self.warned.append((one, left_s))),
            cast("Any", self._end),
        )
        self.expiries.look(START)

    def _end(self, connection: FakeConnection) -> None:
        self.ended.append(connection)
        connection.open = False

    def add(self, expires_at: float | None, now_s: float = START) -> FakeConnection:
        connection = FakeConnection(expires_at)
        self.expiries.add(cast("Connection", connection), now_s)
        return connection


class FakeConnection:
    """What the clockwork needs of a connection."""

    def __init__(self, expires_at: float | None) -> None:
        self.open = True
        self.identity = msgspec.structs.replace(everybody("ada"), expires_at=expires_at)

    def refresh(self, expires_at: float) -> None:
        self.identity = msgspec.structs.replace(self.identity, expires_at=expires_at)


@pytest.fixture
def book() -> Book:
    return Book()


def test_a_token_is_announced_and_then_ended(book: Book) -> None:
    """The warning comes in time, the end not before the token's."""
    connection = book.add(START + 100)
    book.expiries.look(START + 89)
    assert book.warned == []
    book.expiries.look(START + 91)
    ((warned, left_s),) = book.warned
    assert warned is connection
    assert left_s == pytest.approx(9)
    book.expiries.look(START + 100)
    assert book.ended == []
    book.expiries.look(START + 101)
    assert book.ended == [connection]


def test_a_token_without_end_is_never_looked_at(book: Book) -> None:
    """As those of people whom nobody asked."""
    book.add(None)
    book.expiries.look(START + 10**6)
    assert (book.warned, book.ended) == ([], [])


def test_a_short_token_is_ended_without_a_warning(book: Book) -> None:
    """There is nothing to warn of that is not seen in the token."""
    connection = book.add(START + 5)
    book.expiries.look(START + 6)
    assert (book.warned, book.ended) == ([], [connection])


def test_a_refreshed_token_counts_instead_of_the_former(book: Book) -> None:
    """Neither the old end nor the old warning comes."""
    connection = book.add(START + 100)
    connection.refresh(START + 500)
    book.expiries.add(cast("Connection", connection), START + 50)
    book.expiries.look(START + 200)
    assert (book.warned, book.ended) == ([], [])
    book.expiries.look(START + 501)
    assert book.ended == [connection]


def test_a_closed_connection_is_left_alone(book: Book) -> None:
    """It is not told and not closed twice."""
    book.add(START + 5).open = False
    book.expiries.look(START + 6)
    assert book.ended == []


def test_a_clock_that_jumps_ends_everybody_who_is_due(book: Book) -> None:
    """A suspended machine wakes up days later."""
    connections = [book.add(START + second) for second in range(1, 50)]
    book.expiries.look(START + 10**7)
    assert set(book.ended) == set(connections)
    assert len(book.ended) == 49


def test_a_clock_that_goes_back_ends_nobody_early(book: Book) -> None:
    """What is due is due by the time that the clock shows then."""
    connection = book.add(START + 100)
    book.expiries.look(START - 1000)
    book.expiries.look(START + 99)
    assert book.ended == []
    book.expiries.look(START + 101)
    assert book.ended == [connection]


def test_a_connection_that_has_ended_is_forgotten(book: Book) -> None:
    """Tokens that live for days keep nothing in memory of who has left."""
    connection = book.add(START + 86_400)
    book.expiries.remove(cast("Connection", connection))

    assert not book.expiries._due
    assert not book.expiries._seconds
