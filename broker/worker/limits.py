"""How many may come in, and how fast. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection

from broker.config import Settings
from broker.usage import Memory

ADDRESSES_MAX = 10_000
PER_USER = "too_many_connections_per_user"
PER_SESSION = "too_many_connections_per_session"


class TokenBucket:
    """A rate with a burst.

    Args:
        rate_per_s: Tokens that come back each second.
        burst: Tokens that there can be at once.
    """

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at = time.monotonic()

    def take(self) -> bool:
        """Take one token, if there is one."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class PerAddress:
    """A token bucket for each address, in bounded memory.

    Args:
        rate_per_s: Tokens that come back each second.
        burst: Tokens that there can be at once.
    """

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, address: str) -> bool:
        """Take one token of *address*, if there is one."""
        bucket = self._buckets.get(address)
        if bucket is None:
            if len(self._buckets) >= ADDRESSES_MAX:
                self._buckets.clear()
            bucket = self._buckets[address] = TokenBucket(self._rate, self._burst)
        return bucket.take()


class Limits:
    """What one worker lets in. Counts are this worker's own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        rate = settings.accept_rate_per_s
        self._accepts = TokenBucket(rate, rate)
        self._per_user: Counter[str] = Counter()
        self._per_session: Counter[str] = Counter()
        self._subs_per_user: Counter[str] = Counter()
        self.connections = 0
        self.subscriptions = 0
        self.memory_is_high = False

    def refusal(
        self,
        user: str,
        session: str,
        of_user: int | None = None,
        excused: Collection[str] = (),
    ) -> str:
        """Why a connection may not be opened now, as a metric label; "" if it may.

        Args:
            user: Whose it is, empty for nobody's.
            session: What it reads, empty for nothing yet.
            of_user: How many connections this user may have instead of the setting.
            excused: Reasons that do not count, because somebody else makes room.
        """
        settings = self._settings
        if of_user is None:
            of_user = settings.max_connections_per_user
        if self.memory_is_high:
            return "memory"
        if self.connections >= settings.max_connections:
            return "too_many_connections"
        by_user, by_session = PER_USER, PER_SESSION
        if user and by_user not in excused and _reached(self._per_user[user], of_user):
            return by_user
        of_session = settings.max_connections_per_session
        full = session and _reached(self._per_session[session], of_session)
        if full and by_session not in excused:
            return by_session
        return "" if self._accepts.take() else "accept_rate"

    @property
    def users(self) -> int:
        """How many users with a name have a connection here."""
        return len(self._per_user)

    def opened(self, user: str, session: str) -> None:
        """Count a connection."""
        self.connections += 1
        _count(self._per_user, user, 1)
        _count(self._per_session, session, 1)

    def closed(self, user: str, session: str) -> None:
        """Count it no longer."""
        self.connections -= 1
        _count(self._per_user, user, -1)
        _count(self._per_session, session, -1)

    def may_subscribe(self, user: str, already: int) -> bool:
        """Whether a connection with *already* subscriptions may have one more."""
        is_room = already < self._settings.max_subscriptions_per_connection
        return is_room and not self.subscription_refusal(user)

    def subscription_refusal(self, user: str) -> str:
        """Why *user* may read no further session here; empty if he may."""
        settings = self._settings
        if user and _reached(
            self._subs_per_user[user], settings.max_subscriptions_per_user
        ):
            return "too_many_subscriptions"
        is_full = self.subscriptions >= settings.max_subscriptions
        return "too_many_connections" if is_full else ""

    def subscribed(self, user: str) -> None:
        """Count a subscription."""
        self.subscriptions += 1
        _count(self._subs_per_user, user, 1)

    def unsubscribed(self, user: str) -> None:
        """Count it no longer."""
        self.subscriptions -= 1
        _count(self._subs_per_user, user, -1)

    def note_memory(self, memory: Memory | None) -> None:
        """Note whether the container's *memory*, if limited, is nearly used up."""
        ratio = self._settings.memory_high_ratio
        self.memory_is_high = (
            memory is not None and memory.used_bytes > memory.limit_bytes * ratio
        )


def _reached(count: int, limit: int) -> bool:
    return 0 < limit <= count


def _count(counter: Counter[str], name: str, by: int) -> None:
    if name:
        counter[name] += by
        if not counter[name]:
            del counter[name]
