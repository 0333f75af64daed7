"""In which order connections leave, and what they are told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from broker.control.identity import everybody
from broker.disconnect import Disconnect
from broker.model import Position
from broker.protocols.formats import NATIVE
from broker.worker.channels import Channel, Overflow, Start, State, Subscription
from broker.worker.connection import Connection
from broker.worker.departure import (
    HURRIED_SPREAD_MS,
    SPREAD_MS,
    Departure,
    order_by_harm,
)
from broker.worker.dialect import Dialect


class Someone(Connection):
    """A connection without a socket, which notes how it was closed."""

    def __init__(self, *readings: tuple[Channel, State]) -> None:
        super().__init__(cast("Any", None), Dialect(NATIVE), everybody("ada"), "")
        self.told: list[tuple[Disconnect, dict[str, Any]]] = []
        for channel, state in readings:
            sub = Subscription(self, channel, Start(), Overflow.LAG, None)
            sub.state = state
            self.subs[channel.session] = sub

    def close(self, reason: Disconnect, **details: object) -> None:
        self.told.append((reason, details))

    @property
    def delay_ms(self) -> int:
        ((_reason, details),) = self.told
        return int(details["delay_ms"])


def channel(session: str, newest_ms: int) -> Channel:
    made = Channel(session)
    made.tip = Position((newest_ms, 0), 1)
    return made


def test_whom_it_disturbs_least_leaves_first() -> None:
    """Reading nothing, quiet, busy, and then who is still catching up."""
    quiet, busy = channel("quiet", 1000), channel("busy", 9000)
    nothing = Someone()
    idle = Someone((quiet, State.LIVE))
    active = Someone((quiet, State.LIVE), (busy, State.LIVE))
    replaying = Someone((quiet, State.REPLAYING))
    joining = Someone((busy, State.JOINING))
    order = order_by_harm([joining, active, replaying, idle, nothing])

    assert order == [nothing, idle, active, replaying, joining]


def test_readers_of_one_session_leave_together() -> None:
    """The pod that they go to reads it once for all of them."""
    channels = [channel(f"s{n}", 1000) for n in range(3)]
    crowd = [Someone((channels[n % 3], State.LIVE)) for n in range(9)]
    order = [next(iter(one.subs)) for one in order_by_harm(crowd)]

    assert order == sorted(order)


async def test_everybody_is_told_a_delay_of_his_own() -> None:
    """Within half a second, so that nobody notices the pause."""
    crowd = [Someone() for _ in range(200)]
    await Departure(0.1, asyncio.Event()).run(crowd)
    delays = [one.delay_ms for one in crowd]

    assert {one.told[0][0] for one in crowd} == {Disconnect.DRAINING}
    assert len(set(delays)) > 50
    assert max(delays) < SPREAD_MS


async def test_closes_wait_for_their_turn() -> None:
    """Until then the others are served."""
    crowd = [Someone() for _ in range(4)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await Departure(3600, asyncio.Event()).run(crowd)

    assert sum(bool(one.told) for one in crowd) == 1


async def test_hurried_clients_return_over_the_time_that_was_left() -> None:
    """The other pods would else see all of them in the same half second."""
    crowd = [Someone() for _ in range(200)]
    hurry = asyncio.Event()
    hurry.set()
    await Departure(3600, hurry).run(crowd)
    delays = [one.delay_ms for one in crowd]

    assert SPREAD_MS < max(delays) < HURRIED_SPREAD_MS
