"""From the reader through the ring to the sockets."""

from __future__ import annotations

from grafana.panel import Dashboard, Panel, Row, Unit, bad_above
from grafana.query import (
    Query,
    highest,
    quantile,
    quantiles,
    rate,
    series,
    share,
    total,
)

_THROUGHPUT = Row(
    "How much goes through?",
    (
        Panel(
            "Events",
            "Read: entries from Redis. Drained: taken from the ring, once per worker. "
            "Delivered: written to sockets, once per client.",
            Unit.PER_SECOND,
            (
                Query(total(rate("broker_events_read_total")), "read"),
                Query(total(rate("broker_ring_drained_events_total")), "drained"),
                Query(total(rate("broker_events_delivered_total")), "delivered"),
            ),
        ),
        Panel(
            "Sockets per event",
            "Deliveries per entry read: the number of clients that an event goes to, "
            "on average. Replays count as well.",
            Unit.COUNT,
            (
                Query(
                    share(
                        total(rate("broker_events_delivered_total"), "pod"),
                        total(rate("broker_events_read_total"), "pod"),
                    ),
                    "{{pod}}",
                ),
            ),
        ),
        Panel(
            "Bytes",
            "Of the entries read, of the ring records made of them, and of the frames "
            "written to sockets. The last is what the network carries.",
            Unit.BYTES_PER_SECOND,
            (
                Query(total(rate("broker_read_bytes_total")), "read"),
                Query(total(rate("broker_ring_written_bytes_total")), "into the ring"),
                Query(total(rate("broker_delivered_bytes_total")), "to sockets"),
            ),
        ),
    ),
)

_SPEED = Row(
    "How fast?",
    (
        Panel(
            "Redis to reader",
            "From the time in an entry's id until the reader has it. Contains the "
            "difference between the clocks of Redis and pod.",
            Unit.SECONDS,
            quantiles("broker_stage_seconds", stage="redis_to_reader"),
            bad_above(0.25, 1),
        ),
        Panel(
            "Reader to socket",
            "From the reader until the event is written to the sockets of its clients.",
            Unit.SECONDS,
            quantiles("broker_stage_seconds", stage="reader_to_socket"),
            bad_above(0.25, 1),
        ),
        Panel(
            "Event-loop lag",
            "How late a worker's event loop ran a timer, at worst. Everything in that "
            "worker waits so long.",
            Unit.SECONDS,
            (
                Query(
                    highest(series("broker_loop_lag_seconds"), "pod", "worker"),
                    "{{pod}} worker {{worker}}",
                ),
                Query(
                    highest(series("broker_reader_loop_lag_seconds"), "pod"),
                    "{{pod}} reader",
                ),
            ),
            bad_above(0.1, 0.5),
        ),
    ),
)

_RING = Row(
    "Does everybody keep up?",
    (
        Panel(
            "Ring unread",
            "How much of the ring a worker has yet to read. From one half on the "
            "reader waits for it; at all of it the worker is lapped.",
            Unit.RATIO,
            (
                Query(
                    highest(series("broker_ring_unread_bytes"), "pod", "worker")
                    + " / on (pod) group_left () "
                    + highest(series("broker_ring_bytes"), "pod"),
                    "{{pod}} worker {{worker}}",
                ),
            ),
            bad_above(0.5, 0.9),
        ),
        Panel(
            "Workers lapped",
            "Times per second that the ring overwrote what a worker had not read. Its "
            "clients are served from Redis then: late, but completely. Corrupted "
            "records are a fault of the broker.",
            Unit.PER_SECOND,
            (
                Query(total(rate("broker_ring_lapped_total"), "pod"), "{{pod}} lapped"),
                Query(
                    total(rate("broker_ring_corrupted_total"), "pod"),
                    "{{pod}} corrupted",
                ),
            ),
            bad_above(0.01),
        ),
        Panel(
            "Reader held back",
            "Part of the time in which a reader waited for workers that were half a "
            "ring behind.",
            Unit.RATIO,
            (Query(total(rate("broker_read_paused_seconds_total"), "pod"), "{{pod}}"),),
            bad_above(0.1, 0.5),
        ),
        Panel(
            "Write buffers",
            "Bytes that the kernel has not taken yet, of all sockets. Bounded per "
            "socket, so it grows with the number of slow ones.",
            Unit.BYTES,
            (Query(total(series("broker_write_buffer_bytes"), "pod"), "{{pod}}"),),
        ),
        Panel(
            "Subscriptions",
            "live: at the tip. replaying: catching up. lagging: behind, because the "
            "socket is slow.",
            Unit.COUNT,
            (Query(total(series("broker_subscriptions_open"), "state"), "{{state}}"),),
            is_stacked=True,
        ),
        Panel(
            "Probe",
            "From the time in the probe's id until each worker has it: what a client "
            "of an idle session would see.",
            Unit.SECONDS,
            (
                Query(
                    quantile(0.99, "broker_probe_seconds", "pod"),
                    "{{pod}} 99th percentile",
                ),
            ),
            bad_above(0.25, 1),
        ),
    ),
)

FANOUT = Dashboard(
    "fanout",
    "Broker: fan-out",
    "How events get from Redis through the ring to the sockets, and what slows them.",
    (_THROUGHPUT, _SPEED, _RING),
)
