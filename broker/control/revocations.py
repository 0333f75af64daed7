"""Whose access was taken away, as one process knows it. Pure: told what time it is."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from broker.control.identity import Identity
from broker.store.revocations import Revocation

PRUNE_ABOVE = 1024
"""Entries from which on it is worth while to look for those that have run out."""


def user_key(user: str) -> str:
    """The key by which all tokens and keys of *user* are revoked."""
    return "user:" + quote(user, safe="")


def token_key(token_id: str) -> str:
    """The key by which one token (``jti``) or API key (``name``) is revoked."""
    return "token:" + token_id


class Revocations:
    """A table of revocations.

    It has no bound but what was revoked and holds: to forget any of that would let
    somebody in again.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Revocation] = {}
        self._news: dict[str, Revocation] = {}
        self._prune_above = PRUNE_ABOVE

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, found: Mapping[str, Revocation]) -> None:
        """Take *found*, all that is in Redis, in place of what is here.

        What was applied since the last time stays: it may have come after *found* was
        read. If it had been pardoned already, the next time will tell.
        """
        self._entries = dict(found)
        news, self._news = self._news, {}
        for key, one in news.items():
            self._put(key, one)

    def apply(self, key: str, at: float, until: float) -> None:
        """Take one more.

        Args:
            key: See `user_key` and `token_key`.
            at: Unix seconds: tokens that were issued until then are void.
            until: Unix seconds until which that holds.
        """
        self._news[key] = self._put(key, Revocation(at, until))

    def _put(self, key: str, one: Revocation) -> Revocation:
        # Two notices may come in the wrong order; the later times count.
        before = self._entries.get(key, one)
        after = Revocation(max(before.at, one.at), max(before.until, one.until))
        self._entries[key] = after
        return after

    def forget(self, key: str) -> None:
        """Give access back."""
        self._entries.pop(key, None)
        self._news.pop(key, None)

    def refuses(self, identity: Identity, now_s: float) -> bool:
        """Whether *identity* has lost its access; *now_s* is Unix time.

        A revoked user may come back with a token that was issued later. What does not
        tell when it was issued, such as an API key, is refused until the end, and so
        is a token or key that was revoked by its id.
        """
        if not self._entries:
            return False
        if len(self._entries) > self._prune_above:
            self._prune(now_s)
        token_id = identity.token_id
        if token_id is not None and self._standing(token_key(token_id), now_s):
            return True
        of_user = self._standing(user_key(identity.user), now_s)
        if of_user is None:
            return False
        return identity.issued_at is None or identity.issued_at <= of_user.at

    def _standing(self, key: str, now_s: float) -> Revocation | None:
        one = self._entries.get(key)
        return one if one is not None and now_s < one.until else None

    def _prune(self, now_s: float) -> None:
        """Drop what has run out; what that costs is shared by as many revocations."""
        for entries in (self._entries, self._news):
            for key in [key for key, one in entries.items() if one.until <= now_s]:
                del entries[key]
        self._prune_above = max(PRUNE_ABOVE, 2 * len(self._entries))
