"""How a program wants to read a session: checked at once, said with each connection."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from broker.client.follow import check_session
from broker.client.wire import Place
from broker.model import parse_position

Overflow = Literal["lag", "latest", "drop", "close"]
Acknowledge = Literal["manual", "auto"]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What is read, and how; see `Client.events`."""

    session: str
    user: str = ""
    last_event_id: str | None = None
    since: str | None = None
    consumer: str | None = None
    ack: Acknowledge = "manual"
    overflow: Overflow = "lag"
    presence: bool = False
    takeover: bool = False
    everything: bool = False

    def check(self) -> None:
        """Refuse what the broker would refuse.

        Raises:
            ValueError: Something in it cannot be used.
        """
        check_session(self.session)
        if self.last_event_id is not None:
            _check_start(self.last_event_id)
        if self.overflow not in get_args(Overflow):
            raise ValueError(f"overflow is one of {', '.join(get_args(Overflow))}")
        if self.ack not in get_args(Acknowledge):
            raise ValueError(f"ack is one of {', '.join(get_args(Acknowledge))}")
        if self.ack == "auto" and self.consumer is None:
            raise ValueError('ack="auto" needs a consumer')

    def query(self, place: Place, *, again: bool) -> dict[str, str]:
        """What a connection asks for.

        Args:
            place: Where to begin.
            again: The session has been open on an earlier connection. To take it over
                was one deliberate act: it is not done to those who do the same.
        """
        query: dict[str, str] = {"overflow": self.overflow}
        if self.user:
            query["user"] = self.user
        if self.consumer is not None:
            query["consumer"] = self.consumer
        if place.position is not None:
            query["last_event_id"] = place.position
        elif self.since is not None:
            query["since"] = self.since
        if self.presence:
            query["presence"] = "1"
        if self.takeover and not again:
            query["takeover"] = "1"
        return query


def _check_start(start: str) -> None:
    if start == "0" or (start.startswith("-") and start[1:].isdecimal()):
        return
    try:
        parse_position(start)
    except ValueError as error:
        raise ValueError(f"last_event_id: {error}, 0, or -N") from None
