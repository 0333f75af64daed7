"""The order of what is under way for one slot of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.store.lanes import STEPS_MAX, Batch, Item, Lane
from broker.store.slots import split


def items(loop: asyncio.AbstractEventLoop, count: int) -> Sequence[Item]:
    """So many commands with the same key."""
    atoms = list(split([("XADD", "s", "*", "n", n) for n in range(count)]))
    batch = Batch(atoms, loop.create_future())
    return [Item(index, batch, index, 0.0) for index in range(count)]


async def test_what_was_not_done_stays_before_what_comes_later() -> None:
    """However much was done after it: a slot is troubled until nothing waits."""
    lane = Lane()
    first, *others = items(asyncio.get_running_loop(), STEPS_MAX + 2)
    lane.note_not_done(first, "TRYAGAIN")
    for item in others:
        lane.note_done(item)

    assert lane.troubled
    assert lane.take() == [first]
    for item in others:
        lane.note_done(item)
    assert not lane.troubled


async def test_a_slot_that_has_arrived_lets_all_follow() -> None:
    """One that a node did after it had said where it is is proof enough."""
    lane = Lane()
    first, second = items(asyncio.get_running_loop(), 2)
    lane.note_not_done(first, "MOVED")
    lane.queue.append(second)

    assert lane.take() == [first]
    lane.note_done(first)
    assert not lane.troubled
    assert lane.take() == [second]
