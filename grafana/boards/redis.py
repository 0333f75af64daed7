"""Redis as the broker sees it, and the reader."""

from __future__ import annotations

from grafana.panel import Dashboard, Panel, Row, Unit, bad_above, bad_below, number
from grafana.query import Query, highest, lowest, quantiles, rate, series, share, total

_WELL = Row(
    "Is Redis well?",
    (
        number(
            "In reach",
            "Whether the reader of every pod has its connection.",
            Unit.YES_NO,
            lowest(series("broker_redis_up")),
            bad_below(1),
            width=6,
        ),
        number(
            "Rings for changes",
            "Whether every reader that should be is told of changes (CLIENT TRACKING). "
            "Else it blocks in reads, which costs more connections and time.",
            Unit.YES_NO,
            lowest(
                "(1 - clamp_min("
                + series("broker_redis_tracking_wanted")
                + " - "
                + series("broker_redis_tracking")
                + ", 0))"
            ),
            bad_below(1),
            width=6,
        ),
        number(
            "Tracking table",
            "How full the tracking table of the Redis server is. When it is full Redis "
            "forgets keys and rings for them without a change: raise "
            "tracking-table-max-keys.",
            Unit.RATIO,
            highest(
                series("broker_tracking_keys")
                + " / clamp_min("
                + series("broker_tracking_keys_limit")
                + ", 1)"
            ),
            bad_above(0.8, 0.95),
            width=6,
        ),
        number(
            "Sessions in quarantine",
            "Watched sessions that cannot be read and are tried only by the sweep: the "
            "key holds something else, or reading it fails.",
            Unit.COUNT,
            total(series("broker_sessions_quarantined")),
            bad_above(1),
            width=6,
        ),
        Panel(
            "Commands",
            "Commands sent to Redis, by who sent them.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_redis_commands_total"), "role"), "{{role}}"),),
        ),
        Panel(
            "Connected again",
            "Times per second that a connection to Redis was opened again.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_redis_reconnects_total"), "role"), "{{role}}"),),
            bad_above(0.1),
        ),
        Panel(
            "Reads that failed",
            "Reads that Redis refused or did not answer. wrongtype: a key holds no "
            "stream. busy: a script runs. timeout: Redis or the network stands still.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_read_errors_total"), "kind"), "{{kind}}"),),
            bad_above(0.1),
        ),
    ),
)

_READER = Row(
    "Does the reader keep up?",
    (
        Panel(
            "Entries per read",
            "How many entries one read brings, on average. Grows with the load: that "
            "is how the reader keeps up.",
            Unit.COUNT,
            (
                Query(
                    share(
                        total(rate("broker_events_read_total"), "pod"),
                        total(rate("broker_reads_total"), "pod"),
                    ),
                    "{{pod}}",
                ),
            ),
        ),
        Panel(
            "Reads and rings",
            "Reads sent to Redis, rings that Redis pushed, and reads in which there "
            "was nothing new.",
            Unit.PER_SECOND,
            (
                Query(total(rate("broker_reads_total")), "reads"),
                Query(total(rate("broker_doorbell_rings_total")), "rings"),
                Query(total(rate("broker_doorbell_empty_reads_total")), "empty reads"),
            ),
        ),
        Panel(
            "Redis to reader",
            "From the time in an entry's id until the reader has it.",
            Unit.SECONDS,
            quantiles("broker_stage_seconds", stage="redis_to_reader"),
            bad_above(0.25, 1),
        ),
        Panel(
            "Missed rings",
            "Entries that only the sweep found: no ring announced them, so they came "
            "up to BROKER_SWEEP_S late. Should be zero.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_doorbell_missed_total"), "pod"), "{{pod}}"),),
            bad_above(0.01),
        ),
        Panel(
            "Reader event-loop lag",
            "How late the reader's event loop ran a timer, at worst.",
            Unit.SECONDS,
            (
                Query(
                    highest(series("broker_reader_loop_lag_seconds"), "pod"), "{{pod}}"
                ),
            ),
            bad_above(0.1, 0.5),
        ),
        Panel(
            "Reader held back",
            "Part of the time in which it waited for slow workers.",
            Unit.RATIO,
            (Query(total(rate("broker_read_paused_seconds_total"), "pod"), "{{pod}}"),),
            bad_above(0.1, 0.5),
        ),
    ),
)

_STREAMS = Row(
    "Are the streams well?",
    (
        Panel(
            "Trimmed unread",
            "Entries that retention removed before they were read: lost for everybody.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_gap_entries_total"), "pod"), "{{pod}}"),),
            bad_above(0.01),
        ),
        Panel(
            "Streams begun anew",
            "Watched streams that turned out to be another one than before: deleted, "
            "or lost in a failover.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_resets_total"), "pod"), "{{pod}}"),),
            bad_above(0.01),
        ),
        Panel(
            "Entries with a fault",
            "Entries that break the publishing contract, by reason, and those whose id "
            "lies beyond the year 9999.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_events_skipped_total"), "reason"), "{{reason}}"
                ),
                Query(total(rate("broker_odd_ids_total")), "odd id"),
            ),
            bad_above(0.01),
        ),
        Panel(
            "Tracking table",
            "Keys, and pairs of key and client, in the table of the Redis server, "
            "against its limit.",
            Unit.COUNT,
            (
                Query(highest(series("broker_tracking_keys")), "keys"),
                Query(highest(series("broker_tracking_items")), "keys and clients"),
                Query(highest(series("broker_tracking_keys_limit")), "limit of keys"),
            ),
            width=12,
        ),
        Panel(
            "Sessions watched",
            "Streams that the reader of each pod reads.",
            Unit.COUNT,
            (Query(total(series("broker_sessions_watched"), "pod"), "{{pod}}"),),
            width=12,
        ),
    ),
)

REDIS = Dashboard(
    "redis",
    "Broker: Redis and reader",
    "Redis as the broker sees it, and whether the reader keeps up with it.",
    (_WELL, _READER, _STREAMS),
)
