"""Sessions of users, and what clients and services say about them."""

from __future__ import annotations

from grafana.panel import Dashboard, Panel, Row, Unit, bad_above, bad_below, number
from grafana.query import Query, highest, lowest, rate, series, total

_SESSIONS = Row(
    "Who is here?",
    (
        number(
            "Sessions open",
            "Sessions with a connection, added up over workers: one that two of them "
            "serve counts twice.",
            Unit.COUNT,
            total(series("broker_sessions_open")),
            width=6,
        ),
        number(
            "Users connected",
            "Users with a connection, added up over workers.",
            Unit.COUNT,
            total(series("broker_users_connected")),
            width=6,
        ),
        number(
            "Sessions watched",
            "Sessions that the readers read, also those whose last client has just "
            "left.",
            Unit.COUNT,
            total(series("broker_sessions_watched")),
            width=6,
        ),
        number(
            "Control connections",
            "Part of the workers whose connection for sessions, commits and presence "
            "is in order. Without it sessions are not renewed, newcomers refused.",
            Unit.RATIO,
            total(series("broker_control_connection_up"))
            + " / clamp_min("
            + total(series("broker_workers_up"))
            + ", 1)",
            bad_below(1),
            width=6,
        ),
        Panel(
            "Sessions and users",
            "Sessions and users with a connection.",
            Unit.COUNT,
            (
                Query(total(series("broker_sessions_open"), "pod"), "{{pod}} sessions"),
                Query(total(series("broker_users_connected"), "pod"), "{{pod}} users"),
            ),
        ),
        Panel(
            "Sessions ended",
            "Sessions whose connections were ended: evicted by a newer one of the same "
            "user, or closed. A storm of evictions is mostly a client that opens "
            "sessions in a loop.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_sessions_ended_total"), "reason"), "{{reason}}"
                ),
            ),
            bad_above(5),
        ),
        Panel(
            "Lease renewals",
            "How the leases of open sessions were renewed. lost: somebody else had "
            "ended the session. failed: Redis did not answer.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_lease_renewals_total"), "result"), "{{result}}"
                ),
            ),
        ),
    ),
)

_COMMANDS = Row(
    "Are commands and positions stored?",
    (
        Panel(
            "Commands",
            "Commands of clients: stored in the command stream, or why not.",
            Unit.PER_SECOND,
            (Query(total(rate("broker_commands_total"), "result"), "{{result}}"),),
        ),
        Panel(
            "Command backlog",
            "Entries in the command stream. Services must trim what they have done: at "
            "BROKER_COMMAND_BACKLOG (100 000) commands are refused.",
            Unit.COUNT,
            (
                Query(highest(series("broker_command_backlog_entries")), "backlog"),
                Query(total(series("broker_commands_in_flight")), "in flight"),
            ),
            bad_above(50_000, 100_000),
        ),
        Panel(
            "Commits pending",
            "Consumers with a position that is not stored yet. Falls to zero within a "
            "second while Redis answers.",
            Unit.COUNT,
            (Query(total(series("broker_commits_pending"), "pod"), "{{pod}}"),),
        ),
    ),
)

_RIGHTS = Row(
    "Is anyone kept out?",
    (
        Panel(
            "Tokens refused",
            "Tokens and keys that proved nothing, by what was wrong. Many expired "
            "ones: clients do not refresh. signature, unknown_key: a wrong key, or an "
            "attack. unavailable: the key server cannot be reached.",
            Unit.PER_SECOND,
            (
                Query(
                    total(rate("broker_tokens_refused_total"), "reason"), "{{reason}}"
                ),
            ),
            bad_above(5),
            width=12,
        ),
        Panel(
            "Control connections by pod",
            "Workers whose connection for sessions, commits and presence is in order, "
            "and how many workers there are.",
            Unit.COUNT,
            (
                Query(lowest(series("broker_control_connection_up"), "pod"), "{{pod}}"),
                Query(lowest(series("broker_workers_up"), "pod"), "{{pod}} workers"),
            ),
            width=12,
        ),
    ),
)

SESSIONS = Dashboard(
    "sessions",
    "Broker: sessions and evictions",
    "Sessions of users, their ends, and the commands that come from them.",
    (_SESSIONS, _COMMANDS, _RIGHTS),
)
