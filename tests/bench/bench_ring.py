"""Costs of the ring and of what a worker makes of it.

Run with ``python -m tests.bench.bench_ring``.

Prints microseconds per record, best of some runs; machines differ, so compare runs of
one machine only.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.entry import Event
from broker.metrics.slots import Slots
from broker.model import Position
from broker.protocols.formats import NATIVE, Format, event_payload
from broker.ring.layout import Kind
from broker.ring.receiver import Receiver
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from broker.worker.channels import Channel, Overflow, Start, State, Subscription
from broker.worker.hub import Hub
from broker.worker.pages import PageBuilder, page_from_ring
from broker.worker.recent import Recent

CHANNELS, RECORDS = 200, 100
RUNS = 5
EVENT = Event(b"token_stream", b'"' + b"x" * 180 + b'"', b"", b"", b"", False)
TIP = Position((1_700_000_000_000 + RECORDS, 0), RECORDS)


class NullSocket:
    """Takes everything at once."""

    fd = -1
    blocked = False
    open = True
    buffered_bytes = 0
    format: Format = NATIVE

    def send(self, data: bytes) -> None:
        pass

    def notify(self, event: str, data: object, session: str | None = None) -> None:
        pass

    def hold(self, frame: bytes) -> None:
        pass

    def queue_rest(self, data: bytes, written: int) -> None:
        pass

    def close(self, reason: object) -> None:
        pass


def fill(transmitter: Transmitter) -> dict[int, int]:
    last = {
        number: transmitter.append(Kind.BASE, number, 1, 0, 0, 0, b"")
        for number in range(1, CHANNELS + 1)
    }
    for seq in range(1, RECORDS + 1):
        ms = 1_700_000_000_000 + seq
        payload = event_payload(b"s1", ms, 0, seq, EVENT)
        for number, place in last.items():
            last[number] = transmitter.append(
                Kind.EVENT, number, ms, 0, seq, place, payload
            )
        transmitter.commit()
    return last


def replay(receiver: Receiver, number: int, place: int) -> None:
    channel = Channel("s1")
    recent = Recent(number, place, TIP)
    while recent.walk(receiver, (1, 0)):
        pass
    builder = PageBuilder(channel, NATIVE, Position((1, 0), 0), None, None)
    page_from_ring(receiver, recent, builder)


def replay_all(receiver: Receiver, last: dict[int, int]) -> None:
    for number, place in last.items():
        replay(receiver, number, place)


def show(name: str, operations: int, work: Callable[[], object]) -> None:
    best = min(timed(work) for _ in range(RUNS))
    print(f"{name:<48}{best / operations * 1e6:8.2f} us")  # noqa: T201


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def drain(segment: Segment, start: int) -> None:
    receiver = Receiver(segment)
    receiver.cursor = start
    everything = range(CHANNELS + 1)
    while copied := receiver.receive(256 * 1024):
        for _record in receiver.records(copied, everything):
            pass


def broadcast(hub: Hub, channel: Channel, receiver: Receiver, place: int) -> None:
    record = receiver.read(place)
    assert record is not None
    hub.publish(channel, [record])
    while hub.busy:
        hub.do_work()


def main() -> None:
    """Print the costs."""
    segment = Segment.create(1 << 26)
    transmitter = Transmitter(segment)
    total = CHANNELS * RECORDS
    receiver = Receiver(segment)
    show("append and commit", total, lambda: fill(transmitter))
    start = transmitter.tail
    last = fill(transmitter)
    show("drain", total, lambda: drain(segment, start))
    show(
        "walk back and build a page, per event",
        total,
        lambda: replay_all(receiver, last),
    )
    for count in (1, 100, 1000, 10_000):
        hub = Hub(Slots.create(1).row(1), lambda *_: None)
        channel = Channel("s1")
        for _ in range(count):
            sub = Subscription(NullSocket(), channel, Start(), Overflow.LAG, None)
            sub.state = State.LIVE
            channel.live.setdefault(NATIVE, {})[sub] = -1
        show(
            f"publish to {count} sockets, without the system call, each",
            count,
            lambda hub=hub, channel=channel: broadcast(  # type: ignore[misc]
                hub, channel, receiver, last[1]
            ),
        )


if __name__ == "__main__":
    main()
