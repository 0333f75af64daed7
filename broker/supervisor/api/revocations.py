"""Takes access away and gives it back."""

from __future__ import annotations

import math
from urllib.parse import unquote

import structlog

from broker.config import Settings
from broker.control.notices import CHANNEL, Notice, Pardoned, Revoked, encode
from broker.control.revocations import token_key, user_key
from broker.store import revocations as store
from broker.store.standing import StandingConnection
from broker.supervisor.api import messages as m
from broker.supervisor.api.gate import Call
from broker.supervisor.api.sessions import checked_name, user_of
from broker.worker.handshake import Refusal

log = structlog.get_logger(__name__)


class Revocations:
    """Answers what is asked about revocations."""

    def __init__(self, settings: Settings, standing: StandingConnection) -> None:
        self._standing = standing
        self._leeway_s = settings.jwt_leeway_s

    async def revoke(self, call: Call) -> m.Revocation:
        """Take access away from a user or a token."""
        assert isinstance(call.body, m.Revoke)  # noqa: S101 - narrows for mypy
        key, ttl_s = _key(call.body), call.body.ttl_s
        connection = self._standing.use()
        found = await store.revoke(
            connection, key, ttl_s=ttl_s, leeway_s=self._leeway_s
        )
        await self._tell(Revoked(key, found.at, found.until))
        revocation = _revocation(key, found)
        log.info("revoked", kind=revocation.kind, name=revocation.name)
        return revocation

    async def revocations(self, call: Call) -> m.Revocations:
        """All revocations that hold."""
        del call
        found = await store.read_all(self._standing.use())
        newest = sorted(found.items(), key=lambda item: item[1].at, reverse=True)
        return m.Revocations([_revocation(key, one) for key, one in newest])

    async def pardon_user(self, call: Call) -> None:
        """Give a user's access back."""
        await self._pardon(user_key(user_of(call)))

    async def pardon_token(self, call: Call) -> None:
        """Let a token be used again."""
        await self._pardon(token_key(checked_name("the id", call.part("id"))))

    async def _pardon(self, key: str) -> None:
        was_revoked = await store.pardon(self._standing.use(), key)
        # Also if it was not: the notice of an earlier attempt may have been lost.
        await self._tell(Pardoned(key))
        if not was_revoked:
            raise Refusal("not_found", "that was not revoked")

    async def _tell(self, notice: Notice) -> None:
        await self._standing.use().call(b"PUBLISH", CHANNEL, encode(notice))


def _key(body: m.Revoke) -> str:
    if bool(body.user) == bool(body.token_id):
        raise Refusal("bad_request", "either user or token_id is needed")
    if body.user:
        return user_key(checked_name("the user", body.user))
    return token_key(checked_name("the id", body.token_id))


def _revocation(key: str, found: store.Revocation) -> m.Revocation:
    kind, _, name = key.partition(":")
    return m.Revocation(
        kind="user" if kind == "user" else "token",
        name=unquote(name) if kind == "user" else name,
        at=None if math.isinf(found.at) else found.at,
        until=None if math.isinf(found.until) else found.until,
    )
