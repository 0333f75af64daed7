"""How clients come, keep up, come back and leave."""

from __future__ import annotations

from grafana.panel import Dashboard, Panel, Row, Unit, bad_above
from grafana.query import Query, highest, quantiles, rate, series, total

_COME = Row(
    "Who comes and goes?",
    (
        Panel(
            "Connections",
            "Open connections by protocol.",
            Unit.COUNT,
            (
                Query(
                    total(
                        series("broker_connections_open", protocol="$protocol"),
                        "protocol",
                    ),
                    "{{protocol}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Accepted",
            "New connections. A wave right after a deployment is clients coming back; "
            "it should be over within BROKER_DRAIN_S.",
            Unit.PER_SECOND,
            (
                Query(
                    total(
                        rate("broker_connections_opened_total", protocol="$protocol"),
                        "protocol",
                    ),
                    "{{protocol}}",
                ),
            ),
        ),
        Panel(
            "Closed",
            "Ended connections by reason. lost: the peer vanished. slow, no_progress "
            "and no_pong: the network or the client stands still. internal: a fault of "
            "the broker, see its log.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_connections_closed_total"), "code"), "{{code}}"
                ),
            ),
        ),
        Panel(
            "Refused",
            "Requests that did not become a connection, by reason.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_upgrades_refused_total"), "reason"), "{{reason}}"
                ),
            ),
        ),
        Panel(
            "Frames from clients",
            "Text frames that clients sent.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_client_frames_total"), "pod"), "{{pod}}"),),
        ),
        Panel(
            "Errors told to clients",
            "Frames of clients that were answered with an error, by its code. A client "
            "with a hundred of them is closed.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_client_errors_total"), "code"), "{{code}}"),),
        ),
    ),
)

_LAG = Row(
    "Who is behind?",
    (
        Panel(
            "Entries behind",
            "Entries that subscriptions have yet to be sent. `broker top` names those "
            "furthest behind.",
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
        Panel(
            "Bytes behind",
            "Estimate of the same in bytes: entries times the mean size of the "
            "session's entries. Nothing of it lies in memory.",
            Unit.BYTES,
            (Query(total(series("broker_queue_depth_bytes"), "pod"), "{{pod}}"),),
        ),
        Panel(
            "Subscriptions behind",
            "How many subscriptions are more than so many entries behind.",
            Unit.COUNT,
            (
                Query(
                    total(series("broker_queue_depth_subscriptions"), "entries_over"),
                    "more than {{entries_over}}",
                ),
            ),
        ),
        Panel(
            "Left out",
            "Entries announced to clients as not delivered, by reason. trimmed: "
            "retention was faster. The others are what the client asked for.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_events_lost_total"), "reason"), "{{reason}}"),),
        ),
        Panel(
            "Gaps of unknown size",
            "Gaps whose size nobody can know: mostly clients that resume with an id "
            "without its ordinal.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_gaps_unknown_total"), "pod"), "{{pod}}"),),
        ),
        Panel(
            "Write buffers",
            "Bytes in the write buffers of sockets.",
            Unit.BYTES,
            (Query(total(series("broker_write_buffer_bytes"), "pod"), "{{pod}}"),),
        ),
    ),
)

_RESUME = Row(
    "Do they come back well?",
    (
        Panel(
            "Subscriptions begun",
            "complete: all since the position follows. gap: something is gone. reset: "
            "the position is of another history. live: nothing earlier was asked for.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_resumes_total"), "result"), "{{result}}"),),
        ),
        Panel(
            "Where replays come from",
            "Events sent to subscriptions that were not at the tip. From the ring they "
            "cost Redis nothing; a larger BROKER_RING_BYTES makes that the rule.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_events_replayed_total"), "source"),
                    "from {{source}}",
                ),
                Query(total(rate("broker_replay_reads_total")), "pages read in Redis"),
            ),
        ),
        Panel(
            "Time until live",
            "From the begin of a subscription until it was at the tip.",
            Unit.SECONDS,
            quantiles("broker_replay_seconds"),
            bad_above(1, 10),
        ),
        Panel(
            "Sources of resumes",
            "What served the begin of subscriptions.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_resumes_total"), "source"), "{{source}}"),),
            width=12,
        ),
        Panel(
            "Subscriptions",
            "By state.",
            Unit.COUNT,
            (Query(total(series("broker_subscriptions_open"), "state"), "{{state}}"),),
            is_stacked=True,
            width=12,
        ),
    ),
)

CLIENTS = Dashboard(
    "clients",
    "Broker: clients",
    "How clients come, keep up, come back and leave.",
    (_COME, _LAG, _RESUME),
)
