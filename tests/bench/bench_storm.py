"""What a tracking table that is too small costs: ``python -m tests.bench.bench_storm``.

Its server evicts keys all the time, and each one rings without having changed. Prints
the shares of a core that the reader and Redis take for that, and how late an event is;
asserts nothing. The reader's share includes this program, which is little beside it.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path

from broker.metrics import catalog
from tests.harness.redis_server import new_server
from tests.integration.reader.publisher import Publisher
from tests.integration.reader.rig import Rig

CASES = [(300, 100), (3_000, 1_000), (3_000, 2_900)]
"""How many streams are watched, and how many keys the table holds."""
SETTLE_S, WINDOW_S = 2.0, 5.0


async def redis_cpu_s(publisher: Publisher) -> float:
    """Seconds of CPU that the server has used so far."""
    said: bytes = await publisher.connection.call("INFO", "cpu")
    fields = dict(line.split(":") for line in said.decode().split() if ":" in line)
    return float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])


async def measure(rig: Rig, publisher: Publisher, watched: int, limit: int) -> None:
    """Watch so many streams, make the table small, and publish one by one."""
    sessions = [f"s{number}" for number in range(watched)]
    chains = {session: await rig.watch(session) for session in sessions}
    await publisher.publish_to_all(sessions)
    await rig.until(lambda: all(chain.ids for chain in chains.values()))
    await publisher.connection.call("CONFIG", "SET", "tracking-table-max-keys", limit)
    await asyncio.sleep(SETTLE_S)
    reads = rig.count(catalog.EMPTY_READS.slot)
    redis_s, reader_s = await redis_cpu_s(publisher), time.process_time()
    late_s = []
    began = time.monotonic()
    while time.monotonic() - began < WINDOW_S:
        session = random.choice(sessions)
        published = time.monotonic()
        await publisher.publish(session)
        there = len(publisher.ever[session])
        await rig.until(lambda n=there, c=chains[session]: len(c.ids) == n)  # type: ignore[misc]
        late_s.append(time.monotonic() - published)
    took_s = time.monotonic() - began
    reader_s = time.process_time() - reader_s
    redis_s = await redis_cpu_s(publisher) - redis_s
    reads = rig.count(catalog.EMPTY_READS.slot) - reads
    late_s.sort()
    print(  # noqa: T201
        f"{watched:6} watched, table of {limit:5}: "
        f"reader {reader_s / took_s:4.0%} of a core, Redis {redis_s / took_s:4.0%}, "
        f"{reads / took_s:6.0f} reads/s for nothing, an event "
        f"{late_s[len(late_s) // 2] * 1e3:5.0f} ms late, at most {late_s[-1] * 1e3:.0f}"
    )


async def main() -> None:
    """Print the costs."""
    for watched, limit in CASES:
        with (
            tempfile.TemporaryDirectory() as place,
            new_server(Path(place)) as server,
        ):
            publisher = await Publisher.connect(server.url)
            async with Rig(server.url) as rig:
                await measure(rig, publisher, watched, limit)
            publisher.close()


if __name__ == "__main__":
    asyncio.run(main())
