"""What has to be tried, on a connection like the broker's own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from broker.config import Settings
from broker.doctor.finding import Finding, fail, ok, warn
from broker.doctor.rights import acl_line, missing_rights
from broker.store.connection import Connection
from broker.store.server import TrackingUnavailable, start_tracking

PINGS: Final = 21
SLOW_MS: Final = 5.0
SKEW_WARN_S, SKEW_FAIL_S = 1.0, 30.0
MUST_HAVE: Final = "+config|get"
"""The one right without which only checks are missing."""


async def check_rights(
    connection: Connection, settings: Settings, *, in_cluster: bool
) -> Finding:
    """Whether the user may do what the broker does."""
    missing = await missing_rights(connection, in_cluster=in_cluster)
    if not missing:
        return ok("rights", "the user may do everything that the broker does")
    text = f"the user may not {' '.join(missing)}"
    advice = f"give the user these rights, or all of: {acl_line(settings)}"
    if missing == [MUST_HAVE]:
        return warn("rights", f"{text}: settings of Redis cannot be checked", advice)
    return fail("rights", f"{text}: what needs it will not work", advice)


async def check_tracking(
    connection: Connection, second: Connection, settings: Settings
) -> Finding:
    """Whether Redis tells of new entries.

    Args:
        connection: Tracks from then on.
        second: Another one to the same server.
        settings: Of the broker.
    """
    if settings.reader_mode == "blocking":
        return ok("tracking", "not used: BROKER_READER_MODE=blocking")
    try:
        await start_tracking(connection, second)
    except TrackingUnavailable as error:
        text = f"CLIENT TRACKING does not work here ({error})"
        advice = "let the user run CLIENT TRACKING, and connect without a proxy"
        if settings.reader_mode == "tracking":
            return fail("tracking", f"{text}: nothing will be read", advice)
        slower = "new entries are found by blocking reads, for fewer sessions"
        return warn("tracking", f"{text}: {slower}", advice)
    return ok("tracking", "CLIENT TRACKING works")


async def check_latency(connection: Connection) -> Finding:
    """How long Redis takes to answer."""
    samples = []
    for _ in range(PINGS):
        begin = time.perf_counter()
        await connection.call("TIME")
        samples.append((time.perf_counter() - begin) * 1000)
    median_ms = statistics.median(samples)
    text = f"an answer takes {median_ms:.2f} ms (median of {PINGS})"
    if median_ms > SLOW_MS:
        more = "each event takes two round trips to reach the broker"
        return warn("latency", f"{text}; {more}", "run the broker next to its Redis")
    return ok("latency", text)


async def check_clock(connection: Connection) -> Finding:
    """Whether Redis and this machine agree about the time."""
    before = datetime.now(UTC).timestamp()
    seconds, micros = await connection.call("TIME")
    after = datetime.now(UTC).timestamp()
    return judge_clock(int(seconds) + int(micros) / 1e6, before, after)


def judge_clock(redis_s: float, before_s: float, after_s: float) -> Finding:
    """Compare the clocks.

    Args:
        redis_s: The time of Redis, which it told between
        before_s: this time of ours and
        after_s: this one.
    """
    # Anywhere within the round trip is as good as exact.
    skew_s = max(before_s - redis_s, redis_s - after_s, 0.0)
    if skew_s <= SKEW_WARN_S:
        return ok("clock", "the clocks of Redis and of this machine agree")
    text = (
        f"the clocks of Redis and of this machine differ by {skew_s:.1f} s: tokens end "
        "by this one, sessions and stream ids go by the other"
    )
    make = fail if skew_s > SKEW_FAIL_S else warn
    return make("clock", text, "let NTP set both clocks")


async def read_facts(connection: Connection) -> tuple[dict[str, str], dict[str, str]]:
    """What ``INFO`` says, and of ``CONFIG`` what is needed; that is {} if refused.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: ``INFO`` is not allowed.
    """
    info: bytes = await connection.call("INFO")
    (config,) = await connection.send(("CONFIG", "GET", *CONFIG))
    lines = (line.partition(":") for line in info.decode().splitlines())
    facts = {name: value for name, colon, value in lines if colon}
    return facts, _texts(config)


CONFIG: Final[Sequence[str]] = (
    "appendonly",
    "client-output-buffer-limit",
    "min-replicas-to-write",
    "save",
    "timeout",
    "tracking-table-max-keys",
)


def _texts(reply: Any) -> dict[str, str]:
    if not isinstance(reply, dict):
        return {}
    return {name.decode(): value.decode() for name, value in reply.items()}
