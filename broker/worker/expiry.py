"""When tokens of open connections end. Pure: told what time it is."""

from __future__ import annotations

from collections.abc import Callable

from broker.worker.connection import Connection


class Expiries:
    """Connections by the second in which something is due for them.

    Args:
        warn_s: Seconds before its expiry that a client is told.
        on_warn: Called with a connection and the seconds that are left.
        on_end: Called with a connection whose token has expired.
    """

    def __init__(
        self,
        warn_s: float,
        on_warn: Callable[[Connection, float], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        self._warn_s = warn_s
        self._on_warn = on_warn
        self._on_end = on_end
        self._due: dict[int, dict[Connection, None]] = {}
        self._seconds: dict[Connection, tuple[int, ...]] = {}
        self._looked_at = 0

    def add(self, connection: Connection, now_s: float) -> None:
        """Watch the token that *connection* has now; both times are Unix time."""
        self.remove(connection)
        identity = connection.identity
        if identity is None or identity.expires_at is None:
            return
        ends_s = identity.expires_at
        warns_s = ends_s - self._warn_s
        times = (warns_s, ends_s) if self._warn_s and now_s < warns_s else (ends_s,)
        self._seconds[connection] = tuple(self._put(connection, at) for at in times)

    def remove(self, connection: Connection) -> None:
        """Watch the token of *connection* no longer."""
        for second in self._seconds.pop(connection, ()):
            those = self._due.get(second)
            if those is not None:
                those.pop(connection, None)
                if not those:
                    del self._due[second]

    def look(self, now_s: float) -> None:
        """Warn and end those who are due."""
        now = int(now_s)
        first = self._looked_at + 1 if self._looked_at else min(self._due, default=now)
        # After a jump of the clock the seconds are too many to go through.
        seconds = range(first, now + 1)
        due = seconds if len(seconds) < len(self._due) else sorted(self._due)
        for second in [one for one in due if one <= now]:
            for connection in self._due.pop(second, ()):
                self._serve(connection, now_s)
        self._looked_at = now

    def _put(self, connection: Connection, when_s: float) -> int:
        # Rounded up: nobody is ended early, and nobody's second has passed already.
        second = max(int(when_s) + 1, self._looked_at + 1)
        self._due.setdefault(second, {})[connection] = None
        return second

    def _serve(self, connection: Connection, now_s: float) -> None:
        identity = connection.identity
        # Closed since, or with a newer token, which has times of its own.
        if not connection.open or identity is None or identity.expires_at is None:
            return
        left_s = identity.expires_at - now_s
        if left_s <= 0:
            self._on_end(connection)
        elif left_s <= self._warn_s:
            self._on_warn(connection, left_s)
