"""Follows one session frame by frame, for ``broker tail``."""

from __future__ import annotations

from collections.abc import Callable

from broker.client.follow import (
    Follower,
    backoff_s,
    broker_url,
    check_session,
    new_http,
)
from broker.client.link import Ending, Link
from broker.client.tokens import Tokens
from broker.client.wire import Frame, Place

__all__ = ["Ending", "Frame", "NotTaken", "OnFrame", "OnPause", "Tail", "backoff_s"]

OnFrame = Callable[[Frame, str], None]
OnPause = Callable[[Ending, float], None]


class NotTaken(Exception):
    """The caller's ``on_frame`` failed with the `OSError` that is the cause of this."""


class Tail:
    """Follows one session over as many connections as it takes.

    It remembers the position of the last event that it handed on and resumes from
    there.
    """

    def __init__(
        self,
        url: str,
        session: str,
        *,
        start: str | None = None,
        token: str = "",
        user: str = "",
        on_frame: OnFrame,
        on_pause: OnPause = lambda ending, delay_s: None,
    ) -> None:
        """Prepare without connecting.

        Args:
            url: Where the broker listens: ``http(s)://`` or ``ws(s)://`` with host and
                port.
            session: The session's name.
            start: A position, ``0`` for all that is retained, ``-N`` for the last N;
                None for what is new.
            token: Says who we are, where the broker asks for that.
            user: Who we are, where it does not.
            on_frame: Called with each frame and its text, in order.
            on_pause: Called before each wait with the reason and the seconds.

        Raises:
            ValueError: *session* is no session name, *url* no URL, or *token* nothing
                that a header can carry.
        """
        check_session(session)
        address = broker_url(url) / "v1" / "ws" / session
        self._follower = Follower(address, Tokens(token), self)
        self._place = Place(start)
        self._user = user
        self._on_frame = on_frame
        self.handle_pause = on_pause

    async def run(self) -> Ending:
        """Follow the session until the server says not to come back.

        Raises:
            NotTaken: ``on_frame`` could not write what it was given.
        """
        async with new_http() as http:
            return await self._follower.run(http)

    # What the follower asks.

    def query(self) -> dict[str, str]:
        """Where to resume."""
        query = {"user": self._user} if self._user else {}
        if self._place.position is not None:
            query["last_event_id"] = self._place.position
        return query

    def handle_frame(self, link: Link, frame: Frame, text: str) -> None:
        """Hand it on."""
        self._place.note(frame)
        try:
            self._on_frame(frame, text)
        except OSError as error:
            # Of the caller's own: not to be taken for the end of the connection.
            raise NotTaken from error

    def handle_end(self, ending: Ending) -> bool:
        """There is always more to follow."""
        return True
