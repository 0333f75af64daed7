"""Who may come in, and to what: identity, rights, open sessions, where to begin."""

from __future__ import annotations

import time

import msgspec

from broker.config import Settings
from broker.control.authenticator import Authenticator
from broker.control.identity import AuthUnavailable, Identity, Unauthorized, everybody
from broker.errors import StoreError, StoreRefused
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import START, Position
from broker.store.offsets import Consumer
from broker.store.sessions import FENCE_MAX
from broker.worker.archive import Archive
from broker.worker.channels import Start, StartAt
from broker.worker.handshake import Refusal
from broker.worker.plane import ControlPlane
from broker.worker.seeking import Seek
from broker.worker.starting import Reading

ANONYMOUS = everybody("")
"""One for all: thousands of connections may be nobody's."""


class Entrance:
    """Decides about connections and subscriptions before they are made."""

    def __init__(
        self, settings: Settings, values: Row, plane: ControlPlane, archive: Archive
    ) -> None:
        self._settings = settings
        self._values = values
        self._plane = plane
        self._archive = archive
        self._authenticator = Authenticator(settings)
        self.asks_for_tokens = settings.auth != "none"

    async def identify(self, token: str | None, user: str = "") -> Identity:
        """Find out who has *token*; *user* counts only where nobody asks for one.

        Raises:
            Refusal: The token is missing, wrong, expired or revoked; or nobody can
                judge it now.
        """
        if not self.asks_for_tokens:
            if not user:
                return ANONYMOUS
            identity = everybody(user)
            self.check_access(identity)
            return identity
        if token is None:
            raise Refusal("unauthorized")
        try:
            identity = await self._authenticator.identify(token)
        except Unauthorized as error:
            self._values[catalog.TOKENS_REFUSED.slots[error.reason]] += 1
            raise Refusal(error.code) from None
        except AuthUnavailable:
            self._values[catalog.TOKENS_REFUSED.slots["unavailable"]] += 1
            raise Refusal("unavailable", "tokens cannot be checked now") from None
        if not self._plane.knows_revocations:
            try:
                await self._plane.wait_up()
            except StoreError:
                raise Refusal("unavailable") from None
        self.check_access(identity)
        return identity

    def check_access(self, identity: Identity) -> None:
        """Refuse who has lost access; once more after each wait for something else.

        Raises:
            Refusal: The user or the token is revoked.
        """
        if self._plane.revocations.refuses(identity, time.time_ns() / 1e9):
            self._values[catalog.TOKENS_REFUSED.slots["revoked"]] += 1
            raise Refusal("revoked")

    async def open(self, identity: Identity, session: str, reading: Reading) -> Reading:
        """Open *session* for a user who wants to read it.

        Returns:
            How to read it: with the committed position, if that is where to begin.

        Raises:
            Refusal: It may not be read, was evicted, or Redis is away.
        """
        self.check_right(identity, session)
        if reading.seek is not None:
            reading = await self._seek(reading.seek, session, reading)
        if reading.consumer:
            reading = await self._resume(identity.user, session, reading)
        # Last, since it may evict another session: nothing may be refused after it.
        if identity.user:
            await self.start_session(identity, session, deliberate=reading.takeover)
        return reading

    async def _resume(self, user: str, session: str, reading: Reading) -> Reading:
        try:
            return await self._begin_at_commit(user, session, reading)
        except StoreError as error:
            raise refusal_of(error) from None

    async def _seek(self, seek: Seek, session: str, reading: Reading) -> Reading:
        try:
            start = await seek.find(self._archive, session)
        except StoreError as error:
            raise refusal_of(error) from None
        return msgspec.structs.replace(reading, start=start, seek=None)

    def check_right(self, identity: Identity, session: str) -> None:
        """Refuse a session that *identity* may not read.

        Raises:
            Refusal: It may not.
        """
        if not identity.may_subscribe(session):
            raise Refusal("forbidden", "the token does not allow to read this session")

    async def start_session(
        self,
        identity: Identity,
        session: str,
        *,
        deliberate: bool,
        as_of_ms: int = FENCE_MAX,
    ) -> None:
        """Make *session* one of the user's open sessions, which may evict the oldest.

        Args:
            identity: Whose.
            session: Which.
            deliberate: Whether it is opened even if it was evicted or closed.
            as_of_ms: When the user said so, by Redis' clock.

        Raises:
            Refusal: It was evicted or closed and this is no deliberate act, or Redis
                is away.
        """
        limit = identity.max_sessions
        if limit is None:
            limit = self._settings.max_sessions_per_user
        try:
            admission = await self._plane.admit(
                identity.user,
                session,
                limit=limit,
                deliberate=deliberate,
                as_of_ms=as_of_ms,
            )
        except StoreError:
            raise Refusal("unavailable") from None
        if admission.verdict != "open":
            details = {"replaced_by": admission.replaced_by}
            raise Refusal(
                f"session_{admission.verdict}",
                details=details if admission.replaced_by else {},
            )

    async def _begin_at_commit(
        self, user: str, session: str, reading: Reading
    ) -> Reading:
        """Resume from the committed position, or store where the consumer begins.

        It is stored before the first event is sent: a crash before the first ``ack``
        must not skip what came until then.
        """
        consumer = Consumer(session, user, reading.consumer)
        start = reading.start
        stored = await self._plane.commits.read(consumer)
        if stored is None:
            stored = await self._begin(consumer, start)
        if start.at is StartAt.LIVE:
            start = Start(at=StartAt.POSITION, position=stored)
        return msgspec.structs.replace(reading, start=start, committed=stored)

    async def _begin(self, consumer: Consumer, start: Start) -> Position:
        first = await self._position_of(consumer.session, start)
        result = await self._plane.commits.begin(consumer, first)
        if result.position is None:
            raise Refusal(result.code)
        return result.position

    async def _position_of(self, session: str, start: Start) -> Position:
        if start.at is StartAt.LIVE:
            info = await self._archive.info(session)
            return START if info is None else Position(info.last, info.added or None)
        if start.at is StartAt.LAST_N:
            before = await self._archive.before_last(session, start.count)
            return START if before is None else Position(before)
        if start.at is StartAt.SINCE:
            # A time is no entry, and a position that is none resumes with a reset.
            following = (start.position.id[0] + 1, 0)
            last = await self._archive.history(
                session, None, following, limit=1, reverse=True
            )
            return Position(last[0][0]) if last else START
        return START if start.at is StartAt.RETAINED else start.position

    async def close(self) -> None:
        """Give back what identification has opened."""
        await self._authenticator.close()


def refusal_of(error: StoreError) -> Refusal:
    """What a client is told who cannot have what is in Redis."""
    if isinstance(error, StoreRefused):
        return Refusal("not_found", "the session cannot be read")
    return Refusal("unavailable")
