"""Which connections belong to whom."""

from __future__ import annotations

from typing import Any, cast

from broker.control.identity import everybody
from broker.protocols.formats import NATIVE
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect
from broker.worker.people import People


class Someone(Connection):
    """A connection that is open without a socket."""

    def __init__(self, user: str, session: str = "") -> None:
        super().__init__(cast("Any", None), Dialect(NATIVE), everybody(user), session)
        self.is_open = True

    @property
    def open(self) -> bool:
        return self.is_open


def test_connections_are_found_by_user_the_oldest_first() -> None:
    """And not those of others."""
    people = People()
    first, other, second = Someone("ada"), Someone("bob"), Someone("ada")
    for one in (first, other, second):
        people.add(one)

    assert people.of("ada") == [first, second]
    assert set(people) == {first, other, second}


def test_who_has_left_is_forgotten() -> None:
    """Nothing is kept of a user without connections."""
    people = People()
    one = Someone("ada", "s1")
    people.add(one)
    people.remove(one)
    people.remove(one)

    assert people.of("ada") == []
    assert people.oldest("ada", "s1") is None
    assert not people._by_user
    assert not people._by_path


def test_the_oldest_is_the_oldest_that_is_open() -> None:
    """Of the session if one is named, else of the user."""
    people = People()
    elsewhere, closing, there = (
        Someone("ada", "s2"),
        Someone("bob", "s1"),
        Someone("ada", "s1"),
    )
    for one in (elsewhere, closing, there):
        people.add(one)
    closing.is_open = False

    assert people.oldest("ada") is elsewhere
    assert people.oldest("ada", "s1") is there


def test_nobody_is_known_without_a_name() -> None:
    """Thousands of anonymous connections cost nothing here."""
    people = People()
    people.add(Someone("", "s1"))

    assert list(people) == []
    assert people.oldest("", "s1") is None
