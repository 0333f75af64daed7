"""Moves subscriptions between their states and counts how many are in each. Pure."""

from __future__ import annotations

from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.worker.channels import State, Subscription

_COUNTED = {
    State.REPLAYING: catalog.SUBSCRIPTIONS.slots["replaying"],
    State.LAGGING: catalog.SUBSCRIPTIONS.slots["lagging"],
    State.LIVE: catalog.SUBSCRIPTIONS.slots["live"],
}


class States:
    """The states of all subscriptions of a worker.

    Attributes:
        behind: Everybody who is replaying or lagging.
    """

    def __init__(self, values: Row) -> None:
        self._values = values
        self.behind: dict[Subscription, None] = {}

    def move(self, sub: Subscription, state: State, number: int) -> None:
        """Move *sub* to *state*.

        Args:
            sub: A subscription of any channel.
            state: Where it goes.
            number: Number of the newest broadcast: one that goes live has been sent
                what it carries.
        """
        if sub.state in _COUNTED:
            self._values[_COUNTED[sub.state]] -= 1
        if state in _COUNTED:
            self._values[_COUNTED[state]] += 1
        sub.channel.place(sub, state)
        if state in (State.REPLAYING, State.LAGGING):
            self.behind[sub] = None
        else:
            self.behind.pop(sub, None)
        sub.live_since = number
        sub.state = state
