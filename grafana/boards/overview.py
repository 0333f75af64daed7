"""Is it well, and is anyone losing events?"""

from __future__ import annotations

from grafana.panel import Dashboard, Panel, Row, Unit, bad_above, bad_below, number
from grafana.query import Query, highest, lowest, quantile, rate, series, total

_WELL = Row(
    "Is it well?",
    (
        number(
            "Pods ready",
            "Pods that let clients in. Below the number that you run, look at the "
            "dashboard of one pod and at /readyz, which says why.",
            Unit.COUNT,
            total(series("broker_ready")),
            bad_below(1),
        ),
        number(
            "Pods that answer",
            "Pods whose last scrape succeeded. All numbers here are of these only.",
            Unit.COUNT,
            total(series("up")),
            bad_below(1),
        ),
        number(
            "Redis in reach",
            "Whether the reader of every pod has its connection to Redis. Without it "
            "sockets stay, newcomers are refused and no event comes.",
            Unit.YES_NO,
            lowest(series("broker_redis_up")),
            bad_below(1),
        ),
        number(
            "Deaf workers",
            "Workers that live but have not heard the probe, an event that the broker "
            "sends to itself through Redis. Their clients get nothing.",
            Unit.COUNT,
            total(series("broker_workers_deaf")),
            bad_above(1, 1),
        ),
        number(
            "Connections",
            "Client connections that are open now.",
            Unit.COUNT,
            total(series("broker_connections_open")),
        ),
        number(
            "Alerts firing",
            "Of the rules in deploy/prometheus. Each is explained in "
            "deploy/OPERATIONS.md.",
            Unit.COUNT,
            'count(ALERTS{alertname=~"Broker.+",alertstate="firing"}) or vector(0)',
            bad_above(1),
        ),
    ),
)

_LOSING = Row(
    "Is anyone losing events?",
    (
        Panel(
            "Lost for everybody",
            "Entries that retention took from a watched stream before the broker read "
            "them: the stream is too short, or Redis or the reader too slow. Should "
            "be zero.",
            Unit.PER_SECOND,
            (
                Query(total(rate("broker_gap_entries_total")), "trimmed unread"),
                Query(total(rate("broker_resets_total")), "streams begun anew"),
            ),
            bad_above(0.01),
        ),
        Panel(
            "Lost for some",
            "Entries that a client asked for and did not get, and was told so: it "
            "came back, or caught up, after retention had taken them.",
            Unit.PER_SECOND,
            (
                Query(
                    total(
                        rate("broker_events_lost_total", reason="trimmed|reset"),
                        "reason",
                    ),
                    "{{reason}}",
                ),
                Query(total(rate("broker_gaps_unknown_total")), "gaps of unknown size"),
            ),
            bad_above(1),
        ),
        Panel(
            "Left out as asked",
            "Entries left out because of what the client chose: overflow=latest "
            "(conflated), overflow=drop (dropped), or a replay without what was "
            "transient. Nothing is wrong, but many slow sockets may be.",
            Unit.PER_SECOND,
            (
                Query(
                    total(
                        rate(
                            "broker_events_lost_total",
                            reason="conflated|dropped|transient",
                        ),
                        "reason",
                    ),
                    "{{reason}}",
                ),
            ),
        ),
        Panel(
            "Entries skipped",
            "Entries that break the publishing contract. Clients are told that there "
            "was one; the publisher has a fault.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_events_skipped_total"), "reason"), "{{reason}}"
                ),
            ),
            bad_above(0.01),
        ),
        Panel(
            "Clients refused",
            "Requests that did not become a connection. accept_rate, memory, "
            "too_many_connections and unavailable are the broker's fault, the others "
            "the client's.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_upgrades_refused_total"), "reason"), "{{reason}}"
                ),
            ),
        ),
        Panel(
            "Commands not stored",
            "Commands of clients that no service will see, by reason.",
            Unit.PER_SECOND,
            (
                Query(
                    total(
                        rate(
                            "broker_commands_total",
                            result="rate_limited|overloaded|unavailable|id_reused"
                            "|too_large",
                        ),
                        "result",
                    ),
                    "{{result}}",
                ),
            ),
            bad_above(1),
        ),
    ),
)

_MUCH = Row(
    "How much and how fast?",
    (
        Panel(
            "Events",
            "Entries read from Redis, and events written to sockets: one entry to ten "
            "sockets counts ten.",
            Unit.PER_SECOND,
            (
                Query(total(rate("broker_events_read_total")), "read"),
                Query(total(rate("broker_events_delivered_total")), "delivered"),
            ),
        ),
        Panel(
            "Time to the client",
            "99th percentile of the two stages of an event's way: from the time in its "
            "id until the reader has it, from there until the socket has it. The "
            "first contains the difference between the clocks of Redis and pod.",
            Unit.SECONDS,
            (
                Query(
                    quantile(0.99, "broker_stage_seconds", "stage"),
                    "{{stage}}, 99th percentile",
                ),
                Query(quantile(0.99, "broker_probe_seconds"), "probe, 99th percentile"),
            ),
            bad_above(0.25, 1),
        ),
        Panel(
            "Entries behind",
            "Entries that subscriptions have yet to be sent: replaying ones asked for "
            "the past, lagging ones have a slow socket. Growing for long means that "
            "clients cannot keep up.",
            Unit.COUNT,
            (
                Query(
                    total(series("broker_queue_depth_entries"), "state"), "{{state}}"
                ),
                Query(
                    highest(series("broker_queue_depth_max_entries")), "furthest behind"
                ),
            ),
        ),
    ),
)

OVERVIEW = Dashboard(
    "overview",
    "Broker: overview",
    "Is it well, and is anyone losing events? Begin here.",
    (_WELL, _LOSING, _MUCH),
)
