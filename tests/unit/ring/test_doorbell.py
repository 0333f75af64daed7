"""The bell that wakes a worker."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from broker.ring.doorbell import Doorbell


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    made = Doorbell.create()
    yield made
    os.close(made.fd)


def is_rung(bell: Doorbell) -> bool:
    return select.select([bell], [], [], 0)[0] == [bell]


def test_ring_wakes_until_it_is_cleared(bell: Doorbell) -> None:
    """Two rings are one waking."""
    quiet = is_rung(bell)
    bell.ring()
    bell.ring()
    rung = is_rung(bell)
    bell.clear()

    assert not quiet
    assert rung
    assert not is_rung(bell)


def test_clearing_a_quiet_bell_does_nothing(bell: Doorbell) -> None:
    """A worker may look at the ring without having been woken."""
    bell.clear()

    assert not is_rung(bell)


def test_ring_of_a_full_bell_does_not_block(bell: Doorbell) -> None:
    """A worker that never wakes cannot stop the reader."""
    os.eventfd_write(bell.fd, 2**64 - 2)
    bell.ring()

    assert is_rung(bell)


def test_attached_bell_rings_the_same(bell: Doorbell) -> None:
    """The other process has it by its descriptor."""
    Doorbell(bell.fd).ring()

    assert is_rung(bell)


def test_bell_does_not_survive_an_exec(bell: Doorbell) -> None:
    """Only children that are given it have it."""
    assert not os.get_inheritable(bell.fd)
