"""Sessions and their users: what is open, who is there, and how both are ended."""

from __future__ import annotations

import contextlib

import msgspec

from broker.config import Settings
from broker.control.identity import BadClaims, read_name
from broker.control.lifecycle import announce
from broker.control.notices import CHANNEL, DisconnectUser, SessionEnded, encode
from broker.control.sessions import terms_of
from broker.errors import StoreError
from broker.model import StreamId, is_session_name
from broker.store.presence import who
from broker.store.sessions import close_session, list_sessions
from broker.store.standing import StandingConnection
from broker.supervisor.api import messages as m
from broker.supervisor.api.gate import Call
from broker.worker.archive import Archive
from broker.worker.handshake import Refusal

USERS_MAX = 1000
"""Names of present users in one answer."""


class Sessions:
    """Answers what is asked about sessions and users."""

    def __init__(
        self, settings: Settings, standing: StandingConnection, archive: Archive
    ) -> None:
        self._standing = standing
        self._archive = archive
        self._terms = terms_of(settings)

    async def session(self, call: Call) -> m.SessionInfo:
        """How many events a session has, and who is connected to it."""
        session = session_of(call)
        count, users = await who(self._standing.use(), session, USERS_MAX)
        present = m.Present(count, users)
        info = await self._archive.info(session)
        if info is None:
            return m.SessionInfo(0, 0, None, None, present)
        first = _text(info.first) if info.length else None
        return m.SessionInfo(info.length, info.added, first, _text(info.last), present)

    async def user_sessions(self, call: Call) -> m.UserSessions:
        """The sessions of a user."""
        user = user_of(call)
        records = await list_sessions(self._standing.use(), user)
        listed = msgspec.convert(records, list[m.UserSession], from_attributes=True)
        return m.UserSessions(user, listed)

    async def close(self, call: Call) -> m.Closed:
        """Close a session and tell everybody who serves it."""
        user, session = user_of(call), session_of(call)
        connection = self._standing.use()
        closed = await close_session(connection, user, session, self._terms)
        # It is closed: whoever misses the notice finds a tombstone at the next renewal,
        # and what is not announced stays in the outbox.
        with contextlib.suppress(StoreError):
            if closed.fence:
                ended = SessionEnded(user, session, closed.fence, "closed")
                await connection.call(b"PUBLISH", CHANNEL, encode(ended))
            await announce(connection, closed)
        return m.Closed(bool(closed.fence))

    async def disconnect(self, call: Call) -> m.Told:
        """End all connections of a user."""
        notice = encode(DisconnectUser(user_of(call)))
        workers = await self._standing.use().call(b"PUBLISH", CHANNEL, notice)
        return m.Told(workers)


def user_of(call: Call) -> str:
    """The user of the path.

    Raises:
        Refusal: No user can have that name.
    """
    return checked_name("the user", call.part("user"))


def checked_name(what: str, name: str) -> str:
    """The name of a user or token, as it is.

    Raises:
        Refusal: Nobody and no token can have it.
    """
    try:
        return read_name(what, name)
    except BadClaims as error:
        raise Refusal("bad_request", str(error)) from None


def session_of(call: Call) -> str:
    """The session of the path.

    Raises:
        Refusal: No session can have that name.
    """
    session = call.part("session")
    if not is_session_name(session):
        raise Refusal("bad_request", "this is no session name")
    return session


def _text(stream_id: StreamId) -> str:
    return f"{stream_id[0]}-{stream_id[1]}"
