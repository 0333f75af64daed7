"""The probe: an entry that travels the whole way from Redis to each worker.

A connection that looks healthy proves nothing: a reader that stayed with a demoted
primary answers every ping and hears nothing new. So the supervisor adds an entry to a
session of its own every few seconds, over a fresh connection that looks the primary
up again, and each worker writes on the board which probe it saw last.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import structlog

from broker.errors import BrokerError, StoreRefused
from broker.model import parse_stream_id
from broker.store.cluster import open_connection

log = structlog.get_logger(__name__)

PROBE_EVERY_S = 5.0
DEAF_S = 30.0
"""A worker that heard none of the probes of this time is deaf."""

RETURN_S = 60.0
"""Time after an outage of Redis in which probes do not count: the reader waits up to
that long before it connects again."""

EXPIRE_S = 60
TIMEOUT_S = 3.0


def probe_session(pod: str) -> str:
    """The session of a pod's probes; no client can name it."""
    return f"_probe:{pod}"


class ProbeLog:
    """The last probes that Redis took, oldest first, by the time in their ids.

    Attributes:
        count: How many probes counted since the pod started.
        return_s: Time after an outage, of Redis or of the reader, until all is as ever.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self.return_s = RETURN_S
        self._clock = clock
        self._written: deque[int] = deque(maxlen=round(DEAF_S / PROBE_EVERY_S) + 1)
        self._is_away = False
        self._count_from = clock()

    @property
    def is_silent(self) -> bool:
        """Whether no probe counts at present: Redis is away, or was a moment ago."""
        return not self._written

    def note(self, ms: int) -> None:
        """Redis took a probe and gave it an id with this time."""
        if self._is_away:
            self._is_away = False
            self._count_from = self._clock() + self.return_s
        if self._written and ms < self._written[-1]:
            self._written.clear()  # Redis' clock was put back: begin anew.
        if self._clock() >= self._count_from:
            self._written.append(ms)
            self.count += 1

    def note_failure(self) -> bool:
        """Redis took no probe; returns whether that is news."""
        is_news = not self._is_away
        self._is_away = True
        self._written.clear()
        return is_news

    def is_deaf(self, heard_ms: int, count_before: int) -> bool:
        """Whether a worker missed all the probes of ``DEAF_S``.

        Args:
            heard_ms: The time in the id of the last probe that it heard.
            count_before: What ``count`` was when its process was started.
        """
        written = self._written
        is_full = len(written) == written.maxlen
        was_there = self.count - count_before >= (written.maxlen or 0)
        return is_full and was_there and heard_ms < written[0]


class Prober:
    """Writes a probe every ``PROBE_EVERY_S`` and notes what became of it."""

    def __init__(self, url: str, key: bytes, probes: ProbeLog) -> None:
        self._url = url
        self._key = key
        self._probes = probes

    async def run(self) -> None:
        """Write probes until cancelled."""
        while True:
            await self.write()
            await asyncio.sleep(PROBE_EVERY_S)

    async def write(self) -> None:
        """Write one probe; an unreachable Redis is noted, not raised."""
        try:
            ms = await self._add()
        except BrokerError as error:
            if self._probes.note_failure():
                log.warning("probe_not_written", error=str(error))
        else:
            self._probes.note(ms)

    async def _add(self) -> int:
        connection = await open_connection(
            self._url,
            client_name="broker-probe",
            connect_timeout_s=TIMEOUT_S,
            command_timeout_s=TIMEOUT_S,
        )
        try:
            added, _ = await connection.send(
                ("XADD", self._key, "MAXLEN", 1, "*", "event", "probe"),
                ("EXPIRE", self._key, EXPIRE_S),
            )
        finally:
            connection.close()
        if not isinstance(added, bytes):
            raise StoreRefused(str(added))
        return parse_stream_id(added)[0]
