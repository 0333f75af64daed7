"""One pod: its processes, and how near it is to its limits."""

from __future__ import annotations

from grafana.panel import Dashboard, Panel, Row, Unit, bad_above, bad_below, number
from grafana.query import Query, highest, lowest, quantile, rate, series, total

_WELL = Row(
    "Is it well?",
    (
        number(
            "Ready",
            "Whether it lets clients in; /readyz says why not.",
            Unit.YES_NO,
            lowest(series("broker_ready")),
            bad_below(1),
        ),
        number(
            "Draining",
            "Whether it is being shut down and sends its clients away.",
            Unit.YES_NO,
            highest(series("broker_draining")),
            bad_above(1),
        ),
        number(
            "Age",
            "Time since it was started.",
            Unit.SECONDS,
            f"time() - {lowest(series('broker_start_time_seconds'))}",
        ),
        number(
            "Workers up",
            "Workers that are ready and whose event loop turns.",
            Unit.COUNT,
            total(series("broker_workers_up")),
            bad_below(1),
        ),
        number(
            "Deaf workers",
            "Workers that do not hear the probe; they are started again.",
            Unit.COUNT,
            total(series("broker_workers_deaf")),
            bad_above(1, 1),
        ),
        number(
            "Redis in reach",
            "Whether its reader has its connection.",
            Unit.YES_NO,
            lowest(series("broker_redis_up")),
            bad_below(1),
        ),
    ),
)

_LIMITS = Row(
    "How near is it to its limits?",
    (
        Panel(
            "Memory",
            "What the container uses, its limit, and what each kind of process holds "
            "resident. At BROKER_MEMORY_HIGH_RATIO of the limit newcomers are refused.",
            Unit.BYTES,
            (
                Query(total(series("broker_memory_bytes")), "used"),
                Query(total(series("broker_memory_limit_bytes")), "limit"),
                Query(
                    total(series("broker_process_resident_memory_bytes"), "process"),
                    "{{process}}",
                ),
            ),
        ),
        Panel(
            "Connections",
            "Open connections by protocol, and how many it lets in at most.",
            Unit.COUNT,
            (
                Query(
                    total(
                        series("broker_connections_open", protocol="$protocol"),
                        "protocol",
                    ),
                    "{{protocol}}",
                ),
                Query(total(series("broker_connections_limit")), "limit"),
            ),
        ),
        Panel(
            "Descriptors",
            "Open descriptors of the process of each kind that has most, as part of "
            "what it may have. At the limit no connection is accepted.",
            Unit.RATIO,
            (
                Query(
                    highest(
                        series("broker_open_descriptors")
                        + " / "
                        + series("broker_descriptors_limit"),
                        "process",
                    ),
                    "{{process}}",
                ),
            ),
            bad_above(0.8, 0.95),
        ),
    ),
)

_PROCESSES = Row(
    "How are its processes?",
    (
        Panel(
            "Event-loop lag",
            "How late the event loop of each worker and of the reader ran a timer, at "
            "worst.",
            Unit.SECONDS,
            (
                Query(
                    highest(series("broker_loop_lag_seconds"), "worker"),
                    "worker {{worker}}",
                ),
                Query(highest(series("broker_reader_loop_lag_seconds")), "reader"),
            ),
            bad_above(0.1, 0.5),
        ),
        Panel(
            "Silence",
            "Time since the event loop of a worker last turned; at BROKER_HANG_S it is "
            "killed. And time since a worker heard the last probe, which comes every "
            "five seconds.",
            Unit.SECONDS,
            (
                Query(
                    highest(series("broker_worker_silent_seconds"), "worker"),
                    "worker {{worker}}, loop",
                ),
                Query(
                    highest(series("broker_probe_age_seconds"), "worker"),
                    "worker {{worker}}, probe",
                ),
            ),
            bad_above(15, 30),
        ),
        Panel(
            "Ring unread",
            "Bytes of the ring that a worker has yet to read, and the ring's size.",
            Unit.BYTES,
            (
                Query(
                    highest(series("broker_ring_unread_bytes"), "worker"),
                    "worker {{worker}}",
                ),
                Query(highest(series("broker_ring_bytes")), "size of the ring"),
            ),
        ),
        Panel(
            "Processes started again",
            "How many of its processes ended by themselves, or were killed because "
            "they hung or heard nothing, in the last hour.",
            Unit.COUNT,
            (
                Query(
                    total(
                        f"increase({series('broker_child_restarts_total')}[1h])", "role"
                    ),
                    "{{role}} started again",
                ),
                Query(
                    total(
                        f"increase({series('broker_child_hung_kills_total')}[1h])",
                        "role",
                    ),
                    "{{role}} hung",
                ),
                Query(
                    total(
                        f"increase({series('broker_child_deaf_kills_total')}[1h])",
                        "role",
                    ),
                    "{{role}} deaf",
                ),
            ),
            bad_above(1),
        ),
        Panel(
            "Events",
            "Entries read from Redis, and events written to its sockets.",
            Unit.PER_SECOND,
            (
                Query(total(rate("broker_events_read_total")), "read"),
                Query(total(rate("broker_events_delivered_total")), "delivered"),
            ),
        ),
        Panel(
            "Time to the client",
            "99th percentile of the stages of an event's way.",
            Unit.SECONDS,
            (
                Query(
                    quantile(0.99, "broker_stage_seconds", "stage"),
                    "{{stage}}, 99th percentile",
                ),
            ),
            bad_above(0.25, 1),
        ),
        Panel(
            "Version",
            "Always 1; the name says which version of the broker and of Python it is.",
            Unit.COUNT,
            (
                Query(
                    total(series("broker_build_info"), "version", "python"),
                    "{{version}} on Python {{python}}",
                ),
            ),
        ),
    ),
)

POD = Dashboard(
    "pod",
    "Broker: one pod",
    "The processes of one pod, and how near it is to its limits.",
    (_WELL, _LIMITS, _PROCESSES),
    is_one_pod=True,
)
